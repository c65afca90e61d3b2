"""The table of features that a model keeps: of what its files can hold."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed
from scgm_scvi.model._log import logger
from scgm_scvi.model.requests._names import is_writable_name, named_index

__all__ = ["held_table"]

_WHOLE = {
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
    "boolean",
}
"""Pandas' dtypes with missing values that h5ad knows."""
_TEXT = pd.Index(["text"]).dtype  # of strings, which differs between versions of pandas


def held_table(table: pd.DataFrame, name: str = "adata.var") -> pd.DataFrame:
    """A copy of a table, of columns that saved models, exports and files of cells can hold.

    Those are numbers, booleans and strings, their categories, and integers and booleans with
    missing values. What is neither but has a text (intervals, periods, dates, values of several
    kinds) becomes that text; what has none (lists, arrays) is left out, and that is logged. So are
    columns whose names files can't hold and that can't be renamed.

    Parameters
    ----------
    table
        Of features.
    name
        What the log calls it.

    Examples
    --------
    >>> table = pd.DataFrame({"bin": pd.cut([1, 9], [0, 5, 10]), "n": [1, 2]}, index=["a", "b"])
    >>> held_table(table)["bin"].tolist()
    ['(0, 5]', '(5, 10]']
    """
    columns, names, lost = [], [], []
    own = set(table.columns)
    for i, label in enumerate(table.columns):
        renamed = _renamed(label)
        is_free = renamed not in names and (renamed == label or renamed not in own)
        column = _held(table.iloc[:, i]) if is_free and is_writable_name(renamed) else None
        if column is None:
            lost.append(label)
        else:
            columns.append(column)
            names.append(renamed)
    if lost:
        logger.warning(
            "%s: the model leaves out %d columns that files can't hold, for their names or for what "
            "they hold: %s.",
            *(name, len(lost), listed(lost)),
        )
    index = named_index(_plain_index(table.index), names)
    held = pd.DataFrame({i: c.array for i, c in enumerate(columns)}, index=index)
    held.columns = table.columns if names == list(table.columns) else pd.Index(names, dtype=_TEXT)
    return held


def _renamed(label: object) -> str:
    return str(label).replace("/", "_")


def _plain_index(index: pd.Index) -> pd.Index:
    if index.dtype in (object, _TEXT) and not isinstance(index, pd.MultiIndex):
        return index
    return pd.Index([str(v) for v in index], name=index.name)


def _held(column: pd.Series) -> pd.Series | None:
    """The column as files can hold it, or ``None``."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _held_categories(column)
    if dtype.name in _WHOLE:
        return column
    if isinstance(dtype, np.dtype) and dtype.kind in "biufc":
        is_known = dtype.itemsize <= (16 if dtype.kind == "c" else 8)
        return column if is_known else column.astype(np.dtype("c16" if dtype.kind == "c" else "f8"))
    return _held_objects(column)


def _held_objects(column: pd.Series) -> pd.Series | None:
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "empty":
        return pd.Series(np.nan, index=column.index)
    if kind == "boolean":
        return column.astype("boolean" if column.isna().any() else bool)
    if kind in ("integer", "floating", "mixed-integer-float"):
        numbers = pd.to_numeric(column.astype(object))
        if numbers.dtype.kind in "iuf":  # not where they are too large
            return numbers
    missing = column.isna().to_numpy()
    values = column.astype(object).to_numpy()
    if not all(pd.api.types.is_scalar(v) for v in values):
        return None
    if missing.any():  # strings with gaps are written as categories, if at all
        text = [None if m else str(v) for v, m in zip(values, missing, strict=True)]
        return pd.Series(pd.Categorical(text), index=column.index)
    if kind == "string" and column.dtype in (object, _TEXT):
        return column
    return pd.Series([str(v) for v in values], index=column.index, dtype=_TEXT)


def _held_categories(column: pd.Series) -> pd.Series | None:
    known = pd.Series(column.cat.categories)
    held = _held(known)
    if held is None or held is known and held.dtype.name not in _WHOLE:
        return None if held is None else column
    held = pd.Index(held.to_numpy())
    merged = held.unique()  # 1 and "1" have one text
    codes = np.append(merged.get_indexer(held), -1)[column.cat.codes]
    made = pd.Categorical.from_codes(codes, categories=merged, ordered=column.cat.ordered)
    return pd.Series(made, index=column.index)
