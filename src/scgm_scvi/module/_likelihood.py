"""Distributions of counts: the likelihood of mostly-zero ones, and a change of the mean."""

from __future__ import annotations

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Distribution

from ._blockwise import BlockwiseDistribution

__all__ = [
    "bernoulli_log_likelihood",
    "log_likelihood",
    "nb_log_likelihood",
    "poisson_log_likelihood",
    "with_mean",
]

_EPS = 1e-8  # as in scvi.distributions
_NOTHING = 1e-8  # counts, in place of a mean of 0


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
    >>> from scgm_scvi.module import nb_log_likelihood
    >>> x, ones = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)
    >>> nb_log_likelihood(x, ones, ones).exp()  # 1/2 * 1/4
    tensor([0.1250])
    """
    theta = theta.expand_as(x)
    log_total = torch.log(theta + mu + _EPS)
    zero_part = (theta * (torch.log(theta + _EPS) - log_total)).sum(dim=1)
    rows, columns = x.nonzero(as_tuple=True)
    k, t = x[rows, columns], theta[rows, columns]
    log_odds = torch.log(mu[rows, columns] + _EPS) - log_total[rows, columns]
    part = k * log_odds + torch.lgamma(k + t) - torch.lgamma(t) - torch.lgamma(k + 1)
    return zero_part.index_add(0, rows, part)


def poisson_log_likelihood(x: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    r"""Log-likelihood of cells, the sum over features of that of a Poisson distribution.

    Only counts that are not zero are looked at, and the sum of all rates:
    :math:`\sum_{g: x_g > 0} (x_g \ln \lambda_g - \ln x_g!) - \sum_g \lambda_g`.

    Parameters
    ----------
    x, rate
        Counts and means of shape ``(n, n_features)``.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import poisson_log_likelihood
    >>> poisson_log_likelihood(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([-2.3069])
    """
    rows, columns = x.nonzero(as_tuple=True)
    k = x[rows, columns]
    part = k * torch.log(rate[rows, columns] + _EPS) - torch.lgamma(k + 1)
    return (-rate.sum(dim=1)).index_add(0, rows, part)


def bernoulli_log_likelihood(x: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of cells, the sum over features of that of a Bernoulli distribution.

    Parameters
    ----------
    x
        Counts of shape ``(n, n_features)``; a feature with any is open.
    probs
        Probabilities of that.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import bernoulli_log_likelihood
    >>> bernoulli_log_likelihood(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 0.5]])).exp()
    tensor([0.2500])
    """
    rows, columns = x.nonzero(as_tuple=True)
    p = probs.clamp(max=1 - 1e-6)  # in float32 a number below 1
    closed = torch.log1p(-p)
    part = torch.log(p[rows, columns] + _EPS) - closed[rows, columns]
    return closed.sum(dim=1).index_add(0, rows, part)


def log_likelihood(distribution: Distribution, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of cells, the sum over their features.

    A modality of several in which a cell has no count was not measured in it, and says nothing.

    Parameters
    ----------
    distribution
        Of the features; a :class:`BlockwiseDistribution` where they come in modalities.
    x
        Features ``(n, n_features)``.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Poisson
    >>> from scgm_scvi.module import BlockwiseDistribution, log_likelihood
    >>> one = Poisson(torch.ones(1, 2))
    >>> log_likelihood(BlockwiseDistribution([one, one]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([-2.])
    """
    if isinstance(distribution, BlockwiseDistribution):
        total = x.new_zeros(len(x))
        for i, part in enumerate(distribution.split(x)):
            measured = (part != 0).any(dim=1)
            if measured.any():
                own = log_likelihood(distribution.part(i), part)
                total = total + torch.where(measured, own, 0.0)
        return total
    if type(distribution) is NegativeBinomial:
        return nb_log_likelihood(x, distribution.mu, distribution.theta)
    if type(distribution) is Poisson:
        return poisson_log_likelihood(x, distribution.rate)
    if isinstance(distribution, Bernoulli):
        return bernoulli_log_likelihood(x, distribution.probs)
    return distribution.log_prob(x).sum(dim=1)


def with_mean(distribution: Distribution, mean: torch.Tensor) -> Distribution:
    """The distribution with another mean, and the dispersion and excess of zeros it has.

    Parameters
    ----------
    distribution
        Negative binomial, zero-inflated or not, Poisson, or several of them side by side. A Bernoulli
        distribution takes means up to 1.
    mean
        Of its shape, not negative.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import Poisson
    >>> from scgm_scvi.module import with_mean
    >>> with_mean(Poisson(rate=torch.tensor([1.0, 2.0])), torch.tensor([3.0, 0.0])).mean
    tensor([3.0000e+00, 1.0000e-08])
    """
    if isinstance(distribution, BlockwiseDistribution):
        parts = zip(distribution.parts, distribution.split(mean), strict=True)
        return BlockwiseDistribution([with_mean(*part) for part in parts])
    if isinstance(distribution, Bernoulli):
        return Bernoulli(probs=mean.clamp(0, 1))
    mean = mean.clamp(min=_NOTHING)
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        logits = distribution.zi_logits
        return ZeroInflatedNegativeBinomial(
            mu=mean / torch.sigmoid(-logits), theta=distribution.theta, zi_logits=logits
        )
    if isinstance(distribution, NegativeBinomial):
        return NegativeBinomial(mu=mean, theta=distribution.theta)
    if isinstance(distribution, Poisson):
        return Poisson(rate=mean)
    raise TypeError(f"a {type(distribution).__name__} can't be given another mean.")
