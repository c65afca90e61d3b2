"""Responses to perturbations, seen or not, with what is known of how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ._dose_curve import DoseCurve
from ._measured_responses import MeasuredResponses, Observed, noise_covariance
from ._response_axes import ResponseAxes, find_axes
from ._response_kernels import Likeness, Places
from ._variance_components import fit_components

__all__ = ["Predicted", "ResponseModel"]

_MOST_FITTED = 256  # groups that the weights of covariances are learnt from


class Predicted(NamedTuple):
    """Changes of mean log expression ``(n, n_features)``, and how far each is expected to be right.

    ``r2`` ``(n,)`` is the expected coefficient of determination of the change, from 0 to 1, and
    ``deviation`` ``(n, n_axes)`` the standard deviation along each axis.
    """

    change: np.ndarray
    r2: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True, eq=False)
class ResponseModel:
    r"""A Gaussian process of responses over names, vectors, doses and contexts.

    Changes of mean log expression are measured in units of their noise, turned to the axes along
    which they vary most, and taken for as much as other cells confirm (:func:`find_axes`). Along each
    axis :math:`k` the responses of groups :math:`i` are

    .. math:: t_{ik} \sim N\Big(0, \sum_j \theta_{jk} K_j(i, i') + \nu_k N_{ii'}\Big)

    with the covariances :math:`K_j` of :class:`Likeness`, which hold the mean response, ridge
    regression on vectors, smooth functions of them, sums over the parts of sets and what is a
    perturbation's own, weights :math:`\theta` that maximise the evidence, axis by axis, and
    the covariance :math:`N` of noise, which groups with the same controls share. What is predicted is the posterior mean: where vectors tell nothing it is the
    mean response, where a group was seen often it is what was seen.

    Attributes
    ----------
    observed, n_cells, pools
        Groups that it was learnt from, and what they were compared with, as
        :class:`MeasuredResponses` has them.
    axes, captured
        ``(n_axes, n_features)``, orthonormal, and what share of a response lies along each.
    noise
        Of one cell, ``(n_features,)``: the unit of each feature.
    scores, half_scores
        Of the groups, along the axes, ``(n, n_axes)``; of both halves, ``(2, n, n_axes)``.
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
    pools: np.ndarray
    axes: np.ndarray
    captured: np.ndarray
    noise: np.ndarray
    scores: np.ndarray
    half_scores: np.ndarray
    weights: np.ndarray
    noise_factor: np.ndarray
    likeness: Likeness
    contexts: list[tuple[int, ...]]

    @classmethod
    def fit(
        cls,
        measured: MeasuredResponses,
        vectors: pd.DataFrame,
        places: Places,
        axes: ResponseAxes | None = None,
    ) -> ResponseModel:
        """Learn from measured responses; ``places`` are their contexts."""
        likeness = Likeness.learn(measured, vectors, places)
        found = find_axes(measured)[0] if axes is None else axes
        turned = (found.axes / measured.noise).T * found.trust
        scores = measured.change @ turned
        some = np.random.default_rng(0).permutation(len(scores))[:_MOST_FITTED]
        groups = [measured.observed[i] for i in some]
        weights, factor = fit_components(
            scores[some],
            likeness.between(groups, groups),
            measured.covariance[np.ix_(some, some)],
            found.noise,
        )
        return cls(
            measured.observed,
            measured.n_cells,
            measured.pools,
            found.axes.astype(np.float32),
            found.captured,
            measured.noise.astype(np.float32),
            scores,
            measured.halves @ turned,
            weights,
            factor,
            likeness,
            measured.contexts,
        )

    @property
    def singles(self) -> list[str]:
        """Parts of what cells had."""
        return sorted({part for o in self.observed for part in o.parts})

    @property
    def measured(self) -> MeasuredResponses:
        """What it was learnt from, as far as the axes hold it."""
        return MeasuredResponses(
            self.observed,
            self.n_cells,
            (self.scores @ self.axes) * self.noise,
            (self.half_scores @ self.axes) * self.noise,
            self.pools,
            self.noise.astype(np.float64),
            self.contexts,
            self.likeness.places.baselines.astype(np.float64),
        )

    def predict(self, asked: Sequence[Observed], places: Places | None = None) -> Predicted:
        """Responses that are expected of groups, in contexts of ``places``, else of training."""
        across = self.likeness.between(asked, self.observed, places)
        own = self.likeness.variances(asked)
        mean = np.empty((len(asked), len(self.weights)))
        variance = np.empty_like(mean)
        for k, inverse in enumerate(self.inverses):
            shared = np.tensordot(self.weights[k], across, axes=1)
            mean[:, k] = shared @ (inverse @ self.scores[:, k])
            variance[:, k] = self.weights[k] @ own - ((shared @ inverse) * shared).sum(axis=1)
        # along an axis is a share of what is there; the rest is across it
        whole = ((mean**2 + variance.clip(0)) / self.captured).sum(axis=1)
        r2 = (mean**2).sum(axis=1) / np.maximum(whole, 1e-12)
        deviation = np.sqrt(variance.clip(0))
        return Predicted((mean @ self.axes) * self.noise, r2, deviation)

    def draws(self, predicted: Predicted, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Changes that are as likely, ``(n_draws, n, n_features)``: draws from the posterior."""
        off = rng.normal(size=(n_draws, *predicted.deviation.shape)) * predicted.deviation
        return predicted.change + (off @ self.axes) * self.noise

    @cached_property
    def inverses(self) -> list[np.ndarray]:
        """Of the covariance of the groups, for each axis."""
        among = self.likeness.between(self.observed, self.observed)
        noise = noise_covariance(self.n_cells, self.pools)
        return [
            np.linalg.inv(np.tensordot(w, among, axes=1) + nu * noise)
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


_ARRAYS = (
    "n_cells",
    "pools",
    "axes",
    "captured",
    "noise",
    "scores",
    "half_scores",
    "weights",
    "noise_factor",
)
