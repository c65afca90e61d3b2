"""Grids: the noise levels that a sampler descends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ._noise import NOISE_PROCESSES

__all__ = ["GRIDS", "exponential_sigmas", "karras_sigmas", "linear_sigmas", "sigmas_for"]


def _ramp(n_steps: int, sigma_min: float, sigma_max: float) -> torch.Tensor:
    """0 to 1 in ``n_steps`` values, once the arguments of a grid are found in order."""
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}: a sampler needs at least one step.")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max}: need 0 < sigma_min < sigma_max."
        )
    return torch.linspace(0, 1, n_steps, dtype=torch.float64)


def _then_zero(sigmas: torch.Tensor) -> torch.Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def karras_sigmas(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> torch.Tensor:
    r"""Decreasing noise levels for ``n_steps`` sampling steps, ending in 0.

    .. math::
        \sigma_i = \left(\sigma_{max}^{1/\rho}
        + \tfrac{i}{n-1}(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\right)^\rho

    Parameters
    ----------
    n_steps
        Number of steps a sampler takes on this grid, at least 1.
    sigma_min, sigma_max
        Smallest positive and largest noise level, in units of the (standardised) data.
    rho
        Larger values put more steps near ``sigma_min``.

    Returns
    -------
    float64 tensor of shape ``(n_steps + 1,)``.

    Raises
    ------
    ValueError
        If ``n_steps`` is below 1 or the levels are not ``0 < sigma_min < sigma_max``.

    Examples
    --------
    >>> from scgm_scvi.diffusion import karras_sigmas
    >>> karras_sigmas(3, 0.1, 10.0, rho=1.0)
    tensor([10.0000,  5.0500,  0.1000,  0.0000], dtype=torch.float64)

    References
    ----------
    Karras et al. 2022, arXiv:2206.00364, equation 5.
    """
    ramp = _ramp(n_steps, sigma_min, sigma_max)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _then_zero((high + ramp * (low - high)) ** rho)


def exponential_sigmas(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> torch.Tensor:
    r"""Noise levels spread evenly in :math:`\ln\sigma`, decreasing, then 0.

    The limit of :func:`karras_sigmas` for large ``rho``: every step divides the noise by the same
    number, as stochastic samplers want it.

    Parameters
    ----------
    n_steps
        Number of steps a sampler takes on this grid, at least 1.
    sigma_min, sigma_max
        Smallest positive and largest noise level, in units of the (standardised) data.

    Returns
    -------
    float64 tensor of shape ``(n_steps + 1,)``.

    Raises
    ------
    ValueError
        If ``n_steps`` is below 1 or the levels are not ``0 < sigma_min < sigma_max``.

    Examples
    --------
    >>> from scgm_scvi.diffusion import exponential_sigmas
    >>> exponential_sigmas(3, 0.1, 10.0)
    tensor([10.0000,  1.0000,  0.1000,  0.0000], dtype=torch.float64)
    """
    ramp = _ramp(n_steps, sigma_min, sigma_max)
    return _then_zero(sigma_max * (sigma_min / sigma_max) ** ramp)


def linear_sigmas(n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> torch.Tensor:
    r"""Noise levels spread evenly in :math:`\sigma`, decreasing, then 0.

    Most of the steps fall where there is nothing but noise; it wants many.

    Parameters
    ----------
    n_steps
        Number of steps a sampler takes on this grid, at least 1.
    sigma_min, sigma_max
        Smallest positive and largest noise level, in units of the (standardised) data.

    Returns
    -------
    float64 tensor of shape ``(n_steps + 1,)``.

    Raises
    ------
    ValueError
        If ``n_steps`` is below 1 or the levels are not ``0 < sigma_min < sigma_max``.

    Examples
    --------
    >>> from scgm_scvi.diffusion import linear_sigmas
    >>> linear_sigmas(3, 1.0, 10.0)
    tensor([10.0000,  5.5000,  1.0000,  0.0000], dtype=torch.float64)
    """
    ramp = _ramp(n_steps, sigma_min, sigma_max)
    return _then_zero(sigma_max + ramp * (sigma_min - sigma_max))


GRIDS: dict[str, Callable[..., torch.Tensor]] = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "linear": linear_sigmas,
}
"""Grids by name, called as ``grid(n_steps, sigma_min, sigma_max)``. A new one is one entry."""


def sigmas_for(
    name: str, n_steps: int, sigma_min: float | None = None, sigma_max: float | None = None
) -> torch.Tensor:
    """Noise levels of a grid, or of a noise process's own grid, by name.

    Parameters
    ----------
    name
        A name in :data:`GRIDS`, or one in :data:`NOISE_PROCESSES` for levels at times spread
        evenly (:meth:`NoiseProcess.sigmas`).
    n_steps
        Number of steps a sampler takes on this grid, at least 1.
    sigma_min, sigma_max
        Smallest positive and largest noise level. If not given, those of the process, 0.002 and
        80 for a grid. The range of a process cannot be left: what lies outside is cut off, so
        start a sampler with noise of the level ``sigmas[0]``.

    Returns
    -------
    float64 tensor of shape ``(n_steps + 1,)``, decreasing to 0.

    Raises
    ------
    ValueError
        If the name is unknown, or a number makes no sense.

    Examples
    --------
    >>> from scgm_scvi.diffusion import sigmas_for
    >>> sigmas_for("exponential", 3, sigma_min=0.1, sigma_max=10.0)
    tensor([10.0000,  1.0000,  0.1000,  0.0000], dtype=torch.float64)
    >>> sigmas_for("ve", 2)
    tensor([9.8452, 0.0317, 0.0000], dtype=torch.float64)
    """
    if name in NOISE_PROCESSES:
        return NOISE_PROCESSES[name].sigmas(n_steps, sigma_min, sigma_max)
    if name not in GRIDS:
        known = ", ".join(map(repr, (*GRIDS, *NOISE_PROCESSES)))
        raise ValueError(f"grid {name!r} is unknown. Known grids and noise processes: {known}.")
    given = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    return GRIDS[name](n_steps, **{k: v for k, v in given.items() if v is not None})
