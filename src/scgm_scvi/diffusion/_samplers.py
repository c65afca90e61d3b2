"""Samplers: plain functions that carry noise to data along a grid of noise levels.

Every sampler has one signature, ``sampler(denoise, x, sigmas, *, generator, callback)``, and some
have options of their own after it:

- ``denoise(x, sigma)`` estimates the clean data; ``sigma`` is a 0-d float64 tensor;
- ``x`` of shape ``(n, d)`` carries noise of level ``sigmas[0]``; computed with in float64;
- ``sigmas`` of shape ``(n_steps + 1,)`` decreases, its last entry may be 0;
- ``generator`` is the only source of randomness;
- ``callback(step, x, denoised)`` is called after every step;
- it returns a :class:`SamplerOutput`.

Here are the solvers of the probability-flow ODE; stochastic ones are in ``_stochastic_samplers``.
A new sampler is one function and one line in :data:`SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ._sampling import Callback, Denoise, SamplerOutput, steps
from ._stochastic_samplers import ancestral, dpmpp_2m_sde, euler_maruyama, pc

__all__ = [
    "SAMPLERS",
    "Sampler",
    "SamplerOutput",
    "ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler",
    "euler_maruyama",
    "heun",
    "pc",
]


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
    x = x.double()
    for i, sigma, sigma_next in steps(sigmas):
        denoised = denoise(x, sigmas[i]).double()
        x = torch.lerp(denoised, x, sigma_next / sigma)
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
    x, n = x.double(), 0
    for i, sigma, sigma_next in steps(sigmas):
        denoised = denoise(x, sigmas[i]).double()
        predicted = torch.lerp(denoised, x, sigma_next / sigma)
        n += 1
        if sigma_next > 0:
            slope = torch.sub(x, denoised).div_(sigma)
            slope_next = predicted - denoise(predicted, sigmas[i + 1])
            n += 1
            slope.add_(slope_next, alpha=1 / sigma_next)
            x = torch.add(x, slope, alpha=(sigma_next - sigma) / 2)
        else:
            x = predicted
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
    its second point. Deterministic: :func:`dpmpp_2m_sde` without its noise. Lu et al. 2022,
    arXiv:2211.01095, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import dpmpp_2m, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> dpmpp_2m(gaussian, 80 * torch.ones(1, 1), karras_sigmas(20)).n_evaluations
    20
    """
    return dpmpp_2m_sde(denoise, x, sigmas, callback=callback, eta=0.0)


class Sampler(NamedTuple):
    """An entry of :data:`SAMPLERS`.

    Attributes
    ----------
    function
        The sampler.
    default_steps
        Number of steps taken where a user names none.
    grid
        Where a user names none, the grid it descends: a name that :func:`sigmas_for` knows.
    """

    function: Callable[..., SamplerOutput]
    default_steps: int
    grid: str = "karras"


SAMPLERS: dict[str, Sampler] = {
    "dpmpp_2m": Sampler(dpmpp_2m, default_steps=20, grid="exponential"),
    "heun": Sampler(heun, default_steps=18),
    "euler": Sampler(euler, default_steps=36),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, default_steps=100, grid="exponential"),
    "ancestral": Sampler(ancestral, default_steps=200, grid="exponential"),
    "euler_maruyama": Sampler(euler_maruyama, default_steps=200, grid="exponential"),
    "pc": Sampler(pc, default_steps=500, grid="ve"),
}
"""Samplers by name."""
