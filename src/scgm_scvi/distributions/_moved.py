"""Counts of cells moved to where another mean would have put them."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch.distributions import Distribution

__all__ = ["moved_counts", "thinned"]


@singledispatch
def moved_counts(
    px: Distribution, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    r"""Counts of the same cells, had their means been others: :math:`f \mu + e`.

    A count is kept as far as its mean is. One whose mean falls is thinned, :math:`x' \sim Bin(x,
    f)`; to one whose mean rises is added :math:`Poisson((f - 1) \lambda)`, with the rate
    :math:`\lambda` drawn given the count, and what the excess :math:`e` brings. Counts drawn from
    ``px`` become counts drawn from the same distribution of the mean :math:`f \mu`, and where
    :math:`f = 1` and :math:`e = 0` they stay as they are. Drawn from torch's own random state, as
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


def thinned(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Counts of which each unit is kept with a probability, ``share`` up to 1."""
    return torch.binomial(x, share.clamp(max=1).to(x.dtype))
