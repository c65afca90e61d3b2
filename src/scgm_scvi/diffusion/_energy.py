"""Energy guidance: pull samples towards what a differentiable function of clean data asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ._autograd import differentiable
from ._sampling import Denoise

__all__ = ["energy_guidance"]


def energy_guidance(
    denoise: Denoise,
    energy: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scale: float = 1.0,
    *,
    curvature: bool = False,
) -> Denoise:
    r"""Guide by a function of the clean data, which the network was not trained on.

    .. math::
        D'(x;\sigma) = D(x;\sigma) - w\,\sigma^2\,\nabla_x E(D(x;\sigma), \sigma)

    As :math:`D = x + \sigma^2 \nabla_x \ln p(x;\sigma)`, this is the denoiser of data whose
    density is :math:`p\,e^{-wE}`, if :math:`e^{-wE}` at :math:`D(x;\sigma)` is its expectation
    over the clean data that :math:`x` may stem from: approximately so where that posterior is
    narrow, and exactly for Gaussian data and the energy of a linear observation that counts the
    posterior's variance in. The gradient goes through the denoiser, at about twice the cost of
    the denoiser alone.

    An energy that does not count that variance asks for too much at high noise, and is too steep
    for few steps. With ``curvature`` it is counted here, along the direction :math:`g = \sigma^2
    \nabla_x E` of the step, which is divided by :math:`1 + \kappa`,

    .. math::
        \kappa = \max\left(0, \frac{g^\top H g}{g^\top \nabla_D E}\right), \qquad
        H = \nabla_D^2 E

    For Gaussian data and a linear observation :math:`E = (y - a^\top x_0)^2 / 2\tau^2`,
    :math:`\kappa` is :math:`a^\top \mathrm{Cov}(x_0|x)\,a / \tau^2`, and the result exact.

    Parameters
    ----------
    denoise
        Called as ``denoise(x, sigma)``, differentiable in ``x``; rows do not depend on each other.
    energy
        Called as ``energy(denoised, sigma)`` with the estimate of the clean data ``(n, d)``, in
        the units in which they are diffused; returns the energies ``(n,)``, lower where better.
    scale
        Weight :math:`w` of the energy; 0 is ``denoise`` itself.
    curvature
        Whether the posterior's variance is still to be counted in: ``True`` for an energy of
        clean data that knows nothing of noise, which must have a second derivative.

    Returns
    -------
    ``denoise(x, sigma)`` as samplers want it. It may be called inside ``torch.no_grad()``, leaves
    no gradient anywhere, and raises what is listed here.

    Raises
    ------
    RuntimeError
        If called inside ``torch.inference_mode()``.
    ValueError
        If the energies are no tensor, or have another shape, or no derivative.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import energy_guidance, heun, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)  # exact denoiser of N(0, 1)

    An observation of 2 with an error of variance 1: the posterior is N(1, 1/2).

    >>> def energy(denoised, sigma):
    ...     variance = 1 + sigma**2 / (1 + sigma**2)  # of the observation, given the noisy data
    ...     return (denoised[:, 0] - 2) ** 2 / (2 * variance)
    >>> x = 80 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    >>> x = heun(energy_guidance(gaussian, energy), x, karras_sigmas(40)).x
    >>> bool((x.mean() - 1).abs() < 0.1), bool((x.var() - 0.5).abs() < 0.1)
    (True, True)

    The same, where the variance is left to the function:

    >>> plain = lambda denoised, sigma: (denoised[:, 0] - 2) ** 2 / 2
    >>> noisy, sigma = torch.ones(1, 1), torch.tensor(3.0)
    >>> energy_guidance(gaussian, plain, curvature=True)(noisy, sigma)
    tensor([[1.]])
    >>> energy_guidance(gaussian, energy)(noisy, sigma)
    tensor([[1.]])

    References
    ----------
    Chung et al. 2023, Diffusion posterior sampling, arXiv:2209.14687; Song et al. 2021,
    arXiv:2011.13456, section 5; the posterior's variance: Song et al. 2023, Pseudoinverse-guided
    diffusion models, openreview.net/forum?id=9_gsMA8MRKQ.
    """
    if scale == 0:
        return denoise

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x, denoised = differentiable(denoise, x, sigma)
            clean = denoised.detach().requires_grad_()
            slope = _slope(energy(clean, sigma), clean, scale, curvature)
            (gradient,) = torch.autograd.grad(denoised, x, slope.detach())
            step = (sigma**2).reshape(-1, 1) * gradient
            if curvature:
                step = step / (1 + _curvature(slope, clean, step))[:, None]
        return denoised.detach() - step

    return guided


def _slope(
    energies: torch.Tensor, clean: torch.Tensor, scale: float, differentiable: bool
) -> torch.Tensor:
    """Derivative of the energies with respect to the clean data, once they are found in order."""
    if not isinstance(energies, torch.Tensor):
        raise ValueError(
            f"energy returned a {type(energies).__name__}; it must return a tensor, computed by "
            "operations of torch."
        )
    if energies.shape != (len(clean),):
        raise ValueError(
            f"energy returned shape {tuple(energies.shape)}; it must return one number a row: "
            f"{(len(clean),)}."
        )
    slope = None
    if energies.requires_grad:
        total = scale * energies.sum()
        (slope,) = torch.autograd.grad(total, clean, create_graph=differentiable, allow_unused=True)
    if slope is None:
        raise ValueError(
            "energy(denoised, sigma) has no derivative with respect to denoised: compute it "
            "from denoised by differentiable operations of torch."
        )
    return slope


def _curvature(slope: torch.Tensor, clean: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Second derivative of each row's energy along its step, by the first, and at least 0."""
    if not slope.requires_grad:  # linear
        return slope.new_zeros(len(slope))
    along = step.to(slope)
    (change,) = torch.autograd.grad(slope, clean, along, allow_unused=True)
    if change is None:
        return slope.new_zeros(len(slope))
    descent = (slope.detach() * along).sum(dim=1)  # not positive: no denoiser's, so take no step
    return (change * along).sum(dim=1).clamp(min=0) / descent.clamp(min=1e-30)
