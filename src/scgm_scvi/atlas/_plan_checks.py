"""What a plan says of reading and curating, checked before anything is downloaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from scgm_scvi._errors import listed, nearest

from .curate._cell_lines import CELL_LINE_COLUMNS
from .curate._labels import DEFAULTS, LABEL_COLUMNS
from .curate._perturbations import PERTURBATION_COLUMNS
from .curate._qc import QC
from .sources import SOURCES
from .sources._source import TISSUE_TYPES
from .store._content import column_name
from .store._shard import LIBRARY_SIZE

if TYPE_CHECKING:
    from ._plan import Plan

__all__ = ["OWN_COLUMNS", "check_tables", "refuse"]

OWN_COLUMNS = (*LABEL_COLUMNS, *CELL_LINE_COLUMNS, *PERTURBATION_COLUMNS)
"""Columns that curation makes, where there is something to make them of."""


def check_tables(plan: Plan, where: str) -> None:
    """Raise unless ``qc``, ``read``, ``obs``, ``keep`` and ``tissue_types`` can be followed.

    Raises
    ------
    ValueError
        With the word that can't be, where it stands, and the nearest that can.
    """
    _check_qc(plan.qc, {}, f"[qc] of {where}")
    _check_keep(plan.keep, f"keep of {where}")
    _check_kinds(plan.tissue_types, f"tissue_types of {where}")
    for i, dataset in enumerate(plan.datasets):
        place = f"[[dataset]] {i + 1} of {where}"
        _check_qc(dataset.qc, plan.qc, f"qc of {place}")
        _check_keep([*plan.keep, *dataset.keep], f"keep of {place}")
        _check_kinds(dataset.tissue_types or plan.tissue_types, f"tissue_types of {place}")
        try:
            SOURCES[dataset.source].check_options(dataset.read)
        except ValueError as error:
            raise ValueError(f"read of {place} {error}") from None
        refuse(set(dataset.obs) - {*DEFAULTS, *CELL_LINE_COLUMNS}, DEFAULTS, f"obs of {place}")
        for name, value in dataset.obs.items():
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"obs of {place} has {name} = {value!r}; it must be a word.")
        lines = sorted(set(dataset.obs) & set(CELL_LINE_COLUMNS))
        if lines and "cell line" not in (dataset.tissue_types or plan.tissue_types):
            raise ValueError(
                f"obs of {place} has {listed(lines)}, and cell lines are not asked for: add "
                'tissue_types = ["cell line"].'
            )


def refuse(unknown: Collection[str], known: Collection[str], where: str) -> None:
    """Raise if there is a word that means nothing."""
    if unknown:
        first = sorted(unknown)[0]
        raise ValueError(
            f"{where} has {listed(sorted(unknown))}, which means nothing here; known are "
            f"{listed(known, 20)}.{nearest(first, known)}"
        )


def _check_qc(own: Mapping[str, Any], of_all: Mapping[str, Any], where: str) -> None:
    known = [f.name for f in fields(QC)]
    refuse(set(own) - set(known), known, where)
    try:
        QC(**{**of_all, **own})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_keep(keep: Sequence[str], where: str) -> None:
    stored: dict[str, str] = {}
    for name in keep:
        plain = column_name(name)
        if plain in (*OWN_COLUMNS, LIBRARY_SIZE, "row"):
            raise ValueError(
                f"{where} has {name!r}, a column that each dataset with values for it has anyway: "
                "take it out. A column of the authors of that name is not kept beside it."
            )
        if stored.setdefault(plain, name) != name:
            raise ValueError(
                f"{where} has {stored[plain]!r} and {name!r}, which a store both calls {plain!r}."
            )


def _check_kinds(kinds: Sequence[str], where: str) -> None:
    refuse(set(kinds) - set(TISSUE_TYPES), TISSUE_TYPES, where)
