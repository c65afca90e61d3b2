"""What users ask of single features: targets of some, and that others are preserved."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from scgm_scvi._errors import listed, nearest

__all__ = [
    "PRESERVED",
    "GeneTarget",
    "Genes",
    "Preserve",
    "preserved_genes",
    "require_apart",
    "require_features",
    "targets_of",
]

Genes = Mapping[str, float | str] | None
Preserve = Sequence[str] | Mapping[str, Sequence[str]] | None

_KNOCKOUT = "knockout"
_FOLD = "fold:"


class GeneTarget(NamedTuple):
    """``level`` CP10K, and ``fold`` times the cell's own expression."""

    level: float
    fold: float
    asked: str


PRESERVED = GeneTarget(0.0, 1.0, "preserved")


def targets_of(genes: Genes) -> dict[str, GeneTarget]:
    """Read the targets of ``genes``."""
    if not isinstance(genes, Mapping | None):
        raise TypeError(
            f"genes is {genes!r}; pass a dict of gene to target: 'knockout', a number in CP10K, "
            "or 'fold:0.5'."
        )
    return {str(gene): _target(gene, value) for gene, value in (genes or {}).items()}


def preserved_genes(preserve: Preserve) -> list[str]:
    """Genes to be preserved, of a list or of the lists of a dict, each once."""
    sets = preserve if isinstance(preserve, Mapping) else {"": [] if preserve is None else preserve}
    out: list[str] = []
    for name, genes in sets.items():
        if isinstance(genes, str | bytes) or not isinstance(genes, Iterable):
            what = f"preserve[{str(name)!r}]" if isinstance(preserve, Mapping) else "preserve"
            raise TypeError(
                f"{what} is {genes!r}; pass a list of genes, or a dict of names to such lists."
            )
        out += [str(gene) for gene in genes]
    return list(dict.fromkeys(out))


def require_apart(wanted: Iterable[str], kept: Iterable[str]) -> None:
    """Raise where a gene is to be changed and preserved at once."""
    named = set(wanted)
    both = [gene for gene in kept if gene in named]
    if both:
        raise ValueError(
            f"genes and preserve both name {listed(both)}. A gene is changed or preserved: take "
            "it out of one of the two."
        )


def require_features(genes: Iterable[str], names: pd.Index, argument: str) -> None:
    """Raise unless each gene is the name of one feature of the model."""
    missing = [gene for gene in genes if gene not in names]
    if missing:
        near = [f"{gene!r}:{nearest(gene, names)}" for gene in missing[:5] if nearest(gene, names)]
        raise KeyError(
            f"{argument}: not among the model's {len(names)} features: {listed(missing)}. "
            f"{' '.join(near)}{' ' if near else ''}Leave out what the model was not trained on."
        )
    repeated = [gene for gene in genes if not isinstance(names.get_loc(gene), int)]
    if repeated:
        raise ValueError(
            f"{argument}: several features of the model are named {listed(repeated)}, so which is "
            "meant is open. Train on unique names (adata.var_names_make_unique)."
        )


def _target(gene: object, value: object) -> GeneTarget:
    """Read one target."""
    asked = value
    if isinstance(value, str):
        if value == _KNOCKOUT:
            return GeneTarget(0.0, 0.0, value)
        if value.startswith(_FOLD):
            fold = _number(value.removeprefix(_FOLD))
            if not 0 <= fold < math.inf:
                raise ValueError(
                    f"genes: {str(gene)!r} is {asked!r}; a fold is a number, 0 or more."
                )
            return GeneTarget(0.0, fold, value)
    if isinstance(value, bool | str) or not isinstance(value, numbers.Real):
        raise ValueError(
            f"genes: {str(gene)!r} is {asked!r}; a target is 'knockout', a number in CP10K, or "
            f"'fold:x' for x times the cell's own expression."
            f"{nearest(value, [_KNOCKOUT]) if isinstance(value, str) else ''}"
        )
    if value < 0 or not value < math.inf:
        raise ValueError(f"genes: {str(gene)!r} is {asked!r}; a target is a number, 0 or more.")
    return GeneTarget(float(value), 0.0, f"{float(value):g}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # refused by the caller, with its text
        return math.nan
