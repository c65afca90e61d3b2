"""One predicted response to a perturbation against the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.metrics import r2_score

from ._distances import classifier_auc, energy_distance, mmd2, wasserstein2
from ._space import Cells, pearson

__all__ = ["INTERVAL", "RESPONSE_METRICS", "SCORES", "Response", "differential_scores"]

RESPONSE_METRICS = (
    *("r2_mean", "r2_mean_top", "pearson_delta", "de_overlap", "de_direction", "de_logfc_pearson"),
    *("e_distance", "mmd2", "w2", "variance_ratio"),
)

INTERVAL = 0.9  # central, of predicted values
_LEAST_DETECTED = 0.05  # share of cells


def differential_scores(cells: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Welch t statistics of log expression; 0 where a feature is constant in both.

    A test of ranks would call any shift of a gene that is mostly zero a large one.
    """
    difference = cells.mean(axis=0) - control.mean(axis=0)
    error = np.sqrt(sum(x.var(axis=0, ddof=1) / len(x) for x in (cells, control)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(difference / error, posinf=np.inf, neginf=-np.inf)


@dataclass(eq=False)
class Response:
    """Real perturbed cells and the control cells they are compared with.

    ``center`` is the mean profile of many perturbations, where there are many.
    """

    real: Cells
    control: Cells
    bandwidth2: float
    n_top: int
    center: np.ndarray | None = None

    @cached_property
    def mean(self) -> np.ndarray:
        """Of real cells."""
        return self.real.values.mean(axis=0)

    @cached_property
    def reference(self) -> np.ndarray:
        """Mean of control cells."""
        return self.control.values.mean(axis=0)

    @cached_property
    def delta(self) -> np.ndarray:
        """What the perturbation did to the mean."""
        return self.mean - self.reference

    @cached_property
    def _tested(self) -> np.ndarray:
        """Features detected often enough, in real or control cells, to be called different.

        A gene that is constant in two samples differs by an infinite t, however little: so would
        most genes that are never seen, where a prediction adds a trifle to each cell.
        """
        detected = [(c.values > 0).mean(axis=0) for c in (self.real, self.control)]
        return np.flatnonzero(np.maximum(*detected) >= _LEAST_DETECTED)

    @cached_property
    def top(self) -> np.ndarray | None:
        """Features that differ most; none where no more are detected than would be called so."""
        return self.most_different(self.real) if len(self._tested) > self.n_top else None

    def most_different(self, cells: Cells) -> np.ndarray:
        """The ``n_top`` features in which cells differ most from control cells."""
        tested = self._tested
        scores = differential_scores(cells.values[:, tested], self.control.values[:, tested])
        return tested[np.argsort(-np.abs(scores), kind="stable")[: self.n_top]]

    def score(self, cells: Cells, metrics: Iterable[str] = RESPONSE_METRICS) -> dict[str, float]:
        """Metrics of cells in the place of the real ones."""
        mean = cells.values.mean(axis=0)
        return {m: float(SCORES[m](self, cells, mean)) for m in metrics}


def _of_top(score: Callable[[Response, Cells, np.ndarray, np.ndarray], float]) -> Callable:
    """The score of the top features, or NaN where there are none."""
    return lambda real, cells, mean: (
        np.nan if real.top is None else score(real, cells, mean, real.top)
    )


def _variance_ratio(real: Response, cells: Cells, mean: np.ndarray) -> float:
    spread = [c.values.var(axis=0, ddof=1).sum() for c in (cells, real.real)]
    return spread[0] / spread[1] if spread[1] else np.nan


def _interval_coverage(real: Response, cells: Cells, mean: np.ndarray) -> float:
    """Share of real values within the central interval of predicted ones, mean over features.

    Where a value is one of many alike, as zeros are, the interval may hold a part of them: the
    probability integral transform is uniform between the shares below it and up to it.
    """
    ends = (1 - INTERVAL) / 2, (1 + INTERVAL) / 2
    shares = []
    for x, y in zip(real.real.values.T, np.sort(cells.values, axis=0).T, strict=True):
        below, upto = (np.searchsorted(y, x, side) / len(y) for side in ("left", "right"))
        inside = np.clip(upto, *ends) - np.clip(below, *ends)
        between = (ends[0] <= below) & (below <= ends[1])  # of values that no predicted cell has
        with np.errstate(divide="ignore", invalid="ignore"):
            shares.append(np.where(upto > below, inside / (upto - below), between).mean())
    return float(np.mean(shares))


def _centered(real: Response, cells: Cells, mean: np.ndarray) -> float:
    if real.center is None:
        return np.nan
    return pearson(real.mean - real.center, mean - real.center)


SCORES: dict[str, Callable[[Response, Cells, np.ndarray], float]] = {
    "r2_mean": lambda real, cells, mean: r2_score(real.mean, mean),
    "r2_mean_top": _of_top(lambda real, cells, mean, top: r2_score(real.mean[top], mean[top])),
    "pearson_delta": lambda real, cells, mean: pearson(real.delta, mean - real.reference),
    "pearson_centered": _centered,
    "de_overlap": _of_top(
        lambda real, cells, mean, top: (
            len(np.intersect1d(real.most_different(cells), top)) / real.n_top
        )
    ),
    "de_direction": _of_top(
        lambda real, cells, mean, top: (
            np.sign((mean - real.reference)[top]) == np.sign(real.delta[top])
        ).mean()
    ),
    "de_logfc_pearson": _of_top(
        lambda real, cells, mean, top: pearson(real.delta[top], (mean - real.reference)[top])
    ),
    "e_distance": lambda real, cells, mean: energy_distance(real.real.pca, cells.pca),
    "mmd2": lambda real, cells, mean: mmd2(real.real.pca, cells.pca, real.bandwidth2),
    "w2": lambda real, cells, mean: wasserstein2(real.real.pca, cells.pca),
    "variance_ratio": _variance_ratio,
    "interval_coverage": _interval_coverage,
    "rf_auc": lambda real, cells, mean: classifier_auc(real.real.pca, cells.pca),
}
