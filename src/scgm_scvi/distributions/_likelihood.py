"""What a model has to know of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch.distributions import Distribution

__all__ = ["Likelihood"]


class Likelihood(ABC):
    """How the features of a cell are distributed around what a decoder says of it.

    An entry of :data:`LIKELIHOODS`, under the name by which models offer it: those of genes where
    it isn't binary, those of peaks and of several modalities where it is of counts and zeros are
    not inflated. Its distribution may be any that answers the functions of this room, for which its
    file registers what is not there yet.

    Attributes
    ----------
    has_dispersion
        Whether it has a parameter of spread, which decoders and conditions shift.
    is_binary
        Whether it matters of a count only whether there is any.
    is_counts
        Whether data are counts, and not values such as logarithms of them.
    scale_activation
        Of the decoder's last layer, see :class:`scgm_scvi.nn.ExpressionDecoder`.
    zero_inflated
        Whether the decoder needs a head for zeros that are none of the counts'.

    Examples
    --------
    >>> import torch
    >>> from scvi.distributions import NegativeBinomial
    >>> from scgm_scvi.distributions import LIKELIHOODS, Likelihood
    >>> class Geometric(Likelihood):
    ...     def distribution(self, rate, scale, theta=None, zero_logits=None):
    ...         return NegativeBinomial(mu=rate, theta=torch.ones_like(rate), scale=scale)
    >>> LIKELIHOODS["geometric"] = Geometric()  # SCGM(adata, gene_likelihood="geometric")
    >>> LIKELIHOODS.pop("geometric").is_counts
    True
    """

    has_dispersion: bool = False
    is_binary: bool = False
    is_counts: bool = True
    scale_activation: str = "softmax"
    zero_inflated: bool = False

    @abstractmethod
    def distribution(
        self,
        rate: torch.Tensor,
        scale: torch.Tensor,
        theta: torch.Tensor | None = None,
        zero_logits: torch.Tensor | None = None,
    ) -> Distribution:
        """Distribution of the features of cells.

        Parameters
        ----------
        rate
            Means ``(..., n, n_features)``; with ``"sigmoid"`` as the activation, probabilities.
        scale
            The same in cells of size 1; with ``"sigmoid"`` as the activation, their log odds.
        theta
            Inverse dispersions, of that shape or one that expands to it, where it has any.
        zero_logits
            Log odds that a feature is 0 whatever its rate, where zeros are inflated.
        """

    def as_modelled(self, x: torch.Tensor) -> torch.Tensor:
        """Counts as the likelihood looks at them: binary ones as 0 and 1."""
        return (x > 0).to(x) if self.is_binary else x
