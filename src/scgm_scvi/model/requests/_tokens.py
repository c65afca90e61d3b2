"""Categories of a column as tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, shown

__all__ = ["condition_tokens", "without_unspecified"]


def condition_tokens(
    column: pd.Series, categories: np.ndarray, name: str, unspecified: Any = None
) -> np.ndarray:
    """Tokens of a column: 0 where missing, ``i + 1`` for ``categories[i]``; int64 ``(n,)``.

    Parameters
    ----------
    unspecified
        A value that counts as missing.

    Raises
    ------
    ValueError
        If a value is not among the categories.
    """
    column = without_unspecified(column, unspecified)
    codes = pd.Index(categories).get_indexer(column)
    if column.dtype == object:  # to which 1 is True
        of_codes = np.append(_are_booleans(categories), False)[codes]
        codes = np.where(_are_booleans(column) == of_codes, codes, -1)
    unknown = (codes < 0) & column.notna().to_numpy()
    if unknown.any():
        value = column.to_numpy()[unknown][0]
        raise ValueError(
            f"{shown(value)} is not a known category of {name!r}. Known: {listed(categories)}."
            f"{nearest(value, categories)} Leave {name!r} out, or give a missing value, for "
            "'unspecified'."
        )
    return codes.astype(np.int64) + 1


def without_unspecified(column: pd.Series, unspecified: Any) -> pd.Series:
    """The column with a value of it missing; categories keep their order, and their type."""
    if unspecified is None:
        return column
    hit = (column == unspecified).to_numpy()
    if not hit.any():
        return column
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = [c for c in column.cat.categories if c != unspecified]
        return column.cat.set_categories(known)  # to remove one would sort the others
    return column.astype(object).mask(hit, np.nan)


def _are_booleans(values: Iterable[Any]) -> np.ndarray:
    return np.array([isinstance(v, bool | np.bool_) for v in values], dtype=bool)
