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

    Parameters
    ----------
    denoise
        Called as ``denoise(x, sigma)``, differentiable in ``x``; rows do not depend on each other.
    energy
        Called as ``energy(denoised, sigma)`` with the estimate of the clean data ``(n, d)``, in
        the units in which they are diffused; returns the energies ``(n,)``, lower where better.
    scale
        Weight :math:`w` of the energy; 0 is ``denoise`` itself.

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

    References
    ----------
    Chung et al. 2023, Diffusion posterior sampling, arXiv:2209.14687; Song et al. 2021,
    arXiv:2011.13456, section 5.
    """
    if scale == 0:
        return denoise

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x, denoised = differentiable(denoise, x, sigma)
            energies = energy(denoised, sigma)
            if not isinstance(energies, torch.Tensor):
                raise ValueError(
                    f"energy returned a {type(energies).__name__}; it must return a tensor, "
                    "computed by operations of torch."
                )
            if energies.shape != (len(x),):
                raise ValueError(
                    f"energy returned shape {tuple(energies.shape)}; it must return one number a "
                    f"row: {(len(x),)}."
                )
            gradient = None
            if energies.requires_grad:
                (gradient,) = torch.autograd.grad(energies.sum(), x, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "energy(denoised, sigma) has no derivative with respect to denoised: compute it "
                "from denoised by differentiable operations of torch."
            )
        return denoised.detach() - (scale * sigma**2).reshape(-1, 1) * gradient

    return guided
