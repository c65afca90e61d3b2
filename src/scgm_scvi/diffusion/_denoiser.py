"""The denoiser: a network that never sees the noise level unscaled, and what follows from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ._noise import NOISE_PROCESSES, NoiseProcess

__all__ = ["Denoiser"]


class Denoiser(nn.Module):
    r"""Estimate clean data from noisy data, :math:`D(x; \sigma) \approx E[x_0 | x_0 + \sigma n]`.

    The network :math:`F` is wrapped so that its input and its target have unit variance at every
    noise level (Karras et al. 2022, arXiv:2206.00364, equation 7, :math:`\sigma_{data} = 1`):

    .. math::
        D(x;\sigma) = \frac{1}{1+\sigma^2}\, x + \frac{\sigma}{\sqrt{1+\sigma^2}}\,
        F\!\left(\frac{x}{\sqrt{1+\sigma^2}},\ \tfrac14\ln\sigma,\ c\right)

    Data are diffused in standardised units; :attr:`shift` and :attr:`scale` are buffers, so they
    are saved with the weights.

    Parameters
    ----------
    network
        Module called as ``network(x, noise, *conditions)`` with ``x`` of shape
        ``(n, n_dims)`` and ``noise`` of shape ``(n,)``, or ``(1,)`` for all rows; returns ``(n, n_dims)``.
    n_dims
        Number of diffused coordinates.
    noise
        A name in :data:`NOISE_PROCESSES`: which levels :meth:`loss` draws, and what each weighs.
        The network and its wrapper are the same for all.

    Raises
    ------
    ValueError
        If there is no noise process of that name.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import Denoiser
    >>> class Zero(torch.nn.Module):
    ...     def forward(self, x, noise):
    ...         return torch.zeros_like(x)
    >>> Denoiser(Zero(), n_dims=2)(torch.ones(1, 2), torch.ones(1))
    tensor([[0.5000, 0.5000]])
    """

    shift: torch.Tensor
    scale: torch.Tensor
    noise: NoiseProcess

    def __init__(self, network: nn.Module, n_dims: int, *, noise: str = "edm") -> None:
        super().__init__()
        if noise not in NOISE_PROCESSES:
            known = ", ".join(map(repr, NOISE_PROCESSES))
            raise ValueError(f"noise process {noise!r} is unknown. Known: {known}.")
        self.network = network
        self.n_dims = n_dims
        self.noise = NOISE_PROCESSES[noise]
        self.register_buffer("shift", torch.zeros(n_dims))
        self.register_buffer("scale", torch.ones(n_dims))

    def standardize(self, z: torch.Tensor) -> torch.Tensor:
        """Map data of shape ``(n, n_dims)`` to the units in which they are diffused."""
        return (z - self.shift) / self.scale

    def unstandardize(self, x: torch.Tensor) -> torch.Tensor:
        """Map diffused coordinates of shape ``(n, n_dims)`` back to data units."""
        return x * self.scale + self.shift

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, *conditions: Any) -> torch.Tensor:
        """Denoise ``x`` ``(n, n_dims)``, standardised, at levels ``sigma``, ``(n,)`` or ``(1,)``."""
        s = sigma[:, None]
        total = (1 + s**2).sqrt()
        f = self.network(x / total, sigma.log() / 4, *conditions)
        return x / total**2 + (s / total) * f

    def score(self, x: torch.Tensor, sigma: torch.Tensor, *conditions: Any) -> torch.Tensor:
        r"""Gradient of the log-density of noisy data, :math:`(D(x;\sigma) - x)/\sigma^2`.

        Song et al. 2021, arXiv:2011.13456; Karras et al. 2022, equation 3.
        """
        return (self(x, sigma, *conditions) - x) / sigma[:, None] ** 2

    def loss(
        self,
        x0: torch.Tensor,
        *conditions: Any,
        sigma: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        r"""Denoising score-matching loss of each cell, in units of the network's target.

        :math:`\lambda(\sigma)\,\|D(x_0+\sigma n;\sigma) - x_0\|^2 / d` with
        :math:`\lambda = (1+\sigma^2)/\sigma^2`: 1 for a network that has learnt nothing. Levels
        that are drawn here, in training, weigh what the noise process has them weigh.

        Parameters
        ----------
        x0
            Standardised data of shape ``(n, n_dims)``.
        *conditions
            Passed to the network.
        sigma
            Noise levels of shape ``(n,)``. If not given, drawn by the noise process, whose
            weights the loss is then multiplied by.
        noise
            Standard normal, of the shape of ``x0`` or one that broadcasts to it; drawn if not
            given.
        generator
            Source of randomness for the levels and the noise.

        Returns
        -------
        Tensor of shape ``(n,)``.
        """
        weight: torch.Tensor | float = 1.0
        if sigma is None:
            sigma = self.noise.draw(len(x0), generator=generator, device=x0.device)
            weight = self.noise.weight(sigma)
        if noise is None:
            noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        denoised = self(x0 + sigma[:, None] * noise, sigma, *conditions)
        unit = (1 + sigma**2) / sigma**2
        return weight * (unit * (denoised - x0).square().mean(dim=1))
