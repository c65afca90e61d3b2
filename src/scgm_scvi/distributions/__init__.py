"""Distributions of counts: what is asked of each, and the likelihoods that models offer by name."""

from ._bernoulli import bernoulli_log_likelihood
from ._blockwise import BlockwiseDistribution
from ._likelihood import Likelihood
from ._modalities import modality_sums, of_each_feature
from ._moved import moved_counts, moved_log1p
from ._negative_binomial import nb_log_likelihood
from ._open import OpenFeatures
from ._operations import (
    at_depth,
    at_size,
    log_likelihood,
    mean_log1p,
    positive_probability,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)
from ._poisson import poisson_log_likelihood
from ._registry import LIKELIHOODS

__all__ = [
    "LIKELIHOODS",
    "BlockwiseDistribution",
    "Likelihood",
    "OpenFeatures",
    "at_depth",
    "at_size",
    "bernoulli_log_likelihood",
    "log_likelihood",
    "mean_log1p",
    "modality_sums",
    "moved_counts",
    "moved_log1p",
    "nb_log_likelihood",
    "of_each_feature",
    "poisson_log_likelihood",
    "positive_probability",
    "rates_given_counts",
    "with_dispersion",
    "with_mean",
    "zero_probability",
]
