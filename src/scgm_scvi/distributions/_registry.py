"""The likelihoods, by the names that users know them by."""

from __future__ import annotations

from ._bernoulli import BernoulliLikelihood
from ._likelihood import Likelihood
from ._negative_binomial import NegativeBinomialLikelihood
from ._normal import NormalLikelihood
from ._poisson import PoissonLikelihood
from ._zero_inflated import ZeroInflatedLikelihood

__all__ = ["LIKELIHOODS"]

LIKELIHOODS: dict[str, Likelihood] = {
    "nb": NegativeBinomialLikelihood(),
    "zinb": ZeroInflatedLikelihood(),
    "poisson": PoissonLikelihood(),
    "bernoulli": BernoulliLikelihood(),
    "normal": NormalLikelihood(),
}
