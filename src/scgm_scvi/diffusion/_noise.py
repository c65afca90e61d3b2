"""Noise levels: the grid that samplers descend and the levels that training draws."""

from __future__ import annotations

import torch

__all__ = ["karras_sigmas", "lognormal_sigmas"]


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
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}: a sampler needs at least one step.")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max}: need 0 < sigma_min < sigma_max."
        )
    ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def lognormal_sigmas(
    n: int,
    mean: float = -0.5,
    std: float = 1.2,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    r"""Noise levels for training, :math:`\ln\sigma \sim N(mean, std^2)`, one per quantile bin.

    Stratified draws cover the noise levels evenly in every minibatch, which lowers the variance
    of the loss without changing its expectation.

    Parameters
    ----------
    n
        Number of levels.
    mean, std
        Of :math:`\ln\sigma`. The default mean is that of Karras et al. 2022 (-1.2 for data of
        standard deviation 0.5) carried over to unit variance: :math:`-1.2 + \ln 2`.
    generator
        Source of randomness.
    device
        Where the levels are made.

    Returns
    -------
    float32 tensor of shape ``(n,)``, in random order.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import lognormal_sigmas
    >>> lognormal_sigmas(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])
    """
    order = torch.randperm(n, generator=generator, device=device)
    u = (order + torch.rand(n, generator=generator, device=device)) / n
    normal = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
    return (mean + std * normal).exp().float()
