"""How well responses are predicted of cells that were not looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgm_scvi._perturbations import Parts

from ._measured_responses import MeasuredResponses, Observed
from ._response_axes import ResponseAxes
from ._response_kernels import Places
from ._response_model import ResponseModel

__all__ = ["blocks_of", "left_out_scores"]

KINDS = ("seen", "perturbation", "combination", "context")
_LEAST = 3  # to leave one out, and have two to learn from


def left_out_scores(
    measured: MeasuredResponses,
    vectors: pd.DataFrame,
    places: Places,
    axes: Sequence[ResponseAxes],
) -> dict[str, dict[str, float]]:
    r"""How well one half of the cells predicts what the other half shows.

    Of groups themselves, ``"seen"``, and of groups that are left out, with all that shares a part,
    a set or a context with them. Without refitting: what is expected of a block :math:`B` from all
    others :math:`A` is :math:`K_{BA} C_{AA}^{-1} t_A` (Rasmussen & Williams 2006, section 5.4.2).
    With the changes :math:`y` of the other half, whose noise is independent, and :math:`y'` of the
    first, the coefficient of determination of a prediction :math:`m` is
    :math:`(2 \langle m, y \rangle - |m|^2) / \langle y, y' \rangle`, over genes in units of noise.

    Parameters
    ----------
    axes
        Of each half.

    Returns
    -------
    By kind, ``"response"`` and ``"mean_response"``: the mean of what else was seen, of the same
    perturbation in other contexts, or else in the same context. NaN where both halves have no more
    in common than noise would; kinds of which there are fewer than three are left out.
    """
    fitted = [ResponseModel.fit(measured.half(h), vectors, places, axes[h]) for h in range(2)]
    scaled = measured.halves / measured.noise
    covariance, chance = measured.covariance, _chance(measured)
    out = {}
    for kind in KINDS:
        blocks = blocks_of(measured.observed, kind)
        if kind != "seen" and len(blocks) < _LEAST:
            continue
        rows = np.concatenate(blocks)  # those of several parts more than once
        whole = 2 * float((scaled[0][rows] * scaled[1][rows]).sum())
        by_chance = 4 * np.linalg.norm(covariance[np.ix_(rows, rows)]) * chance
        if whole < 2 * by_chance:
            out[kind] = {"response": float("nan"), "mean_response": float("nan")}
            continue
        gained = {"response": 0.0, "mean_response": 0.0}
        for model, own, other in zip(fitted, scaled, scaled[::-1], strict=True):
            found = {
                "response": _expected(model, blocks, is_seen=kind == "seen") @ model.axes,
                "mean_response": _means(measured.observed, own, blocks),
            }
            for name, m in found.items():
                gained[name] += float((2 * m[rows] * other[rows] - m[rows] ** 2).sum())
        out[kind] = {name: value / whole for name, value in gained.items()}
    return out


def blocks_of(observed: Sequence[Observed], kind: str) -> list[np.ndarray]:
    """Groups left out together: each; all with a part, all of a set, or all of a context."""
    rows = np.arange(len(observed))
    if kind == "seen":
        return [rows[i : i + 1] for i in rows]
    if kind == "context":
        of = np.array([o.context for o in observed])
        return [rows[of == c] for c in np.unique(of)]
    by: dict[str | Parts, list[int]] = {}
    for i, o in enumerate(observed):
        if kind == "combination":
            if len(o.parts) > 1:
                by.setdefault(o.parts, []).append(i)
        else:
            for part in o.parts:
                by.setdefault(part, []).append(i)
    return [np.array(block) for block in by.values()]


def _chance(measured: MeasuredResponses) -> float:
    """Standard deviation of the inner product of the noise of two groups of one cell each."""
    apart = measured.whitened((measured.halves[0] - measured.halves[1]) / 2)
    n, p = apart.shape
    among = np.square(apart @ apart.T)
    # features whose noise goes together are fewer than they seem
    square = (among.sum() - np.trace(among)) / (n * (n - 1)) if n > 1 else p
    return float(np.sqrt(max(square, p)))


def _expected(model: ResponseModel, blocks: Sequence[np.ndarray], *, is_seen: bool) -> np.ndarray:
    """Scores that are expected of groups, ``(n, n_axes)``: of each block without its own."""
    out = np.zeros_like(model.scores)
    among = model.likeness.between(model.observed, model.observed)
    for k, inverse in enumerate(model.inverses):
        shared = np.tensordot(model.weights[k], among, axes=1)
        solved = inverse @ model.scores[:, k]
        if is_seen:
            out[:, k] = shared @ solved
            continue
        for block in blocks:
            own = np.linalg.solve(inverse[np.ix_(block, block)], solved[block])
            others = solved - inverse[:, block] @ own  # of the rest; 0 of the block itself
            others[block] = 0
            out[block, k] = shared[block] @ others
    return out


def _means(
    observed: Sequence[Observed], changes: np.ndarray, blocks: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean changes of the groups outside each block that are most like each of it."""
    context = np.array([o.context for o in observed])
    of: dict[Parts, list[int]] = {}
    for i, o in enumerate(observed):
        of.setdefault(o.parts, []).append(i)
    out = np.zeros_like(changes)
    for block in blocks:
        outside = np.ones(len(observed), dtype=bool)
        outside[block] = False
        for row in block:
            same = [j for j in of[observed[row].parts] if outside[j]]
            among = same or np.flatnonzero(outside & (context == context[row]))
            among = among if len(among) else np.flatnonzero(outside)
            if len(among):
                out[row] = changes[among].mean(axis=0)
    return out
