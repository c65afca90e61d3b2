"""Columns of a file's authors, kept as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scgm_scvi._errors import listed, nearest

__all__ = ["kept_columns"]


def kept_columns(
    obs: pd.DataFrame, required: Sequence[str], optional: Sequence[str] = ()
) -> pd.DataFrame:
    """Some columns, in the authors' own words; text that is empty is missing.

    Parameters
    ----------
    obs
        A row a cell, as a file has it.
    required
        Columns that must be there.
    optional
        Columns that are kept if they are there.

    Returns
    -------
    Those columns, each once: numbers as numbers, missing ones NaN.

    Raises
    ------
    KeyError
        If a required one is not there; the message names those that are, and the nearest.

    Examples
    --------
    >>> obs = pd.DataFrame({"dose": [0.5, None], "drug": ["JQ1", ""], "batch": [1, 2]})
    >>> kept = kept_columns(obs, ["drug"], ["dose", "plate"])
    >>> kept["drug"].isna().to_list(), kept["dose"].to_list()
    ([False, True], [0.5, nan])
    """
    for name in required:
        if name not in obs:
            raise KeyError(
                f"keep: {name!r} is no column of its files, which have {listed(obs.columns, 20)}."
                f"{nearest(name, obs.columns)}"
            )
    names = dict.fromkeys([*required, *(c for c in optional if c in obs)])
    return pd.DataFrame({c: _without_empty(obs[c]) for c in names}, obs.index)


def _without_empty(values: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.where(values.astype(str).str.strip() != "")
