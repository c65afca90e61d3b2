"""Tables of conditions as users pass them: a value for all cells, or one for each, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, shown, whole_number

__all__ = ["Conditions", "read_table", "require_known", "row_names", "rows_of"]

Conditions: TypeAlias = Mapping[str, Any] | pd.DataFrame | None


def read_table(
    known: Sequence[str],
    n_cells: int | None,
    conditions: Conditions,
    cells: pd.Index | None = None,
) -> tuple[dict[str, list | np.ndarray], int, pd.Index | None]:
    """One sequence of equal length for each attribute, that length, and the names of the cells.

    Parameters
    ----------
    known
        Attributes that there are.
    n_cells
        How many cells; ``None`` where ``conditions`` or ``cells`` say so.
    cells
        Names of cells, whose order the sequences get. Without them a table names new cells.
    """
    if cells is not None:
        n_cells = len(cells)
    elif n_cells is not None:
        n_cells = whole_number(n_cells, "n_cells")
    conditions = {} if conditions is None else conditions
    if not isinstance(conditions, Mapping | pd.DataFrame):
        raise TypeError(
            f"conditions is a {type(conditions).__name__}; pass a dict of attribute to value, or "
            "a DataFrame with a row a cell."
        )
    if isinstance(conditions, pd.DataFrame) and not conditions.columns.is_unique:
        twice = conditions.columns[conditions.columns.duplicated()].unique()
        raise ValueError(f"conditions has more than one column {listed(twice)}; leave one of each.")
    for name in conditions:
        require_known(name, known, "conditions")
    columns = {k: _single(v, k) for k, v in conditions.items()}
    lengths = {k: len(v) for k, v in columns.items() if not _is_scalar(v)}
    if isinstance(conditions, pd.DataFrame):
        lengths["the DataFrame"] = len(conditions)
    n = next(iter(lengths.values()), None) if n_cells is None else n_cells
    if n is None:
        raise ValueError("n_cells is missing: say how many cells to generate.")
    for name, length in lengths.items():
        if length != n:
            raise ValueError(
                f"conditions: {name} has {length} values for {n} cells. Give one value for all, "
                "or one per cell."
            )
    if n == 0 and cells is None:
        raise ValueError(
            f"conditions: {next(iter(lengths))} has no rows, so no cell is asked for; give at "
            "least one."
        )
    for index in _indexes(conditions).values():
        if isinstance(index, pd.MultiIndex):
            raise ValueError(
                "conditions has an index of several levels, which names no cells; call its "
                "reset_index()."
            )
    rows = _rows(conditions, cells)
    table = {k: [v] * n if _is_scalar(v) else _objects(v)[rows[k]] for k, v in columns.items()}
    return table, n, cells if cells is not None else _new_names(conditions)


def require_known(name: Any, known: Sequence[str], argument: str) -> None:
    """Raise ``KeyError`` unless the attribute is one of those that the argument takes."""
    if name not in known:
        raise KeyError(
            f"{argument}: the model knows no attribute {shown(name)}."
            f"{nearest(name, known)} Known: {listed(known)}."
        )


def rows_of(conditions: Any) -> int | None:
    """How many cells conditions are for, where they tell."""
    if isinstance(conditions, pd.DataFrame):
        return len(conditions)
    values = conditions.values() if isinstance(conditions, Mapping) else ()
    return next((len(v) for v in values if not _is_scalar(v) and np.ndim(v)), None)


def row_names(conditions: Any) -> pd.Index | None:
    """Names of the cells that a table, or a Series in a dict, is of; ``None`` where it has none."""
    return next((i for i in _indexes(conditions).values() if not _is_plain(i)), None)


def _is_scalar(value: Any) -> bool:
    has_rows = getattr(value, "ndim", 0) > 0  # a tensor counts as a number to pandas
    return value is None or (not has_rows and bool(pd.api.types.is_scalar(value)))


def _single(value: Any, name: str) -> Any:
    """A value for all cells, or a sequence of values; an array without dimensions is a value."""
    if getattr(value, "ndim", 1) == 0 and not isinstance(value, np.generic):
        return value.item()
    if _is_scalar(value):
        return value
    is_list = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if is_list and not isinstance(value, Mapping) and getattr(value, "ndim", 1) == 1:
        return value
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    raise TypeError(
        f"conditions: {name!r} is a {type(value).__name__}{shape}; give one value for all cells, "
        "or a list with one a cell."
    )


def _indexes(conditions: Any) -> dict[str, pd.Index]:
    """The index of each column that has one."""
    if isinstance(conditions, pd.DataFrame):
        return dict.fromkeys(conditions.columns, conditions.index)
    values = conditions if isinstance(conditions, Mapping) else {}
    return {k: v.index for k, v in values.items() if isinstance(v, pd.Series)}


def _is_plain(index: pd.Index) -> bool:
    """Whether it counts the rows and names none."""
    return pd.api.types.is_integer_dtype(index.dtype) and bool(
        (np.asarray(index) == np.arange(len(index))).all()
    )


def _rows(
    conditions: Mapping[str, Any] | pd.DataFrame, cells: pd.Index | None
) -> dict[str, np.ndarray | slice]:
    """Of each column, the row of each cell: by name where it has names, else by position."""
    indexes = _indexes(conditions)
    names = row_names(conditions) if cells is None else cells
    what = "the other columns" if cells is None else "the cells"
    rows: dict[str, np.ndarray | slice] = dict.fromkeys(conditions, slice(None))
    if names is None or (isinstance(conditions, pd.DataFrame) and cells is None):
        return rows
    for name, index in indexes.items():
        if _is_plain(index) or index.equals(names):
            continue
        order = index.get_indexer(names) if index.is_unique else np.array([-1])
        if not names.is_unique or (order < 0).any():
            place = "its index" if isinstance(conditions, pd.DataFrame) else f"that of {name!r}"
            raise ValueError(
                f"conditions: {place} does not name {what}: {_difference(index, names)}. Give "
                "it their names, adata.obs_names (.set_axis), or leave it without names, in their "
                "order (.to_numpy())."
            )
        rows[name] = order
    return rows


def _difference(index: pd.Index, names: pd.Index) -> str:
    for which, of in ((index, "it"), (names, "they")):
        if not which.is_unique:
            twice = which[which.duplicated()].unique()
            return f"{of} hold{'s' if of == 'it' else ''} {listed(twice, 3)} more than once"
    strange = index[~index.isin(names)]
    return f"it holds {listed(strange, 3)}, where they are {listed(names, 3)}"


def _new_names(conditions: Conditions) -> pd.Index | None:
    """Names that a table gives to new cells."""
    if not isinstance(conditions, pd.DataFrame):
        return None
    names = conditions.index.astype(str)
    return names if names.is_unique else None


def _objects(values: Any) -> np.ndarray:
    """One object a row, whatever a row holds."""
    out = np.asarray(values, dtype=object)
    if out.ndim != 1:  # rows are lists
        out = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            out[i] = value
    return out
