"""The axes along which responses vary, and how much of what is seen along each is no noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._measured_responses import MeasuredResponses

__all__ = ["ResponseAxes", "find_axes"]

_MOST = 20
_SURE = 2.5  # standard deviations beyond what noise would show


@dataclass(frozen=True, eq=False)
class ResponseAxes:
    """Orthonormal axes ``(n_axes, n_features)`` of changes in units of their noise.

    Attributes
    ----------
    trust
        Share of what is seen along each axis that other cells of the same groups would show,
        ``(n_axes,)``; the rest is noise that the axis was drawn to.
    noise
        Variance of noise along each, where that of a single feature is 1, ``(n_axes,)``: noise of
        features goes together.
    """

    axes: np.ndarray
    trust: np.ndarray
    noise: np.ndarray


def find_axes(measured: MeasuredResponses) -> tuple[ResponseAxes, list[ResponseAxes]]:
    r"""Of all cells, and of each half of them.

    Axes are principal: right singular vectors of the changes, whose noise is made independent over
    groups. What is seen along them is too large, as they turn to the noise: :math:`u^T Y' v` tells
    by how much, of the vectors :math:`u, v` of one half of the cells and the changes :math:`Y'` of
    the other. Of all cells it is :math:`2 r / (1 + r)` (Spearman and Brown), with :math:`r` of the
    halves. Axes that the other half does not show are left out, so that noise alone has none.

    Returns
    -------
    Axes of all, and those of the halves, to be tried on the other one.
    """
    half = [measured.whitened(h) for h in measured.halves]
    found = [np.linalg.svd(h, full_matrices=False) for h in half]
    of_halves = [
        np.einsum("ik,ip,kp->k", u, other, vt, optimize=True) / np.maximum(size, 1e-12)
        for (u, size, vt), other in zip(found, half[::-1], strict=True)
    ]
    u, _, vt = np.linalg.svd(measured.whitened(measured.change), full_matrices=False)
    alike = np.concatenate([np.square(u.T @ of) for of, _, _ in found], axis=1)
    r = (alike @ np.concatenate(of_halves) / alike.sum(axis=1)).clip(0, 1)
    apart = (half[0] - half[1]) / 2  # as noisy as the changes, and independent of them
    noise = np.square(apart @ vt.T).mean(axis=0)
    chance = [np.sqrt(2 * noise) / np.maximum(size, 1e-12) for _, size, _ in found]
    whole = _kept(vt, 2 * r / (1 + r), noise, r > _SURE * np.mean(chance, axis=0))
    halves = [
        _kept(of, trust.clip(0, 1), noise, trust > _SURE * by_chance)
        for (_, _, of), trust, by_chance in zip(found, of_halves, chance, strict=True)
    ]
    return whole, halves


def _kept(
    vt: np.ndarray, trust: np.ndarray, noise: np.ndarray, is_sure: np.ndarray
) -> ResponseAxes:
    rows = np.flatnonzero(is_sure & (trust > 0))[:_MOST]
    return ResponseAxes(vt[rows], trust[rows], noise[rows])
