"""Poisson counts: torch's distribution, and scvi-tools', which is one that knows its scale."""

from __future__ import annotations

import torch
from scvi.distributions import Poisson
from torch.distributions import Distribution
from torch.distributions import Poisson as TorchPoisson

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

__all__ = ["PoissonLikelihood", "poisson_log_likelihood"]


class PoissonLikelihood(Likelihood):
    """Counts that vary as much as their mean is."""

    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Poisson."""
        return Poisson(rate, scale=scale, validate_args=False)


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
    >>> from scgm_scvi.distributions import poisson_log_likelihood
    >>> poisson_log_likelihood(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([-2.3069])
    """
    rows, columns = x.nonzero(as_tuple=True)
    k = x[rows, columns]
    part = k * torch.log(rate[rows, columns] + EPS) - torch.lgamma(k + 1)
    return (-rate.sum(dim=1)).index_add(0, rows, part)


@log_likelihood.register(Poisson)
def _log_likelihood(px: Poisson, x: torch.Tensor) -> torch.Tensor:
    if type(px) is not Poisson:  # a subclass has a density of its own
        return px.log_prob(x).sum(dim=1)
    return poisson_log_likelihood(x, px.rate)


@with_mean.register(TorchPoisson)
def _with_mean(px: TorchPoisson, mean: torch.Tensor) -> Poisson:
    return Poisson(rate=mean.clamp(min=NOTHING))


@with_dispersion.register(TorchPoisson)
def _with_dispersion(px: TorchPoisson, rows: torch.Tensor, theta: torch.Tensor) -> TorchPoisson:
    return px  # it has none


@at_depth.register(TorchPoisson)
def _at_depth(px: TorchPoisson, depth: torch.Tensor, columns: torch.Tensor) -> Poisson:
    return Poisson(px.rate[:, columns] * depth)


@at_size.register(TorchPoisson)
def _at_size(
    px: TorchPoisson, size: torch.Tensor, size_factors: torch.Tensor | None = None
) -> Poisson:
    mean = px.mean
    own = mean.sum(dim=-1, keepdim=True) if size_factors is None else size_factors
    return Poisson(mean / own * size, validate_args=False)


@zero_probability.register(TorchPoisson)
def _zero_probability(px: TorchPoisson) -> torch.Tensor:
    return (-px.mean).exp()


@rates_given_counts.register(TorchPoisson)
def _rates_given_counts(px: TorchPoisson, x: torch.Tensor) -> torch.Tensor:
    return px.mean


@moved_counts.register(TorchPoisson)
def _moved_counts(
    px: TorchPoisson, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    return thinned(x, factor) + torch.poisson(px.mean * (factor - 1).clamp(min=0) + excess)
