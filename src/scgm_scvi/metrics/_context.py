"""One context of a screen: its real cells in halves, and what candidates score in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import euclidean_distances

from ._distances import median_bandwidth2
from ._response import Response
from ._screen import Screen, generator
from ._space import LEAST_CELLS, Cells

__all__ = [
    "NO_EFFECT",
    "TOO_FEW",
    "Context",
    "Scores",
    "cut",
    "effect_p_value",
    "smallest_adjusted",
]

TOO_FEW, NO_EFFECT = "too few cells", "no effect"
_MOST_TESTED = 200  # cells a side


def cut(screen: Screen, context: str, name: str, seed: int, aside: bool) -> list[np.ndarray]:
    """Rows of the two halves of a group, and the fifth that is left aside, if any is."""
    rows = generator(seed, "halves", context, name).permutation(screen.rows(context, name))
    n_aside = len(rows) // 5 if aside else 0
    middle = n_aside + (len(rows) - n_aside + 1) // 2
    return [np.sort(rows[a:b]) for a, b in ((n_aside, middle), (middle, None), (0, n_aside))]


def effect_p_value(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, n: int = 199) -> float:
    r"""P value of the energy distance between two samples, by permuting who is in which.

    The E-test of Peidli et al. 2024, with distances that are not squared:
    :math:`(1 + \#\{E_{perm} \ge E\}) / (1 + n)`.
    """
    distance = euclidean_distances(np.vstack([x, y]))
    first = np.zeros((n + 1, len(distance)))
    first[0, : len(x)] = 1
    for row in first[1:]:
        row[rng.permutation(len(distance))[: len(x)]] = 1
    second = 1 - first
    inside = [np.einsum("ij,ij->i", z @ distance, z) for z in (first, second)]
    between = np.einsum("ij,ij->i", first @ distance, second)
    counts = len(x), len(y)
    within = [i / (c * (c - 1)) for i, c in zip(inside, counts, strict=True)]
    energy = 2 * between / (counts[0] * counts[1]) - within[0] - within[1]
    return float((1 + (energy[1:] >= energy[0] - 1e-12).sum()) / (1 + n))


def smallest_adjusted(x: np.ndarray, y: np.ndarray) -> float:
    """Of the features' Mann-Whitney p values, adjusted by Benjamini and Hochberg, the smallest."""
    varies = np.ptp(np.vstack([x, y]), axis=0) > 0
    if not varies.any():
        return 1.0
    p = stats.mannwhitneyu(x[:, varies], y[:, varies], axis=0, method="asymptotic").pvalue
    return float(stats.false_discovery_control(p).min())


@dataclass(frozen=True)
class Scores:
    """Of one perturbation: metrics of each method and of the replicate, by their names."""

    values: dict[str, dict[str, float]]
    n: int
    note: str = ""


@dataclass(eq=False)
class Context:
    """Real perturbed cells and control cells of one context, and the responses of the baselines.

    ``aside``: whether the PCA was fitted on a fifth of the cells, which is left out here.
    """

    name: str
    real: Screen
    control: Screen
    baselines: Mapping[str, Mapping[tuple[str, ...], np.ndarray]]
    center: np.ndarray
    pca: PCA
    aside: bool
    n_top: int
    n_max: int
    seed: int

    def score(
        self, name: str, predicted: Mapping[str, Screen], metrics: Sequence[str], alpha: float
    ) -> Scores:
        """All methods in the place of the real cells of one perturbation, means over the halves."""
        halves = self._halves(self.real, name)
        rows = {m: screen.rows(self.name, name) for m, screen in predicted.items()}
        rows = {m: of for m, of in rows.items() if len(of) >= LEAST_CELLS}
        n = min(self.n_max, len(self._spare), *map(len, halves), *map(len, rows.values()))
        if n < LEAST_CELLS:
            return Scores({}, n, TOO_FEW)
        parts = self.real.keys.parts(name)
        responses = {m: of[parts] for m, of in self.baselines.items() if parts in of}
        bandwidth2 = median_bandwidth2(*(c.pca[:1000] for c in halves))
        runs: dict[str, list[dict[str, float]]] = {}
        for r in (0, 1):
            real = self._draw(halves[r], n, name, str(r))
            spare = self._draw(self._spare, n, name, str(r)).values
            response = Response(real, self._reference, bandwidth2, self.n_top, self.center)
            candidates = {"replicate": self._draw(halves[1 - r], n, name, str(1 - r))}
            for method, of in rows.items():
                order = generator(self.seed, "predicted", self.name, name).permutation(of)
                mine = np.sort(order.take(np.arange(r * n, (r + 1) * n), mode="wrap"))
                candidates[method] = self._cells(predicted[method].log(mine))
            candidates |= {m: self._cells(spare + delta) for m, delta in responses.items()}
            for method, cells in candidates.items():
                runs.setdefault(method, []).append(response.score(cells, metrics))
        values = {
            method: {m: (first[m] + second[m]) / 2 for m in metrics}
            for method, (first, second) in runs.items()
        }
        return Scores(values, n, "" if self._has_effect(name, halves, alpha) else NO_EFFECT)

    @cached_property
    def _reference(self) -> Cells:
        """The half of the control cells that changes are measured from."""
        return self._halves(self.control, self.control.keys.control)[0]

    @cached_property
    def _spare(self) -> Cells:
        """The other half, which baselines are made of."""
        return self._halves(self.control, self.control.keys.control)[1]

    def _halves(self, screen: Screen, name: str) -> list[Cells]:
        first, second, _ = cut(screen, self.name, name, self.seed, self.aside)
        return [self._cells(screen.log(rows)) for rows in (first, second)]

    def _cells(self, log: np.ndarray) -> Cells:
        if not len(log):
            return Cells(np.zeros(0), log, np.zeros((0, 1)), np.zeros(0, dtype=object))
        return Cells(np.full(len(log), np.nan), log, self.pca.transform(log), np.full(len(log), ""))

    def _draw(self, cells: Cells, n: int, *words: str) -> Cells:
        """So many of the cells, in their order."""
        order = generator(self.seed, "draw", self.name, *words).permutation(len(cells))
        return cells[np.sort(order[:n])]

    def _has_effect(self, name: str, halves: Sequence[Cells], alpha: float) -> bool:
        """Whether real cells differ from control cells, in many genes a little or in one a lot."""
        rng = generator(self.seed, "effect", self.name, name)
        real = [np.vstack([getattr(c, of) for c in halves]) for of in ("pca", "values")]
        control = [self._reference.pca, self._reference.values]
        rows = [np.sort(rng.permutation(len(x))[:_MOST_TESTED]) for x in (real[0], control[0])]
        if effect_p_value(real[0][rows[0]], control[0][rows[1]], rng) <= alpha / 2:
            return True
        return smallest_adjusted(real[1][rows[0]], control[1][rows[1]]) <= alpha / 2
