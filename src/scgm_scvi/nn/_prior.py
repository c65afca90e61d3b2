"""The prior of stage one: a mixture of Gaussians, flexible enough not to squeeze the latent."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["MixturePrior"]


class MixturePrior(nn.Module):
    """Mixture of diagonal Gaussians with learnt weights, means and scales.

    ``scvi``'s own ``MogPrior`` draws 30 posterior samples a cell and forms every difference
    ``(30, n, k, d)``; here one sample and two matrix products do, which keeps a 256-wide latent
    as cheap as a plain VAE's.

    Parameters
    ----------
    n_components
        Number of Gaussians; 1 is a Gaussian prior.
    n_latent
        Number of latent dimensions.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import MixturePrior
    >>> MixturePrior(4, n_latent=8).log_prob(torch.zeros(5, 8)).shape
    torch.Size([5])

    References
    ----------
    Dilokthanakul et al. 2016, arXiv:1611.02648.
    """

    def __init__(self, n_components: int, n_latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.randn(n_components, n_latent))
        self.log_scales = nn.Parameter(torch.zeros(n_components, n_latent))

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density in nats of ``z`` of shape ``(..., n_latent)``."""
        precision = torch.exp(-2 * self.log_scales)
        # (z - m)^2 p, expanded into matrix products
        square = z.square() @ precision.T - 2 * z @ (self.means * precision).T
        constant = (self.means.square() * precision).sum(1) + 2 * self.log_scales.sum(1)
        n_latent = self.means.shape[1]
        log_components = -0.5 * (square + constant + n_latent * math.log(2 * math.pi))
        return torch.logsumexp(log_components + self.logits.log_softmax(0), dim=-1)
