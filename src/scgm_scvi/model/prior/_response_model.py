"""Responses to perturbations, seen or not, with what is known of how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scgm_scvi.model.requests._perturbations import Parts

from ._dose_curve import DoseCurve
from ._measured_responses import MeasuredResponses, Observed
from ._response_kernels import Likeness, Places
from ._variance_components import fit_components

__all__ = ["Predicted", "ResponseModel", "blocks_of"]

_MOST_AXES = 20
_MOST_FITTED = 256  # groups that the weights of covariances are learnt from


class Predicted(NamedTuple):
    """Changes of mean log expression ``(n, n_features)``, and how far each is expected to be right.

    ``r2`` ``(n,)`` is the expected coefficient of determination of the change, from 0 to 1.
    """

    change: np.ndarray
    r2: np.ndarray


@dataclass(frozen=True, eq=False)
class ResponseModel:
    r"""A Gaussian process of responses over names, vectors, doses and contexts.

    Changes of mean log expression are measured in units of their noise, and turned to the axes along which they
    vary most. Along each axis :math:`k` the responses of groups :math:`i` are

    .. math:: t_{ik} \sim N\Big(0, \sum_j \theta_{jk} K_j(i, i') + \nu_k \delta_{ii'} / n_i\Big)

    with the covariances :math:`K_j` of :class:`Likeness`, which hold the mean response, ridge
    regression on vectors, smooth functions of them, sums over the parts of sets and what is a
    perturbation's own, weights :math:`\theta` that maximise the evidence, axis by axis, and
    :math:`n_i` cells. What is predicted is the posterior mean: where vectors tell nothing it is the
    mean response, where a group was seen often it is what was seen.

    Attributes
    ----------
    observed, n_cells
        Groups that it was learnt from.
    axes
        ``(n_axes, n_features)``, orthonormal.
    noise
        Of one cell, ``(n_features,)``: the unit of each feature.
    scores
        Of the groups, along the axes, ``(n, n_axes)``.
    weights, noise_factor
        :math:`\theta` ``(n_axes, n_covariances)``, and :math:`\nu` ``(n_axes,)``.
    likeness
        The covariances.
    contexts
        Tokens of the other conditions, of each context.

    References
    ----------
    Rasmussen & Williams 2006, Gaussian processes for machine learning, chapters 2 and 5.
    """

    observed: list[Observed]
    n_cells: np.ndarray
    axes: np.ndarray
    noise: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    noise_factor: np.ndarray
    likeness: Likeness
    contexts: list[tuple[int, ...]]

    @classmethod
    def fit(
        cls, measured: MeasuredResponses, vectors: pd.DataFrame, places: Places
    ) -> ResponseModel:
        """Learn from measured responses; ``places`` are their contexts."""
        likeness = Likeness.learn(measured, vectors, places)
        scaled = measured.change / measured.noise
        root = np.sqrt(measured.n_cells)[:, None]
        axes = np.linalg.svd(scaled * root, full_matrices=False)[2][:_MOST_AXES]
        scores = scaled @ axes.T
        some = np.random.default_rng(0).permutation(len(scores))[:_MOST_FITTED]
        groups = [measured.observed[i] for i in some]
        weights, factor = fit_components(
            scores[some], likeness.between(groups, groups), 1 / measured.n_cells[some]
        )
        return cls(
            measured.observed,
            measured.n_cells,
            axes.astype(np.float32),
            measured.noise.astype(np.float32),
            scores,
            weights,
            factor,
            likeness,
            measured.contexts,
        )

    @property
    def singles(self) -> list[str]:
        """Parts of what cells had."""
        return sorted({part for o in self.observed for part in o.parts})

    def predict(self, asked: Sequence[Observed], places: Places | None = None) -> Predicted:
        """Responses that are expected of groups, in contexts of ``places``, else of training."""
        across = self.likeness.between(asked, self.observed, places)
        own = self.likeness.variances(asked)
        mean = np.empty((len(asked), len(self.weights)))
        variance = np.empty_like(mean)
        for k, inverse in enumerate(self._inverses):
            shared = np.tensordot(self.weights[k], across, axes=1)
            mean[:, k] = shared @ (inverse @ self.scores[:, k])
            variance[:, k] = self.weights[k] @ own - ((shared @ inverse) * shared).sum(axis=1)
        signal, unsure = (mean**2).sum(axis=1), variance.clip(0).sum(axis=1)
        r2 = signal / np.maximum(signal + unsure, 1e-12)
        return Predicted((mean @ self.axes) * self.noise, r2)

    def left_out(self, blocks: Sequence[np.ndarray]) -> dict[str, float]:
        r"""How well groups are predicted from all others, a block of them left out at a time.

        Without refitting: what is left of the scores :math:`t_B` of a block is
        :math:`[C^{-1}]_{BB}^{-1} [C^{-1} t]_B` (Rasmussen & Williams 2006, section 5.4.2). The
        noise of what was measured is taken off both sums of squares.

        Returns
        -------
        Coefficients of determination of the changes, ``"response"``, and of ``"mean_response"``:
        the mean of what else was seen, where there is any of the same perturbation in other
        contexts, or else of the same context.
        """
        left, means = np.empty_like(self.scores), np.empty_like(self.scores)
        for k, inverse in enumerate(self._inverses):
            solved = inverse @ self.scores[:, k]
            for block in blocks:
                left[block, k] = np.linalg.solve(inverse[np.ix_(block, block)], solved[block])
        for block in blocks:
            means[block] = self._mean_of_others(block)
        rows = np.concatenate(blocks)  # those of several parts more than once
        noise = float(self.noise_factor.sum() * (1 / self.n_cells[rows]).sum())
        whole = float((self.scores[rows] ** 2).sum()) - noise
        if whole <= 0:  # nothing that is more than noise
            return {"response": float("nan"), "mean_response": float("nan")}
        errors = {"response": left, "mean_response": self.scores - means}
        return {
            name: 1 - (float((error[rows] ** 2).sum()) - noise) / whole
            for name, error in errors.items()
        }

    def _mean_of_others(self, block: np.ndarray) -> np.ndarray:
        """Mean scores of the groups outside a block that are most like each of it."""
        rest = np.setdiff1d(np.arange(len(self.scores)), block)
        context = np.array([o.context for o in self.observed])
        out = np.zeros((len(block), self.scores.shape[1]))
        for i, row in enumerate(block):
            own = self.observed[row]
            same = [j for j in rest if self.observed[j].parts == own.parts]
            among = same or rest[context[rest] == own.context]
            among = among if len(among) else rest
            if len(among):
                out[i] = self.scores[among].mean(axis=0)
        return out

    @cached_property
    def _inverses(self) -> list[np.ndarray]:
        """Of the covariance of the groups, for each axis."""
        among = self.likeness.between(self.observed, self.observed)
        return [
            np.linalg.inv(np.tensordot(w, among, axes=1) + np.diag(nu / self.n_cells))
            for w, nu in zip(self.weights, self.noise_factor, strict=True)
        ]

    # what a model keeps

    def to_dict(self) -> dict[str, Any]:
        """Arrays, tables and builtins."""
        like = self.likeness
        return {
            "parts": [list(o.parts) for o in self.observed],
            "doses": np.array([o.dose for o in self.observed]),
            "context": np.array([o.context for o in self.observed], dtype=np.int64),
            "contexts": [list(c) for c in self.contexts],
            "vectors": like.vectors,
            "dose_curve": [list(like.curve.doses), list(like.curve.sizes)],
            "has_sets": like.has_sets,
            "baselines": like.places.baselines.astype(np.float32),
            "context_vectors": like.places.vectors,
            **{name: getattr(self, name) for name in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> ResponseModel:
        """Of what :meth:`to_dict` made."""
        rows = zip(kept["parts"], kept["doses"], kept["context"], strict=True)
        observed = [Observed(tuple(parts), float(d), int(c)) for parts, d, c in rows]
        n = len(kept["contexts"])
        places = Places(kept["baselines"], kept["context_vectors"], np.arange(n))
        curve = DoseCurve(*map(tuple, kept["dose_curve"]))
        likeness = Likeness(kept["vectors"], curve, places, bool(kept["has_sets"]))
        return cls(
            observed=observed,
            likeness=likeness,
            contexts=[tuple(c) for c in kept["contexts"]],
            **{name: kept[name] for name in _ARRAYS},
        )


_ARRAYS = ("n_cells", "axes", "noise", "scores", "weights", "noise_factor")


def blocks_of(model: ResponseModel, kind: str) -> list[np.ndarray]:
    """Groups that are left out together: all with a part, all of a set, or all of a context."""
    rows = np.arange(len(model.observed))
    if kind == "context":
        of = np.array([o.context for o in model.observed])
        return [rows[of == c] for c in np.unique(of)]
    if kind == "combination":
        sets: dict[Parts, list[int]] = {}
        for i, o in enumerate(model.observed):
            if len(o.parts) > 1:
                sets.setdefault(o.parts, []).append(i)
        return [np.array(block) for block in sets.values()]
    return [
        np.array([i for i in rows if name in model.observed[i].parts]) for name in model.singles
    ]
