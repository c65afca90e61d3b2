"""Samplers: plain functions that carry noise to data along a grid of noise levels.

Every sampler has one signature, ``sampler(denoise, x, sigmas, *, generator, callback)``:

- ``denoise(x, sigma)`` estimates the clean data; ``sigma`` is a 0-d float64 tensor;
- ``x`` of shape ``(n, d)`` carries noise of level ``sigmas[0]``; computed with in float64;
- ``sigmas`` of shape ``(n_steps + 1,)`` decreases, its last entry may be 0;
- ``callback(step, x, denoised)`` is called after every step;
- it returns a :class:`SamplerOutput`.

A new sampler is one function and one line in :data:`SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = ["SAMPLERS", "Sampler", "SamplerOutput", "ancestral", "dpmpp_2m", "euler", "heun"]

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Callback = Callable[[int, torch.Tensor, torch.Tensor], None]


class SamplerOutput(NamedTuple):
    """What a sampler returns.

    Attributes
    ----------
    x
        Samples of shape ``(n, d)``, float64, at the last noise level of the grid.
    n_evaluations
        How often ``denoise`` was called.
    """

    x: torch.Tensor
    n_evaluations: int


class Sampler(NamedTuple):
    """An entry of :data:`SAMPLERS`.

    Attributes
    ----------
    function
        The sampler.
    default_steps
        Number of steps taken where a user names none.
    """

    function: Callable[..., SamplerOutput]
    default_steps: int


def _check(sigmas: torch.Tensor) -> None:
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(f"sigmas must decrease and hold at least two levels, got {sigmas}.")


def euler(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""First-order solver of the probability-flow ODE (DDIM), one evaluation a step.

    :math:`dx/d\sigma = (x - D(x;\sigma))/\sigma`; deterministic. Song, Meng & Ermon 2021,
    arXiv:2010.02502; Karras et al. 2022, arXiv:2206.00364, equation 4.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import euler, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)  # exact denoiser of N(0, 1)
    >>> x = 80 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    >>> bool((euler(gaussian, x, karras_sigmas(200)).x.std() - 1).abs() < 0.1)
    True
    """
    _check(sigmas)
    x = x.double()
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma).double()
        x = denoised + (sigma_next / sigma) * (x - denoised)
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


def heun(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    """Second-order solver of the probability-flow ODE: two evaluations a step, one in the last.

    Deterministic. Karras et al. 2022, arXiv:2206.00364, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import heun, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> heun(gaussian, 80 * torch.ones(1, 1), karras_sigmas(18)).n_evaluations
    35
    """
    _check(sigmas)
    x, n = x.double(), 0
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma).double()
        n += 1
        slope = (x - denoised) / sigma
        step = sigma_next - sigma
        if sigma_next > 0:
            predicted = x + step * slope
            slope_next = (predicted - denoise(predicted, sigma_next).double()) / sigma_next
            n += 1
            x = x + step * (slope + slope_next) / 2
        else:
            x = x + step * slope
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, n)


def dpmpp_2m(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""DPM-Solver++(2M): a multistep solver of second order, one evaluation a step.

    Exponential integrator in :math:`\lambda = -\ln\sigma`, with the previous step's estimate as
    its second point. Deterministic. Lu et al. 2022, arXiv:2211.01095, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import dpmpp_2m, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> dpmpp_2m(gaussian, 80 * torch.ones(1, 1), karras_sigmas(20)).n_evaluations
    20
    """
    _check(sigmas)
    x, previous, h_previous = x.double(), None, None
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma).double()
        if sigma_next == 0:  # lambda is infinite: the step lands on the estimate
            x = denoised
        else:
            h = sigma.log() - sigma_next.log()
            estimate = denoised
            if previous is not None:
                estimate = denoised + (h / h_previous) / 2 * (denoised - previous)
            x = (sigma_next / sigma) * x - torch.expm1(-h) * estimate
            previous, h_previous = denoised, h
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


def ancestral(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""Ancestral sampling: each step draws from :math:`q(x_{next} | x, x_0 = D(x;\sigma))`.

    Stochastic, one evaluation a step, and in need of hundreds of steps: the sampler of DDPM
    (Ho et al. 2020, arXiv:2006.11239, equations 6-7) in variance-exploding form.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import ancestral, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 80 * torch.randn(1000, 1, generator=g)
    >>> bool((ancestral(gaussian, x, karras_sigmas(200), generator=g).x.std() - 1).abs() < 0.1)
    True
    """
    _check(sigmas)
    x = x.double()
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma).double()
        ratio = (sigma_next / sigma) ** 2
        x = denoised + ratio * (x - denoised)
        if sigma_next > 0:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + sigma_next * (1 - ratio).sqrt() * noise
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


SAMPLERS: dict[str, Sampler] = {
    "dpmpp_2m": Sampler(dpmpp_2m, default_steps=30),
    "heun": Sampler(heun, default_steps=18),
    "euler": Sampler(euler, default_steps=36),
    "ancestral": Sampler(ancestral, default_steps=1000),
}
"""Samplers by name."""
