"""What real cells set: candidates are measured against it, and so are real cells themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import NearestNeighbors

from ._differential_expression import Contrasts
from ._distances import (
    classifier_auc,
    median_bandwidth2,
    mixing,
    mmd2,
    prdc,
    wasserstein2,
)
from ._space import LEAST_CELLS, SAME_PLACE, Cells, mean_of_numbers, pearson, subsample

__all__ = ["TWO_SAMPLE_METRICS", "Evaluator", "Measured"]

TWO_SAMPLE_METRICS: dict[str, Callable[[Cells, Cells], float]] = {}
"""Further metrics of :func:`evaluate_generation`, by name: a function of two sets of cells, of which
``values`` are log-normalised features, ``pca`` coordinates, ``label`` and ``depth``; one generated,
one real, or both real for the floor. To add one, enter it here."""

_MOST_PER_CONDITION = 500
_LEAST_FOR_FOREST = 50  # within a condition
_N_NEIGHBORS = 30


@dataclass(frozen=True, eq=False)
class Measured:
    """Cells with what is known of each one; ``None`` where there are no training cells."""

    cells: Cells
    distance: np.ndarray | None
    found: np.ndarray | None


@dataclass(eq=False)
class Evaluator:
    """Held-out real cells in two halves, and training cells; all that is fitted is fitted once."""

    real: Cells
    train: Cells | None
    half: np.ndarray
    seed: int
    n_max: int

    @property
    def _basis(self) -> Cells:
        return self.real if self.train is None else self.train

    @cached_property
    def _top(self) -> np.ndarray:
        """The features that vary most, whose correlations are compared."""
        return np.argsort(-self._basis.values.var(axis=0))[:200]

    @cached_property
    def _scale(self) -> np.ndarray:
        return self._basis.pca.std(axis=0)

    @cached_property
    def _classifier(self) -> LogisticRegression | None:
        """Finds the condition of a cell, learnt from training cells."""
        if self.train is None or not self.has_conditions or len(np.unique(self.train.label)) < 2:
            return None
        return self._fit_classifier(self.train)

    @cached_property
    def _nearest(self) -> NearestNeighbors | None:
        return None if self.train is None else NearestNeighbors(n_neighbors=2).fit(self.train.pca)

    @cached_property
    def contrasts(self) -> Contrasts | None:
        """Genes that differ between conditions; peaks, open or closed, are not asked."""
        if not self.has_conditions or self.real.is_open is not None:
            return None
        return Contrasts(self.real, self.train, self.half, self.seed, self.n_max)

    @property
    def has_conditions(self) -> bool:
        return len(np.unique(self.real.label)) > 1

    def _fit_classifier(self, cells: Cells) -> LogisticRegression:
        return LogisticRegression(max_iter=2000, C=0.1).fit(cells.pca / self._scale, cells.label)

    def measure(self, cells: Cells) -> Measured:
        """Ask the classifier and the neighbours once about every cell."""
        distance = found = None
        if self._nearest is not None:
            column = 1 if cells is self.train else 0  # a training cell is its own nearest
            distance = self._nearest.kneighbors(cells.pca)[0][:, column]
        if self._classifier is not None:
            found = self._classifier.predict(cells.pca / self._scale)
        return Measured(cells, distance, found)

    @cached_property
    def measured_real(self) -> Measured:
        return self.measure(self.real)

    @cached_property
    def measured_train(self) -> Measured | None:
        return None if self.train is None else self.measure(self.train)

    def overall(self, candidate: Measured | None) -> dict[str, float]:
        """All metrics of a candidate; ``None`` stands for the other half of the real cells."""
        other = None if candidate is None else candidate.cells
        out = self._two_samples(other, self.real, self.half, self.n_max)
        asked = self.measured_real if candidate is None else candidate
        if self.has_conditions:
            if asked.found is not None:
                out["cond_acc"] = float(accuracy_score(asked.cells.label, asked.found))
            out["tstr_f1"] = self._train_synthetic_test_real(candidate)
        everything = np.ones(len(asked.cells), dtype=bool)
        out.update(self._memorization(asked, everything, np.ones(len(self.real), dtype=bool)))
        return out

    def n_within(self, cells: Cells, condition: str) -> int:
        """Cells a side that a candidate allows within a condition."""
        of_real = self.half[self.real.label == condition]
        sides = np.bincount(of_real, minlength=2)
        return min(self.n_max, int(sides.min()), int((cells.label == condition).sum()) // 2)

    def within(self, candidate: Measured | None, condition: str, n: int) -> dict[str, float]:
        """Metrics of one condition, at most ``n`` cells a side; nothing where that is too few."""
        asked = self.measured_real if candidate is None else candidate
        n = min(n, self.n_within(asked.cells, condition))
        if n < LEAST_CELLS:
            return {}
        rows, real_rows = asked.cells.label == condition, self.real.label == condition
        other = None if candidate is None else candidate.cells[rows]
        out = self._two_samples(other, self.real[real_rows], self.half[real_rows], n, within=True)
        if asked.found is not None and condition in self._classifier.classes_:
            out["cond_acc"] = float((asked.found[rows] == condition).mean())
        out.update(self._memorization(asked, rows, real_rows))
        return out

    def _two_samples(
        self,
        other: Cells | None,
        real: Cells,
        half: np.ndarray,
        n_max: int,
        *,
        within: bool = False,
    ) -> dict[str, float]:
        """Mean over the halves of half against as many others (``None``: the other half)."""
        rng = np.random.default_rng(self.seed + 1)
        is_floor = other is None
        other = real if is_floor else other
        order = rng.permutation(len(other))
        ends = [real.pca[half == r][:1000] for r in (0, 1)]
        bandwidth2 = median_bandwidth2(*ends)
        runs: list[dict[str, float]] = []
        for r in (0, 1):
            a = np.flatnonzero(half == r)
            if is_floor:
                b = np.flatnonzero(half == 1 - r)
            else:
                n = min(len(a), len(other) // 2)
                b = np.sort(order[r * n : (r + 1) * n])
            n = min(len(a), len(b), n_max)
            x = real[subsample(a, n, np.random.default_rng(self.seed + r))]
            y = other[subsample(b, n, np.random.default_rng(self.seed + r))]
            run = self._two_sample(x, y, bandwidth2, within=within)
            if not within and self.has_conditions:
                run["label_w2"] = _distance_by_label(x, y, rng)
            runs.append(run)
        return {k: mean_of_numbers([run[k] for run in runs]) for k in runs[0]}

    def _two_sample(
        self, x: Cells, y: Cells, bandwidth2: float, *, within: bool
    ) -> dict[str, float]:
        forest = not within or len(x) >= _LEAST_FOR_FOREST
        # with nearly all cells as neighbours every mixture would look even
        k = min(_N_NEIGHBORS, len(x) - 1) if within else _N_NEIGHBORS
        top = self._top
        return {
            "rf_auc_gene": classifier_auc(x.values, y.values, seed=self.seed) if forest else np.nan,
            "rf_auc_pca": classifier_auc(x.pca, y.pca, seed=self.seed) if forest else np.nan,
            "w2": wasserstein2(x.pca, y.pca),
            "mmd2": mmd2(x.pca, y.pca, bandwidth2),
            "lisi": mixing(x.pca, y.pca, k),
            "gcorr_pearson": _correlation_agreement(x.values[:, top], y.values[:, top]),
            "mean_pearson": pearson(x.mean, y.mean),
            "depth_ks": float(stats.ks_2samp(x.depth, y.depth).statistic),
            **prdc(x.pca, y.pca),
            **{name: float(metric(x, y)) for name, metric in TWO_SAMPLE_METRICS.items()},
        }

    def _train_synthetic_test_real(self, candidate: Measured | None) -> float:
        """Macro F1 on real cells of a classifier trained on the candidate, or on training cells."""
        if candidate is None or candidate.cells is self.train:
            found = self.measured_real.found
        elif len(np.unique(candidate.cells.label)) < 2:
            found = None
        else:
            classifier = self._fit_classifier(candidate.cells)
            found = classifier.predict(self.real.pca / self._scale)
        if found is None:
            return float("nan")
        return float(f1_score(self.real.label, found, average="macro"))

    def _memorization(
        self, asked: Measured, rows: np.ndarray, real_rows: np.ndarray
    ) -> dict[str, float]:
        """Distance to the nearest training cell, over that of real cells."""
        if asked.distance is None or self.measured_real.distance is None:
            return {}
        distance = asked.distance[rows]
        typical = float(np.median(self.measured_real.distance[real_rows]))
        return {
            # real cells that are training cells set no scale
            "nn_ratio": float(np.median(distance)) / typical if typical > 0 else float("nan"),
            "dup_frac": float((distance < SAME_PLACE).mean()),
        }


def _distance_by_label(x: Cells, y: Cells, rng: np.random.Generator) -> float:
    """Mean of the distances within the conditions that have enough cells."""
    distances = []
    for name in np.unique(x.label):
        a, b = x.pca[x.label == name], y.pca[y.label == name]
        k = min(len(a), len(b), _MOST_PER_CONDITION)
        if k >= LEAST_CELLS:
            distances.append(wasserstein2(a[:k], rng.permutation(b)[:k]))
    return mean_of_numbers(distances)


def _correlation_agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of the two samples' gene-gene correlations.

    One kind of cell over and over has none.
    """

    def pairs(z: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            c = np.corrcoef(z.T)
        return np.nan_to_num(c[np.triu_indices_from(c, 1)])

    return pearson(pairs(x), pairs(y))
