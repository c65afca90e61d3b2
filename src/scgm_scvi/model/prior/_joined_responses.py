"""What two screens say of perturbations, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from ._measured_responses import MeasuredResponses, Observed
from ._response_model import ResponseModel

__all__ = ["joined_responses"]


def joined_responses(
    known: ResponseModel, measured: MeasuredResponses, missing: Sequence[int] = ()
) -> MeasuredResponses:
    """What was learnt before together with what is measured now.

    Groups that both have are averaged by their cells, as are baselines of contexts.

    Parameters
    ----------
    known
        Of other cells, whose contexts have the same tokens.
    measured
        Of other cells than those.
    missing
        Features that these were not measured of: their changes are those that go with the others'
        along the axes known before.
    """
    both = (known.measured, _filled(known, measured, missing))
    contexts = list(dict.fromkeys(c for of in both for c in of.contexts))
    observed: dict[Observed, int] = {}
    rows = []
    weight, total = np.zeros(len(contexts)), np.zeros((len(contexts), len(measured.noise)))
    for of in both:
        at = [contexts.index(c) for c in of.contexts]
        rows += [
            observed.setdefault(Observed(o.parts, o.dose, at[o.context]), len(observed))
            for o in of.observed
        ]
        cells = np.bincount([o.context for o in of.observed], of.n_cells, len(of.contexts)) + 1
        weight[at] += cells
        total[at] += cells[:, None] * of.baselines
    n = np.concatenate([of.n_cells for of in both])
    average = np.zeros((len(observed), len(n)))
    average[rows, np.arange(len(n))] = n
    n_cells = average.sum(axis=1)
    average /= n_cells[:, None]
    variance = sum(of.n_cells.sum() * of.noise**2 for of in both) / n.sum()
    return MeasuredResponses(
        list(observed),
        n_cells,
        average @ np.concatenate([of.change for of in both]),
        average @ np.concatenate([of.halves for of in both], axis=1),
        average @ block_diag(*(of.pools for of in both)),
        np.sqrt(variance),
        contexts,
        total / weight[:, None],
        both[1].left_out,
        both[1].confounded,
    )


def _filled(
    known: ResponseModel, measured: MeasuredResponses, missing: Sequence[int]
) -> MeasuredResponses:
    """With something in place of features that were not measured."""
    if not len(missing) or not measured.observed:
        return measured
    absent = np.zeros(measured.change.shape[1], dtype=bool)
    absent[list(missing)] = True
    axes, unit = known.axes.astype(np.float64), known.noise.astype(np.float64)
    inverse = np.linalg.pinv(axes[:, ~absent], rcond=1e-3)

    def filled(change: np.ndarray) -> np.ndarray:
        scores = (change / unit)[..., ~absent] @ inverse
        return np.where(absent, scores @ axes * unit, change)

    baselines = measured.baselines.copy()
    baselines[:, absent] = known.likeness.places.baselines[:, absent].mean(axis=0)
    noise = np.where(absent, unit, measured.noise)
    change, halves = filled(measured.change), filled(measured.halves)
    return replace(measured, change=change, halves=halves, noise=noise, baselines=baselines)
