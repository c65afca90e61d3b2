"""Counts of cells moved to where another mean would have put them."""

from __future__ import annotations

from functools import singledispatch

import torch
from scvi.distributions import Poisson
from torch.distributions import Distribution

from ._numbers import NOTHING
from ._operations import mean_log1p, with_mean, zero_probability

__all__ = ["moved_counts", "moved_log1p", "moved_log1p_of", "thinned"]


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
    px: Distribution, factor: torch.Tensor, excess: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    r"""Expectation of :math:`\ln(1 + s x')` of counts :math:`x'` that :func:`moved_counts` moved.

    Of counts that were 0 by Poisson's, of others as if :math:`1 + s x'` had a log-normal
    distribution, as of :func:`mean_log1p`.

    Parameters
    ----------
    px, factor, excess
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
    >>> one = torch.ones(1, 1)
    >>> moved_log1p(Poisson(one), one, 9 * one, one)
    tensor([[2.3575]])
    """
    return moved_log1p_of(px, factor, excess, scale)


def moved_log1p_of(
    px: Distribution,
    factor: torch.Tensor,
    excess: torch.Tensor,
    scale: torch.Tensor,
    stays: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """The same; ``stays`` is the probability of a 0 that nothing moves."""
    own = with_mean(px, px.mean * factor)
    zero = zero_probability(own)
    shown = (1 - zero).clamp(min=NOTHING)
    mean = own.mean / shown
    variance = ((own.variance + own.mean**2) / shown - mean**2).clamp(min=0) + excess
    mean = mean + excess
    of_shown = torch.log1p(scale * mean)
    of_shown = of_shown - torch.log1p(variance * (scale / (1 + scale * mean)) ** 2) / 2
    of_none = mean_log1p(Poisson(excess), scale)[0]
    return (zero - stays).clamp(min=0) * of_none + (1 - zero) * of_shown


def thinned(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Counts of which each unit is kept with a probability, ``share`` up to 1."""
    return torch.binomial(x, share.clamp(max=1).to(x.dtype))
