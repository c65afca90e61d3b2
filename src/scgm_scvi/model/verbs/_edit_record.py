"""What an edit leaves beside the cells, of what it did and how far to trust it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scgm_scvi.model.data._matrices import Matrix
from scgm_scvi.model.prior._borrowed_responses import Borrowed
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._gene_targets import Genes, targets_of

__all__ = [
    "EditedPart",
    "asked_genes",
    "changed",
    "described",
    "expected",
    "say_observational",
    "say_unused",
]

_N_TOP = 100  # changed features that are reported
_PSEUDO = 0.1  # counts per 10,000, so that a feature out of nothing has a fold change
_OBSERVATIONAL = (
    "genes: the edit is observational. It shows cells as they are with that much of the gene, as far as "
    "this model has seen any, and not what setting the gene would cause: on real knock-outs of "
    "microglia its changes were opposite to the true ones (r = -.5 over the genes that differ most). "
    "Causes can be learnt from perturbed cells alone: train on them, with the perturbation as a condition."
)


class EditedPart(NamedTuple):
    """Some edited cells, and sums over them: expression before and after, change of its log."""

    x: Matrix
    latent: np.ndarray
    effect: np.ndarray
    uncertainty: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(
        cls,
        x: Matrix,
        latent: np.ndarray,
        before: np.ndarray,
        after: np.ndarray,
        change: np.ndarray,
        uncertainty: np.ndarray,
    ) -> EditedPart:
        """By expression ``before`` and ``after``, and the ``change`` of its log1p of each cell."""
        return cls(
            x=x,
            latent=latent,
            effect=np.sqrt((change**2).sum(axis=1)),
            uncertainty=uncertainty,
            sums=np.stack([of.sum(0) for of in (before, after, change)]).astype(np.float64),
        )


def changed(parts: Sequence[EditedPart], features: pd.Index) -> dict[str, list]:
    """The features that changed most, by the mean change of log1p of counts per 10,000."""
    sums: Any = sum(p.sums for p in parts)
    before, after, change = sums / sum(len(p.latent) for p in parts)
    top = np.argsort(-np.abs(change), kind="stable")[:_N_TOP]
    fold = np.log2((after + _PSEUDO) / (before + _PSEUDO))
    return {
        "feature": [str(name) for name in features[top]],
        "log_change": change[top].tolist(),
        "log2_fold": fold[top].tolist(),
        "before": before[top].tolist(),
        "after": after[top].tolist(),
    }


def expected(borrowed: Sequence[Borrowed]) -> dict[str, list]:
    """How well responses were borrowed for the groups of which they are known, a row a group."""
    known = [{} if b.rule is None else b.rule.expected for b in borrowed]
    scores = ("borrowed", "mean_shift", "identity", "pearson_delta")
    return {
        "group": [b.group for b in borrowed],
        **{name: [float(of.get(name, np.nan)) for of in known] for name in scores},
    }


def asked_genes(genes: Genes) -> dict[str, list[str]]:
    """Genes and their targets as they were asked for, whoever answers."""
    targets = targets_of(genes)
    return (
        {"genes": list(targets), "targets": [t.asked for t in targets.values()]} if targets else {}
    )


def described(conditions: Conditions) -> Any:
    """What was asked for, as builtins: each value, or that every cell has its own."""
    if conditions is None:
        return {}
    values = {k: v if np.ndim(v) == 0 else "of each cell" for k, v in conditions.items()}
    return {
        str(k): "unspecified" if pd.isna(v) else getattr(v, "item", lambda v=v: v)()
        for k, v in values.items()
    }


@cache
def say_observational() -> None:
    """Once a session: Python's own filter forgets, as libraries reset it."""
    warnings.warn(_OBSERVATIONAL, UserWarning, stacklevel=4)


def say_unused(method: str, strength: float | None) -> None:
    """Where responses are all, networks have no part, nor what they were to be run with."""
    unused = [f"method={method!r}"] if method != "sdedit" else []
    unused += [f"strength={strength!r}"] if strength is not None else []
    if unused:
        warnings.warn(
            f"{' and '.join(unused)} {'play' if len(unused) > 1 else 'plays'} no part: a response is all "
            "that is asked for, which moves the cells' own counts. Leave them out; composition='joint' has networks do what they were "
            "not shown.",
            UserWarning,
            stacklevel=4,
        )
