"""Negative binomial counts among which more are 0."""

from __future__ import annotations

import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from torch.distributions import Distribution

from ._likelihood import Likelihood
from ._moved import moved_counts
from ._negative_binomial import nb_moved_counts, nb_rates_given_counts, nb_zero_probability
from ._numbers import NOTHING
from ._operations import (
    at_depth,
    at_size,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

__all__ = ["ZeroInflatedLikelihood"]


class ZeroInflatedLikelihood(Likelihood):
    """Negative binomial counts, of which a share is 0 whatever the rate."""

    has_dispersion = True
    zero_inflated = True

    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Zero-inflated negative binomial."""
        return ZeroInflatedNegativeBinomial(
            mu=rate, theta=theta, zi_logits=zero_logits, scale=scale
        )


@with_mean.register(ZeroInflatedNegativeBinomial)
def _with_mean(
    px: ZeroInflatedNegativeBinomial, mean: torch.Tensor
) -> ZeroInflatedNegativeBinomial:
    logits = px.zi_logits
    return ZeroInflatedNegativeBinomial(
        mu=mean.clamp(min=NOTHING) / torch.sigmoid(-logits), theta=px.theta, zi_logits=logits
    )


@with_dispersion.register(ZeroInflatedNegativeBinomial)
def _with_dispersion(
    px: ZeroInflatedNegativeBinomial, rows: torch.Tensor, theta: torch.Tensor
) -> ZeroInflatedNegativeBinomial:
    theta = torch.where(rows, theta, px.theta)
    return ZeroInflatedNegativeBinomial(
        mu=px.mu, theta=theta, zi_logits=px.zi_logits, scale=px.scale
    )


@at_depth.register(ZeroInflatedNegativeBinomial)
def _at_depth(
    px: ZeroInflatedNegativeBinomial, depth: torch.Tensor, columns: torch.Tensor
) -> ZeroInflatedNegativeBinomial:
    return ZeroInflatedNegativeBinomial(
        mu=px.mu[:, columns] * depth,
        theta=px.theta[:, columns],
        zi_logits=px.zi_logits[:, columns],
    )


@at_size.register(ZeroInflatedNegativeBinomial)
def _at_size(
    px: ZeroInflatedNegativeBinomial,
    size: torch.Tensor,
    size_factors: torch.Tensor | None = None,
) -> ZeroInflatedNegativeBinomial:
    return ZeroInflatedNegativeBinomial(mu=px.scale * size, theta=px.theta, zi_logits=px.zi_logits)


@zero_probability.register(ZeroInflatedNegativeBinomial)
def _zero_probability(px: ZeroInflatedNegativeBinomial) -> torch.Tensor:
    return px.zi_probs + (1 - px.zi_probs) * nb_zero_probability(px)


@rates_given_counts.register(ZeroInflatedNegativeBinomial)
def _rates_given_counts(px: ZeroInflatedNegativeBinomial, x: torch.Tensor) -> torch.Tensor:
    rates = nb_rates_given_counts(px, x)
    false = px.zi_probs / zero_probability(px)
    return torch.where(x > 0, rates, rates * (1 - false))


@moved_counts.register(ZeroInflatedNegativeBinomial)
def _moved_counts(
    px: ZeroInflatedNegativeBinomial, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    false = px.zi_probs / zero_probability(px)
    stays = (x == 0) & (torch.rand_like(x) < false)  # a zero whatever the rate
    own = nb_moved_counts(px, x, factor, torch.zeros_like(excess))
    return torch.where(stays, x, own) + torch.poisson(excess)
