"""Editing: carry data to noise, from where samplers bring them back under other conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ._samplers import dpmpp_2m
from ._sampling import Callback, Denoise, SamplerOutput, normal_like, steps

__all__ = ["invert", "sdedit", "slerp", "strength_sigma"]


def strength_sigma(strength: float) -> float:
    r"""Noise level of an edit's strength: :math:`\sigma = \tan(\pi s / 2)`.

    For data of variance 1 the noise then makes up :math:`\sin(\pi s/2)` of the standard
    deviation: strength 0 is no noise, 1/2 as much noise as data, and 1 nothing but noise, as along
    the cosine schedule.

    Raises
    ------
    ValueError
        If the strength is outside of 0 to 1.

    Examples
    --------
    >>> from scgm_scvi.diffusion import strength_sigma
    >>> strength_sigma(0), round(strength_sigma(0.5), 6), strength_sigma(1)
    (0.0, 1.0, inf)

    References
    ----------
    Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17, without its offset.
    """
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength!r}; it must be from 0 (nothing changes) to 1 (from scratch)."
        )
    return math.inf if strength == 1 else math.tan(math.pi * strength / 2)


def sdedit(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    sampler: Callable[..., SamplerOutput] = dpmpp_2m,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> SamplerOutput:
    r"""Noise data to an intermediate level, and let a sampler bring them back: SDEdit.

    .. math:: x_\sigma = x + \sigma n, \quad n \sim N(0, I), \quad \sigma = \text{sigmas}[0]

    What is finer than :math:`\sigma` is drawn anew, under whatever ``denoise`` is conditioned on
    or guided by, at every step on the way down; what is coarser stays.

    Parameters
    ----------
    denoise
        Called as ``denoise(x, sigma)``, as samplers do.
    x
        Data of shape ``(n, d)``, in the units in which they are diffused.
    sigmas
        The decreasing grid of noise levels. Its first entry is the strength of the edit.
    sampler
        Of :data:`SAMPLERS`, or like them.
    generator
        Source of all randomness.
    callback
        Passed to the sampler.
    **options
        Passed to the sampler.

    Returns
    -------
    The sampler's output.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import karras_sigmas, sdedit
    >>> target = lambda x, sigma: (x + 5 * sigma**2) / (1 + sigma**2)  # denoiser of N(5, 1)
    >>> x = torch.zeros(1000, 1)
    >>> for sigma in (0.1, 1.0, 10.0):
    ...     g = torch.Generator().manual_seed(0)
    ...     edited = sdedit(target, x, karras_sigmas(20, 0.01, sigma), generator=g).x
    ...     print(round(edited.mean().item(), 1))
    0.0
    1.5
    4.5

    References
    ----------
    Meng et al. 2022, arXiv:2108.01073, algorithm 1.
    """
    x = x.double()
    x = x + float(sigmas[0]) * normal_like(x, generator)
    return sampler(denoise, x, sigmas, generator=generator, callback=callback, **options)


def invert(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""Find the noise from which a deterministic sampler makes the data: DDIM inversion.

    The probability flow is followed from the smallest positive level of the grid up to its
    largest, by Heun's method in :math:`\ln\sigma` with the state :math:`y = x/\sqrt{1+\sigma^2}`,
    which keeps a variance of 1 at every level:

    .. math:: \frac{dy}{d\ln\sigma} = \frac{y}{1+\sigma^2} - \frac{D(x;\sigma)}{\sqrt{1+\sigma^2}}

    Of second order, two evaluations a step. On the grids that samplers use, it comes two to ten
    times closer to the flow than a sampler run backwards, in :math:`\sigma`; an error of the
    round trip is then that of the sampler, and falls with the square of the number of steps.

    Parameters
    ----------
    denoise
        Called as ``denoise(x, sigma)``, as samplers do.
    x
        Data of shape ``(n, d)``, in the units in which they are diffused. They are taken to be at
        the last level of the grid, or at the last but one where the last is 0.
    sigmas
        The decreasing grid of noise levels that a sampler will come down by.
    callback
        Called as ``callback(step, x, denoised)`` after every step, the first of which is at the
        lowest level.

    Returns
    -------
    ``x`` at the largest level, float64, and the number of evaluations.

    Raises
    ------
    ValueError
        If the grid does not decrease or has fewer than two positive levels.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import heun, invert, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)  # exact denoiser of N(0, 1)
    >>> x = torch.tensor([[-1.0], [0.5]])
    >>> noise = invert(gaussian, x, karras_sigmas(50)).x
    >>> noise / 80
    tensor([[-1.0001],
            [ 0.5000]], dtype=torch.float64)
    >>> bool((heun(gaussian, noise, karras_sigmas(50)).x - x).abs().max() < 0.01)
    True

    References
    ----------
    Song, Meng & Ermon 2021, arXiv:2010.02502, equation 14 and section 5.4.
    """
    grid = steps(sigmas)
    if grid[-1][2] == 0:
        grid.pop()  # in ln(sigma), level 0 is infinitely far
    if not grid:
        raise ValueError(
            f"sigmas must hold at least two positive levels to move between, got {sigmas}."
        )
    x = x.double()
    for step, (i, high, low) in enumerate(reversed(grid)):
        total, total_next, h = math.hypot(1, low), math.hypot(1, high), math.log(high / low)
        denoised = denoise(x, sigmas[i + 1]).double()
        slope = _slope(x, denoised, total)
        y = x / total
        predicted = torch.add(y, slope, alpha=h).mul_(total_next)
        slope.add_(_slope(predicted, denoise(predicted, sigmas[i]), total_next))
        x = torch.add(y, slope, alpha=h / 2).mul_(total_next)
        if callback is not None:
            callback(step, x, denoised)
    return SamplerOutput(x, 2 * len(grid))


def _slope(x: torch.Tensor, denoised: torch.Tensor, total: float) -> torch.Tensor:
    return torch.sub(x / total**2, denoised).div_(total)


def slerp(a: torch.Tensor, b: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    r"""Spherical interpolation of noise: what lies between two noises is noise of like norm.

    .. math::
        \frac{\sin((1-w)\theta)}{\sin\theta}\,a + \frac{\sin(w\theta)}{\sin\theta}\,b,
        \qquad \cos\theta = \frac{a \cdot b}{\|a\|\,\|b\|}

    A straight line would pass nearer to the origin than noise ever is.

    Parameters
    ----------
    a, b
        Noises ``(n, d)``.
    weight
        0 is ``a``, 1 is ``b``; a number, or ``(n, 1)``.

    Returns
    -------
    Tensor ``(n, d)``. Rows that are parallel are interpolated along the line.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import slerp
    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])

    References
    ----------
    Shoemake 1985, doi:10.1145/325165.325242; for diffusion models Song, Meng & Ermon 2021,
    arXiv:2010.02502, section 5.3.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.double(), b.double()  # near 0 and pi, the cosine has half of the digits
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-300).clamp(-1, 1)
    theta = cosine.arccos()[:, None]
    sine = theta.sin()
    parallel = sine.abs() < 1e-6
    sine = torch.where(parallel, torch.ones_like(sine), sine)
    u = torch.where(
        parallel, torch.zeros_like(sine) + (1 - weight), ((1 - weight) * theta).sin() / sine
    )
    v = torch.where(parallel, torch.zeros_like(sine) + weight, (weight * theta).sin() / sine)
    return (u * a + v * b).to(dtype)
