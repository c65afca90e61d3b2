"""One predicted response to a perturbation against the real one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from anndata import AnnData
from sklearn.metrics import r2_score

from ._distances import energy_distance, mmd2, wasserstein2
from ._space import Cells, pearson

__all__ = ["RESPONSE_METRICS", "Response", "differential_scores"]

RESPONSE_METRICS = (
    *("r2_mean", "r2_mean_top", "pearson_delta", "de_overlap", "de_direction", "de_logfc_pearson"),
    *("e_distance", "mmd2", "w2", "variance_ratio"),
)

_LEAST_DETECTED = 0.05  # share of cells


def differential_scores(cells: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Welch t statistics of log expression, by scanpy; 0 where a feature is constant in both.

    A test of ranks would call any shift of a gene that is mostly zero a large one.
    """
    import scanpy as sc

    group = np.repeat(["cells", "control"], [len(cells), len(control)])
    adata = AnnData(np.vstack([cells, control]))
    adata.obs["group"] = group
    adata.obs["group"] = adata.obs["group"].astype("category")
    # constant features, and the fold changes of negative means, which are not used
    with np.errstate(divide="ignore", invalid="ignore"):
        sc.tl.rank_genes_groups(
            adata, "group", groups=["cells"], reference="control", method="t-test"
        )
    ranked = adata.uns["rank_genes_groups"]
    scores = dict(zip(ranked["names"]["cells"], ranked["scores"]["cells"], strict=True))
    return np.array([scores[name] for name in adata.var_names], dtype=np.float64)


@dataclass(eq=False)
class Response:
    """Real perturbed cells and the control cells they are compared with."""

    real: Cells
    control: Cells
    bandwidth2: float
    n_top: int

    @cached_property
    def _delta(self) -> np.ndarray:
        return self.real.values.mean(axis=0) - self.control.values.mean(axis=0)

    @cached_property
    def _tested(self) -> np.ndarray:
        """Features detected often enough, in real or control cells, to be called different.

        A gene that is constant in two samples differs by an infinite t, however little: so would
        most genes that are never seen, where a prediction adds a trifle to each cell.
        """
        detected = [(c.values > 0).mean(axis=0) for c in (self.real, self.control)]
        return np.flatnonzero(np.maximum(*detected) >= _LEAST_DETECTED)

    @cached_property
    def _top(self) -> np.ndarray:
        return self._most_different(self.real)

    def _most_different(self, cells: Cells) -> np.ndarray:
        tested = self._tested
        scores = differential_scores(cells.values[:, tested], self.control.values[:, tested])
        return tested[np.argsort(-np.abs(scores), kind="stable")[: self.n_top]]

    def score(self, cells: Cells) -> dict[str, float]:
        """All metrics of cells in the place of the real ones."""
        real = self.real
        mean, expected = cells.values.mean(axis=0), real.values.mean(axis=0)
        delta = mean - self.control.values.mean(axis=0)
        spread = real.values.var(axis=0, ddof=1).sum()
        out = {
            "r2_mean": float(r2_score(expected, mean)),
            "pearson_delta": pearson(self._delta, delta),
            "e_distance": energy_distance(real.pca, cells.pca),
            "mmd2": mmd2(real.pca, cells.pca, self.bandwidth2),
            "w2": wasserstein2(real.pca, cells.pca),
            "variance_ratio": float(cells.values.var(axis=0, ddof=1).sum() / spread),
        }
        if len(self._tested) > self.n_top:
            top = self._top
            overlap = np.intersect1d(self._most_different(cells), top)
            right = np.sign(delta[top]) == np.sign(self._delta[top])
            out["r2_mean_top"] = float(r2_score(expected[top], mean[top]))
            out["de_overlap"] = len(overlap) / self.n_top
            out["de_direction"] = float(right.mean())
            out["de_logfc_pearson"] = pearson(self._delta[top], delta[top])
        return {m: out.get(m, float("nan")) for m in RESPONSE_METRICS}
