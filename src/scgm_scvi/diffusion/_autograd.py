"""Derivatives of a denoiser with respect to its input."""

from __future__ import annotations

import torch

from ._sampling import Denoise

__all__ = ["differentiable"]


def differentiable(
    denoise: Denoise, x: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoise a copy of ``x`` with a graph from the estimate back to it, whoever the caller is.

    To be called inside ``torch.enable_grad()``, where derivatives are taken as well.

    Returns
    -------
    The copy of ``x`` and the estimate.

    Raises
    ------
    RuntimeError
        If called in inference mode.
    ValueError
        If the estimate has no derivative.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion._autograd import differentiable
    >>> with torch.enable_grad():
    ...     x, denoised = differentiable(lambda x, s: x**2, torch.ones(1, 1), torch.tensor(1.0))
    ...     torch.autograd.grad(denoised.sum(), x)
    (tensor([[2.]]),)
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "derivatives of the denoiser are needed, and torch.inference_mode() rules them out; "
            "use torch.no_grad() instead."
        )
    x = x.detach().clone().requires_grad_()  # a clone: x itself may come from inference mode
    denoised = denoise(x, sigma)
    if not denoised.requires_grad:
        raise ValueError(
            "denoise(x, sigma) has no derivative with respect to x: it must neither detach its "
            "input nor turn gradients off."
        )
    return x, denoised
