"""Counts of cells moved to where another mean would have put them."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch.distributions import Distribution

from ._operations import log1p_by_moments, rates_given_counts

__all__ = ["moved_counts", "moved_log1p", "thinned"]


@singledispatch
def moved_counts(
    px: Distribution, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    r"""Counts of the same cells, had their means been others: :math:`f \mu + e`.

    A count is kept as far as its mean is. One whose mean falls is thinned, :math:`x' \sim Bin(x,
    f)`; to one whose mean rises is added :math:`Poisson((f - 1) \lambda)`, with the rate
    :math:`\lambda` drawn given the count, and :math:`Poisson(e)`. Counts drawn from
    ``px`` become counts drawn from the same distribution of the mean :math:`f \mu`, and Poisson
    ones, and where :math:`f = 1` and :math:`e = 0` they stay as they are. Drawn from torch's own random state, as
    distributions sample.

    Parameters
    ----------
    px
        Distribution of the counts ``(n, n_features)``: negative binomial, zero-inflated or not,
        Poisson, or Bernoulli, whose probabilities go up to 1.
    x
        Counts that were drawn from it, ``(n, n_features)``.
    factor, excess
        :math:`f` and :math:`e`, not negative, of the same shape.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import Poisson
    >>> from scgm_scvi.distributions import moved_counts
    >>> x, one = torch.tensor([[3.0, 0.0]]), torch.ones(1, 2)
    >>> moved_counts(Poisson(one), x, one, 0 * one)
    tensor([[3., 0.]])
    """
    raise TypeError(f"counts of a {type(px).__name__} can't be moved to another mean.")


@singledispatch
def moved_log1p(
    px: Distribution,
    x: torch.Tensor,
    factor: torch.Tensor,
    excess: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    r"""Expectation of :math:`\ln(1 + s x')` of counts :math:`x'` that :func:`moved_counts` moved.

    From their probability to be 0, and their mean and variance where they are not, as if :math:`1 +
    s x'` had a log-normal distribution there, as in :func:`mean_log1p`; with the rates that counts
    speak for.

    Parameters
    ----------
    px, x, factor, excess
        As of :func:`moved_counts`.
    scale
        :math:`s`, ``(n, 1)`` or ``(n, n_features)``.

    Returns
    -------
    A tensor ``(n, n_features)``.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import Poisson
    >>> from scgm_scvi.distributions import moved_log1p
    >>> x, one = torch.tensor([[3.0, 0.0]]), torch.ones(1, 2)
    >>> moved_log1p(Poisson(one), x, one, 0 * one, one[:, :1]).exp()
    tensor([[4., 1.]])
    """
    gain = rates_given_counts(px, x) * (factor - 1).clamp(min=0) + excess
    kept = factor.clamp(max=1)
    mean, variance = x * kept + gain, x * kept * (1 - kept) + gain
    none = torch.where(x > 0, (1 - kept).pow(x), 1.0) * (-gain).exp()
    return log1p_by_moments(1 - none, mean, variance, scale)


def thinned(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Counts of which each unit is kept with a probability, ``share`` up to 1."""
    return torch.binomial(x, share.clamp(max=1).to(x.dtype))
