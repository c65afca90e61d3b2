"""Columns that name perturbations: read, and what of their sets training cells received."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest
from scgm_scvi._perturbation_sets import parts_of

__all__ = ["names_of", "require_control", "seen_parts"]


def names_of(column: pd.Series, argument: str) -> np.ndarray:
    """The column's values as strings; missing ones are refused."""
    if column.isna().any():
        raise ValueError(
            f"{argument}: {column.name!r} is missing for {int(column.isna().sum())} cells: name "
            "what was done to them, or leave them out."
        )
    return np.array([str(v) for v in column], dtype=object)


def require_control(names: np.ndarray, control_value: str, place: str) -> None:
    """Refuse a value for control cells that no cell has."""
    known = np.unique(names.astype(str))
    if control_value not in known:
        raise ValueError(
            f"control_value: {control_value!r} is not a value of {place}."
            f"{nearest(control_value, known)} Known: {listed(known)}."
        )


def seen_parts(
    names: Iterable[str], split: Iterable[str], *, control_value: str, separator: str = "+"
) -> np.ndarray:
    """Count, for each cell, the parts of its perturbation that training cells received.

    Of a double it is 0, 1 or 2, as papers report them. In whichever set a part was given counts.

    Parameters
    ----------
    names
        Perturbation of each cell.
    split
        ``"train"`` for cells that are trained on, anything else for the others: what
        :func:`~scgm_scvi.metrics.holdout` returns.
    control_value
        Name of control cells, which is no part of a set.
    separator
        Between the parts of a set.

    Examples
    --------
    >>> from scgm_scvi.metrics import seen_parts
    >>> seen_parts(["A", "B", "A+B"], ["train", "test", "test"], control_value="control")
    array([1, 0, 1])
    """
    parts = [parts_of(str(n), control_value, separator) for n in names]
    seen = {p for of, s in zip(parts, split, strict=True) if s == "train" for p in of}
    return np.array([len(seen.intersection(of)) for of in parts], dtype=int)
