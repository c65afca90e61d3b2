"""Rows of cells as users pass them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed

__all__ = ["chosen_rows"]


def chosen_rows(indices: Any, names: pd.Index) -> np.ndarray:
    """Rows as whole numbers, in the order asked for.

    Parameters
    ----------
    indices
        Rows, or whether each cell is one; ``None``: all.
    names
        Of the cells.

    Raises
    ------
    TypeError
        If rows are no whole numbers.
    IndexError
        If there is no such row, or truth values are not one a cell.
    ValueError
        If a Series of truth values is of other cells, or of these in another order.

    Examples
    --------
    >>> chosen_rows([True, False, True], pd.Index(["a", "b", "c"]))
    array([0, 2])
    """
    n = len(names)
    if indices is None or isinstance(indices, slice):
        return np.arange(n)[slice(None) if indices is None else indices]
    rows = np.asarray(indices)
    if rows.ndim != 1:
        raise TypeError(f"indices is {indices!r}; pass a list of rows, or a truth value a cell.")
    if rows.dtype.kind == "O" and pd.api.types.is_bool_dtype(pd.array(rows)):
        rows = rows.astype(bool)  # of a nullable column
    if rows.dtype == bool:
        if len(rows) != n:
            raise IndexError(
                f"indices holds {len(rows)} truth values for {n} cells; give one each."
            )
        if isinstance(indices, pd.Series) and not _is_of(indices.index, names):
            raise ValueError(
                f"indices is a Series of {listed(indices.index, 3)}, and the cells are "
                f"{listed(names, 3)}. Bring it to their order: indices.loc[adata.obs_names]."
            )
        return np.flatnonzero(rows)
    if not len(rows):
        return np.arange(0)
    if rows.dtype.kind not in "iu":
        what = "names" if rows.dtype.kind in "OUT" else f"values of dtype {rows.dtype}"
        raise TypeError(
            f"indices holds {what} ({listed(rows, 3)}), and rows are whole numbers, from 0. Those "
            "of names: adata.obs_names.get_indexer(names)."
        )
    wrong = rows[(rows < -n) | (rows >= n)]
    if len(wrong):
        raise IndexError(
            f"indices holds {listed(wrong, 3)}, and there are {n} cells: 0 to {n - 1}."
        )
    return rows


def _is_of(index: pd.Index, names: pd.Index) -> bool:
    return index.equals(names) or index.equals(pd.RangeIndex(len(names)))
