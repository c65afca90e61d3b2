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
        What is seen of a response along each axis is to be multiplied by, ``(n_axes,)``: it is too
        large, since the axis was drawn to the noise.
    captured
        Share of a response's square that lies along each axis; the rest is across it.
    noise
        Variance of noise along each, where that of a single feature is 1, ``(n_axes,)``: noise of
        features goes together. Of scores that are multiplied by their trust, too.
    """

    axes: np.ndarray
    trust: np.ndarray
    captured: np.ndarray
    noise: np.ndarray


def find_axes(measured: MeasuredResponses) -> tuple[ResponseAxes, list[ResponseAxes]]:
    r"""Of all cells, and of each half of them.

    Axes are principal: right singular vectors of the changes :math:`Y`, of :math:`n` groups, whose
    noise is made independent over groups. They turn to the noise. How far, the other half of the
    cells tells: of :math:`Y = \sum y u v^T` it shows :math:`f = u^T Y' v / y`. A response of size
    :math:`d` that is seen in noise of unit variance, in :math:`p` features, has

    .. math:: f = b - \frac{n}{b y^2}, \quad b = \frac{d^2}{d^2 + p} = \frac{n + d^2}{y^2}

    where :math:`b` is what scores along the axis are to be multiplied by, so that what is noise in
    them has unit variance again (Benaych-Georges & Nadakuditi 2012, section 3.1). Of all cells
    :math:`f` is :math:`2 f / (1 + f)` (Spearman and Brown). Axes that the other half does not show
    are left out, so that noise alone has none.

    Returns
    -------
    Axes of all, and those of the halves, to be tried on the other one.

    References
    ----------
    Benaych-Georges & Nadakuditi 2012, The singular values and vectors of low rank perturbations of
    large rectangular random matrices, doi:10.1016/j.jmva.2012.04.019.
    """
    half = [measured.whitened(h) for h in measured.halves]
    found = [np.linalg.svd(h, full_matrices=False) for h in half]
    shown = [
        np.einsum("ik,ip,kp->k", u, other, vt, optimize=True) / np.maximum(size, 1e-12)
        for (u, size, vt), other in zip(found, half[::-1], strict=True)
    ]
    u, size, vt = np.linalg.svd(measured.whitened(measured.change), full_matrices=False)
    alike = np.concatenate([np.square(u.T @ of) for of, _, _ in found], axis=1)
    r = (alike @ np.concatenate(shown) / alike.sum(axis=1)).clip(0, 1)
    apart = (half[0] - half[1]) / 2  # as noisy as the changes, and independent of them
    noise = np.square(apart @ vt.T).mean(axis=0)
    chance = [np.sqrt(2 * noise) / np.maximum(of, 1e-12) for _, of, _ in found]
    is_sure = r > _SURE * np.mean(chance, axis=0)
    halves = [
        _kept(of, y**2 / 2, noise, f.clip(0, 1), f > _SURE * by_chance)
        for (_, y, of), f, by_chance in zip(found, shown, chance, strict=True)
    ]
    return _kept(vt, size**2, noise, 2 * r / (1 + r), is_sure), halves


def _kept(
    vt: np.ndarray, square: np.ndarray, noise: np.ndarray, shown: np.ndarray, is_sure: np.ndarray
) -> ResponseAxes:
    """Those of the axes that are sure; ``square`` is :math:`y^2` and ``shown`` :math:`f`."""
    n, y2 = len(vt), np.maximum(square / noise, 1e-12)
    trust = np.minimum((shown + np.sqrt(shown**2 + 4 * n / y2)) / 2, 1)
    response = np.maximum(trust * y2 - n, 1e-12)  # its square
    captured = np.minimum(shown * trust * y2 / response, 1)
    rows = np.flatnonzero(is_sure & (shown > 0))[:_MOST]
    return ResponseAxes(vt[rows], trust[rows], captured[rows], noise[rows])
