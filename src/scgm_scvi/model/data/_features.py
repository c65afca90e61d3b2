"""Other data brought to the features of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi._errors import listed, nearest

__all__ = ["FeatureReport", "align_features", "require_features"]


@dataclass(frozen=True)
class FeatureReport:
    """How the features of some data meet those of a model.

    Attributes
    ----------
    n_model
        Number of the model's features.
    missing
        Those that the data lack, in the model's order.
    n_dropped
        Number of features that only the data have.
    """

    n_model: int
    missing: list[str]
    n_dropped: int

    @property
    def share(self) -> float:
        """Share of the model's features that the data have."""
        return 1 - len(self.missing) / self.n_model


def align_features(
    adata: AnnData,
    names: pd.Index,
    var: pd.DataFrame,
    layer: str | None,
    min_share: float,
    columns: Sequence[str] = (),
) -> tuple[AnnData, FeatureReport]:
    """``adata`` with exactly the features ``names``: itself, or a stand-in.

    Features that it lacks are zeros in the stand-in; those beyond are dropped.

    Parameters
    ----------
    adata
        Cells by features.
    names
        Features of the model, in its order.
    var
        Table of them, for the stand-in.
    layer
        Layer that holds the values, or ``None`` for ``X``; the stand-in has no other.
    min_share
        Least share of ``names`` that must be there.
    columns
        Columns of missing values to add to ``obs``.

    Raises
    ------
    ValueError
        If fewer are there.
    """
    found = names.get_indexer(adata.var_names)
    missing = names.difference(adata.var_names, sort=False)
    report = FeatureReport(len(names), missing.tolist(), int((found < 0).sum()))
    if report.share < min_share or len(missing) == len(names):
        raise ValueError(_too_few(adata.var_names, names, missing, min_share))
    x = adata.X if layer is None else adata.layers.get(layer)
    is_same = adata.var_names.equals(names)
    if (is_same and not columns) or x is None:  # no values: setup_anndata says so, in its words
        return adata, report
    if not is_same:
        x = _arranged(x, found, len(names))
    return AnnData(
        x if layer is None else None,
        obs=adata.obs.assign(**dict.fromkeys(columns, np.nan)),
        var=(var if var.index.equals(names) else pd.DataFrame(index=names)).copy(),
        obsm=dict(adata.obsm),
        uns={k: v for k, v in adata.uns.items() if not str(k).startswith("_scvi")},
        layers=None if layer is None else {layer: x},
    ), report


def require_features(names: Any, known: pd.Index, argument: str) -> None:
    """Raise unless ``names`` is a list of features that there are.

    Parameters
    ----------
    argument
        What messages call ``names``.
    """
    if isinstance(names, str):
        raise TypeError(f"{argument} is the string {names!r}; pass a list: [{names!r}].")
    strange = [name for name in names if name not in known]
    if strange:
        raise KeyError(
            f"{argument}: the model knows no feature {listed(strange, 5)}."
            f"{nearest(strange[0], known)} It knows {listed(known, 3)}."
        )


def _arranged(x: np.ndarray | sparse.spmatrix, found: np.ndarray, n: int) -> sparse.csr_matrix:
    """The ``n`` columns that ``found`` sends those of ``x`` to, -1 being nowhere."""
    kept = np.flatnonzero(found >= 0)
    ones = np.ones(len(kept), dtype=x.dtype)
    to = sparse.csr_matrix((ones, (kept, found[kept])), shape=(x.shape[1], n))
    return sparse.csr_matrix(x) @ to


def _too_few(have: pd.Index, names: pd.Index, missing: pd.Index, min_share: float) -> str:
    n = len(names) - len(missing)
    message = (
        f"adata.var_names has {n} of the {len(names)} features that the reference was trained on "
        f"({n / len(names):.0%}; min_shared is {min_share:.0%}). The reference has "
        f"{listed(missing, 3)}; adata has {listed(have, 3)}."
    )
    alike = _case_blind(names, have)
    if alike > max(n, 0.2 * len(names)):
        return (
            f"{message} {alike} are the same but for upper and lower case: are these cells of "
            "another organism? Map the genes to their orthologs first."
        )
    if n == 0:
        return f"{message} Are these identifiers of another kind, or of another organism?"
    return f"{message} Fewer will do with a smaller min_shared, at your own risk."


def _case_blind(names: Sequence[str], have: Sequence[str]) -> int:
    return len({str(n).upper() for n in names} & {str(h).upper() for h in have})
