"""What is asked of a distribution of features; each kind answers in a file of its own.

A subclass answers as its parent does, until its own answer is registered.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch.distributions import Distribution

__all__ = [
    "at_depth",
    "at_size",
    "log_likelihood",
    "mean_log1p",
    "positive_probability",
    "rates_given_counts",
    "with_dispersion",
    "with_mean",
    "zero_probability",
]


@singledispatch
def log_likelihood(px: Distribution, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of cells, the sum over their features.

    A modality of several in which a cell has no count was not measured in it, and says nothing.

    Parameters
    ----------
    px
        Of the features, of any kind; a :class:`BlockwiseDistribution` where they come in modalities.
    x
        Features ``(n, n_features)``.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Poisson
    >>> from scgm_scvi.distributions import BlockwiseDistribution, log_likelihood
    >>> one = Poisson(torch.ones(1, 2))
    >>> log_likelihood(BlockwiseDistribution([one, one]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([-2.])
    """
    return px.log_prob(x).sum(dim=1)


@singledispatch
def with_mean(px: Distribution, mean: torch.Tensor) -> Distribution:
    """The distribution with another mean, and the dispersion and excess of zeros it has.

    Parameters
    ----------
    px
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
    >>> from scgm_scvi.distributions import with_mean
    >>> with_mean(Poisson(rate=torch.tensor([1.0, 2.0])), torch.tensor([3.0, 0.0])).mean
    tensor([3.0000e+00, 1.0000e-08])
    """
    raise TypeError(f"a {type(px).__name__} can't be given another mean.")


@singledispatch
def with_dispersion(px: Distribution, rows: torch.Tensor, theta: torch.Tensor) -> Distribution:
    """The distribution with another dispersion in some of its rows.

    Parameters
    ----------
    px
        Negative binomial, zero-inflated or not, or normal, of which it is the standard deviation;
        any that has no dispersion stays as it is.
    rows
        Which, boolean ``(n, 1)``.
    theta
        Inverse dispersions, of a shape that expands to its own.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import NegativeBinomial
    >>> from scgm_scvi.distributions import with_dispersion
    >>> px = NegativeBinomial(mu=torch.ones(2, 1), theta=torch.ones(2, 1))
    >>> with_dispersion(px, torch.tensor([[True], [False]]), torch.tensor([5.0])).theta
    tensor([[5.],
            [1.]])
    """
    raise TypeError(f"a {type(px).__name__} can't be given another dispersion.")


@singledispatch
def at_depth(px: Distribution, depth: torch.Tensor, columns: torch.Tensor) -> Distribution:
    """The distribution of some of the counts, at a multiple of the depth.

    Parameters
    ----------
    px
        Of counts, as of :func:`with_mean`. Of a Bernoulli distribution the probabilities are
        multiplied, up to 1.
    depth
        What to multiply the depth by, ``(n, n_modalities)``.
    columns
        Numbers of the features; in order where there are several modalities.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import Poisson
    >>> from scgm_scvi.distributions import at_depth
    >>> px = Poisson(torch.tensor([[1.0, 2.0]]))
    >>> at_depth(px, torch.tensor([[3.0]]), torch.tensor([1])).mean
    tensor([[6.]])
    """
    raise _no_counts(px)


@singledispatch
def at_size(
    px: Distribution, size: torch.Tensor, size_factors: torch.Tensor | None = None
) -> Distribution:
    """The distribution in cells of another size.

    Parameters
    ----------
    px
        Negative binomial, zero-inflated or not, with its ``scale``; Poisson, of which scvi-tools
        keeps the means alone; or :class:`OpenFeatures`.
    size
        The other size, which broadcasts.
    size_factors
        The size that it is at, ``(n, 1)``; default: the sum of its means.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import Poisson
    >>> from scgm_scvi.distributions import at_size
    >>> at_size(Poisson(torch.tensor([[1.0, 3.0]])), torch.tensor([[8.0]])).mean
    tensor([[2., 6.]])
    """
    raise TypeError(f"a {type(px).__name__} can't be taken to another size.")


@singledispatch
def zero_probability(px: Distribution) -> torch.Tensor:
    """Probability of a count of 0, which ``px.log_prob`` finds by differences of large numbers.

    Parameters
    ----------
    px
        Of counts, as of :func:`with_mean`.

    Returns
    -------
    Tensor of its shape.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import NegativeBinomial
    >>> from scgm_scvi.distributions import zero_probability
    >>> zero_probability(NegativeBinomial(mu=torch.tensor([1.0]), theta=torch.tensor([1.0])))
    tensor([0.5000])
    """
    raise _no_counts(px)


@singledispatch
def positive_probability(px: Distribution) -> torch.Tensor:
    """Probability of any count; of a Bernoulli distribution to the last digit.

    Parameters
    ----------
    px
        As of :func:`zero_probability`.

    Returns
    -------
    Tensor of its shape.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> from scgm_scvi.distributions import positive_probability
    >>> positive_probability(Bernoulli(torch.tensor([1e-12])))
    tensor([1.0000e-12])
    """
    return 1 - zero_probability(px)


@singledispatch
def rates_given_counts(px: Distribution, x: torch.Tensor) -> torch.Tensor:
    r"""Expectation of the rates, given the counts ``x`` that were drawn with them.

    A negative binomial is a Poisson whose rate is drawn from a gamma distribution of shape
    :math:`\theta` and mean :math:`\mu`; given a count, the rate's distribution is gamma again, of
    shape :math:`\theta + x` and mean :math:`\mu(\theta+x)/(\theta+\mu)`. Where zeros are inflated,
    a zero is a true one with a probability below 1, and the rate of a false one is 0. The rate of
    a Poisson is known, and the probability of a Bernoulli. Of several modalities, one without any
    count in a cell was not measured in it, and tells nothing.

    Parameters
    ----------
    px
        Of the counts, as of :func:`with_mean`.
    x
        Counts ``(n, n_features)``.

    Returns
    -------
    Tensor ``(n, n_features)``.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import NegativeBinomial
    >>> from scgm_scvi.distributions import rates_given_counts
    >>> px = NegativeBinomial(mu=torch.ones(1, 2), theta=torch.ones(1, 2))
    >>> rates_given_counts(px, torch.tensor([[0.0, 5.0]]))
    tensor([[0.5000, 3.0000]])
    """
    raise _no_counts(px)


def mean_log1p(px: Distribution, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Expectation of :math:`\ln(1 + f x)` of counts, and the probability that they are not 0.

    From the probability :math:`q` of a count and from mean and variance of the counts above 0,
    as if :math:`1 + f x` had a log-normal distribution there: exact where the only count is 1.

    .. math::
        q \left[\ln(1 + f m) - \tfrac12 \ln\left(1 + \frac{f^2 v}{(1 + f m)^2}\right)\right]

    Parameters
    ----------
    px
        Distribution of counts ``(n, n_features)``, as of :func:`zero_probability`.
    factor
        :math:`f`, ``(n, 1)`` or ``(n, n_features)``.

    Returns
    -------
    Two tensors ``(n, n_features)``.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> from scgm_scvi.distributions import mean_log1p
    >>> mean_log1p(Bernoulli(torch.tensor([[0.5]])), torch.tensor([[3.0]]))  # half of log(4)
    (tensor([[0.6931]]), tensor([[0.5000]]))
    """
    counted = 1 - zero_probability(px)
    return log1p_by_moments(counted, px.mean, px.variance, factor), counted


def log1p_by_moments(
    counted: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """The same of the probability that counts are not 0, their mean and variance."""
    some = counted.clamp(min=1e-8)
    m = mean / some
    v = ((variance + mean**2) / some - m**2).clamp(min=0)
    base = 1 + factor * m
    return counted * (base.log() - torch.log1p(factor**2 * v / base**2) / 2)


def _no_counts(px: Distribution) -> TypeError:
    return TypeError(f"{type(px).__name__} is no distribution of counts.")
