"""Negative binomial counts."""

from __future__ import annotations

import torch
from scvi.distributions import NegativeBinomial
from torch.distributions import Distribution

from ._likelihood import Likelihood
from ._moved import moved_counts, thinned
from ._numbers import EPS, NOTHING
from ._operations import (
    at_depth,
    at_size,
    log_likelihood,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

__all__ = ["NegativeBinomialLikelihood", "nb_log_likelihood"]


class NegativeBinomialLikelihood(Likelihood):
    """Counts that vary more than those of a Poisson distribution."""

    has_dispersion = True

    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Negative binomial."""
        return NegativeBinomial(mu=rate, theta=theta, scale=scale)


def nb_log_likelihood(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    r"""Log-likelihood of cells, the sum over features of scvi's ``NegativeBinomial.log_prob``.

    The gamma functions cancel where a count is zero, so they are evaluated at the others alone.
    They are the larger part of a training step on a CPU, and most counts are zero:

    .. math::
        \sum_g \theta_g \ln\frac{\theta_g}{\theta_g + \mu_g} + \sum_{g: x_g > 0} \left[
        x_g \ln\frac{\mu_g}{\theta_g + \mu_g}
        + \ln\frac{\Gamma(x_g + \theta_g)}{\Gamma(\theta_g)\, x_g!}\right]

    Parameters
    ----------
    x, mu
        Counts and means of shape ``(n, n_features)``.
    theta
        Inverse dispersions, of the same shape or one that expands to it.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.distributions import nb_log_likelihood
    >>> x, ones = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)
    >>> nb_log_likelihood(x, ones, ones).exp()  # 1/2 * 1/4
    tensor([0.1250])
    """
    theta = theta.expand_as(x)
    log_total = torch.log(theta + mu + EPS)
    zero_part = (theta * (torch.log(theta + EPS) - log_total)).sum(dim=1)
    rows, columns = x.nonzero(as_tuple=True)
    k, t = x[rows, columns], theta[rows, columns]
    log_odds = torch.log(mu[rows, columns] + EPS) - log_total[rows, columns]
    part = k * log_odds + torch.lgamma(k + t) - torch.lgamma(t) - torch.lgamma(k + 1)
    return zero_part.index_add(0, rows, part)


@log_likelihood.register(NegativeBinomial)
def _log_likelihood(px: NegativeBinomial, x: torch.Tensor) -> torch.Tensor:
    if type(px) is not NegativeBinomial:  # a subclass has a density of its own
        return px.log_prob(x).sum(dim=1)
    return nb_log_likelihood(x, px.mu, px.theta)


@with_mean.register(NegativeBinomial)
def _with_mean(px: NegativeBinomial, mean: torch.Tensor) -> NegativeBinomial:
    return NegativeBinomial(mu=mean.clamp(min=NOTHING), theta=px.theta)


@with_dispersion.register(NegativeBinomial)
def _with_dispersion(
    px: NegativeBinomial, rows: torch.Tensor, theta: torch.Tensor
) -> NegativeBinomial:
    return NegativeBinomial(mu=px.mu, theta=torch.where(rows, theta, px.theta), scale=px.scale)


@at_depth.register(NegativeBinomial)
def _at_depth(px: NegativeBinomial, depth: torch.Tensor, columns: torch.Tensor) -> NegativeBinomial:
    return NegativeBinomial(mu=px.mu[:, columns] * depth, theta=px.theta[:, columns])


@at_size.register(NegativeBinomial)
def _at_size(
    px: NegativeBinomial, size: torch.Tensor, size_factors: torch.Tensor | None = None
) -> NegativeBinomial:
    return NegativeBinomial(mu=px.scale * size, theta=px.theta)


@zero_probability.register(NegativeBinomial)
def nb_zero_probability(px: NegativeBinomial) -> torch.Tensor:
    """Probability of a count of 0, where no more zeros are added."""
    return (-px.theta * torch.log1p(px.mu / px.theta)).exp()


@rates_given_counts.register(NegativeBinomial)
def nb_rates_given_counts(px: NegativeBinomial, x: torch.Tensor) -> torch.Tensor:
    """Expected rates, where all zeros are counts."""
    return px.mu * (px.theta + x) / (px.theta + px.mu)


@moved_counts.register(NegativeBinomial)
def nb_moved_counts(
    px: NegativeBinomial, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    """Thinned, or with what their own rates add, and the excess."""
    theta = px.theta.expand_as(x)
    rates = torch._standard_gamma(theta + x) * px.mu / (theta + px.mu)
    return thinned(x, factor) + torch.poisson(rates * (factor - 1).clamp(min=0) + excess)
