"""Values that are no counts."""

from __future__ import annotations

import torch
from scvi.distributions import Normal
from torch.distributions import Distribution

from ._likelihood import Likelihood
from ._operations import with_dispersion

__all__ = ["NormalLikelihood"]


class NormalLikelihood(Likelihood):
    """Log-normalised values; the inverse dispersion is their standard deviation."""

    has_dispersion = True
    is_counts = False

    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Normal."""
        return Normal(rate, theta, normal_mu=scale)


@with_dispersion.register(Normal)
def _with_dispersion(px: Normal, rows: torch.Tensor, theta: torch.Tensor) -> Normal:
    return Normal(px.loc, torch.where(rows, theta, px.scale), normal_mu=px.normal_mu)
