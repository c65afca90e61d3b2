"""Features that are open or not."""

from __future__ import annotations

import torch
from torch.distributions import Bernoulli, Distribution

from ._likelihood import Likelihood
from ._moved import moved_counts, moved_log1p, thinned
from ._numbers import EPS
from ._open import OpenFeatures
from ._operations import (
    at_depth,
    log_likelihood,
    positive_probability,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

__all__ = ["BernoulliLikelihood", "bernoulli_log_likelihood"]

_CERTAIN = 1 - 1e-6  # in float32 a number below 1, whose rest has a logarithm


class BernoulliLikelihood(Likelihood):
    """Which features are open, with log odds that the log size is added to."""

    is_binary = True
    scale_activation = "sigmoid"

    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Bernoulli, which knows its log odds in cells of size 1."""
        return OpenFeatures(rate, base_logits=scale)


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
    >>> from scgm_scvi.distributions import bernoulli_log_likelihood
    >>> bernoulli_log_likelihood(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 0.5]])).exp()
    tensor([0.2500])
    """
    rows, columns = x.nonzero(as_tuple=True)
    p = probs.clamp(max=_CERTAIN)
    closed = torch.log1p(-p)
    part = torch.log(p[rows, columns] + EPS) - closed[rows, columns]
    return closed.sum(dim=1).index_add(0, rows, part)


@log_likelihood.register(Bernoulli)
def _log_likelihood(px: Bernoulli, x: torch.Tensor) -> torch.Tensor:
    return bernoulli_log_likelihood(x, px.probs)


@with_mean.register(Bernoulli)
def _with_mean(px: Bernoulli, mean: torch.Tensor) -> Bernoulli:
    return Bernoulli(probs=mean.clamp(0, 1))


@with_dispersion.register(Bernoulli)
def _with_dispersion(px: Bernoulli, rows: torch.Tensor, theta: torch.Tensor) -> Bernoulli:
    return px  # it has none


@at_depth.register(Bernoulli)
def _at_depth(px: Bernoulli, depth: torch.Tensor, columns: torch.Tensor) -> Bernoulli:
    return Bernoulli(probs=(px.probs[:, columns] * depth).clamp(max=_CERTAIN))


@zero_probability.register(Bernoulli)
def _zero_probability(px: Bernoulli) -> torch.Tensor:
    return 1 - px.probs


@positive_probability.register(Bernoulli)
def _positive_probability(px: Bernoulli) -> torch.Tensor:
    return px.probs


@rates_given_counts.register(Bernoulli)
def _rates_given_counts(px: Bernoulli, x: torch.Tensor) -> torch.Tensor:
    return px.mean


@moved_counts.register(Bernoulli)
def _moved_counts(
    px: Bernoulli, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    is_open = (x > 0).to(x.dtype)
    return thinned(is_open, factor) + (1 - is_open) * torch.bernoulli(_gain(px, factor, excess))


@moved_log1p.register(Bernoulli)
def _moved_log1p(
    px: Bernoulli,
    x: torch.Tensor,
    factor: torch.Tensor,
    excess: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    is_open = (x > 0).to(scale.dtype)
    found = is_open * factor.clamp(max=1) + (1 - is_open) * _gain(px, factor, excess)
    return found * torch.log1p(scale)


def _gain(px: Bernoulli, factor: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """Probability that what is closed opens."""
    mean = (px.probs * factor + excess).clamp(max=1)
    return ((mean - px.probs) / (1 - px.probs).clamp(min=EPS)).clamp(0, 1)
