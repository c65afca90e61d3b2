"""What predict is asked for: names of perturbations, and their doses."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest
from scgm_scvi._perturbations import Parts, Perturbations, require_dose
from scgm_scvi.model.prior._response_model import ResponseModel

__all__ = ["Asked", "read_asked"]


class Asked(NamedTuple):
    """A perturbation that is asked for: its name as it was given, its parts, and the dose."""

    name: str
    parts: Parts
    dose: float

    @property
    def key(self) -> int:
        """A number that goes by what is asked, not by how it is written or where in the list."""
        return zlib.crc32("\0".join([*self.parts, repr(self.dose)]).encode())


def read_asked(
    given: Any, dose: Any, perturbations: Perturbations, model: ResponseModel, had: Collection[str]
) -> list[Asked]:
    """Read names, or a table of names and doses.

    Parameters
    ----------
    dose
        Of all. ``None``: what the table has, or else the largest that was seen.
    had
        What training cells had, learnt from or not.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a name is not known, a dose makes no sense, something is asked for twice, or a table has
        what is not read.
    """
    if dose is not None:
        require_dose(dose)
        if perturbations.dose_key is None:
            raise ValueError(f"dose is {dose!r}, and the model was set up without a dose_key.")
    usual = model.likeness.curve.doses[-1] if dose is None else float(dose)
    if isinstance(given, pd.DataFrame):
        names, doses = _of_table(given, dose, perturbations, usual)
    else:
        names = _listed_names(given)
        doses = [usual] * len(names)
    if not names:
        raise ValueError("perturbations is empty; name at least one.")
    parts = perturbations.require_known(names, model.singles, had)
    asked = [
        Asked(str(name), own, amount if own else 0.0)  # of the control there is no dose
        for name, own, amount in zip(names, parts, doses, strict=True)
    ]
    groups = [(a.parts, a.dose) for a in asked]
    if len(set(groups)) < len(groups):
        twice = [a.name for a, g in zip(asked, groups, strict=True) if groups.count(g) > 1]
        raise ValueError(f"perturbations names {listed(twice, 3)} more than once.")
    return asked


def _listed_names(given: Any) -> list[Any]:
    if isinstance(given, np.ndarray) and not given.ndim:
        given = given.item()
    if isinstance(given, str):
        return [given]
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(
            f"perturbations is {given!r}; pass a name, a list of names, or a DataFrame with a row "
            "for each prediction."
        )
    return list(given)


def _of_table(
    table: pd.DataFrame, dose: Any, perturbations: Perturbations, usual: float
) -> tuple[list[Any], list[float]]:
    key, dose_key = perturbations.key, perturbations.dose_key
    twice = table.columns[table.columns.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"perturbations has more than one column {listed(twice, 3)}: keep one of each."
        )
    if key not in table:
        raise KeyError(
            f"perturbations has no column {key!r}."
            f"{nearest(key, table.columns)} Columns: {listed(table.columns)}."
        )
    further = [c for c in table if c not in (key, dose_key)]
    if further:
        read = [key] if dose_key is None else [key, dose_key]
        raise ValueError(
            f"perturbations has the columns {listed(further, 5)}, which are not read: perturbations "
            "are predicted of all the control cells that are passed. Pass those of one context at a "
            f"time, adata[adata.obs[{further[0]!r}] == ...], or leave the columns out, table[{read}]."
        )
    names = table[key].tolist()
    if dose_key is None or dose_key not in table:
        return names, [usual] * len(names)
    if dose is not None:
        raise ValueError(
            f"dose is {dose!r}, and perturbations has the column {dose_key!r}: leave out one of them."
        )
    place = f"perturbations[{dose_key!r}]"
    return names, [usual if _is_missing(d) else require_dose(d, place) for d in table[dose_key]]


def _is_missing(dose: Any) -> bool:
    return not np.ndim(dose) and bool(pd.isna(dose))
