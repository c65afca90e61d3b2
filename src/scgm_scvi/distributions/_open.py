"""Which features are open in cells of some depth."""

from __future__ import annotations

import torch
from torch.distributions import Bernoulli, constraints

from ._operations import at_size

__all__ = ["OpenFeatures"]


class OpenFeatures(Bernoulli):
    """Bernoulli distribution whose log odds are those of cells of size 1, and a log size.

    Parameters
    ----------
    probs
        Probability of being open.
    base_logits
        Log odds at size 1, of the same shape.
    validate_args
        Whether to look at the values.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.distributions import OpenFeatures
    >>> logits, size = torch.tensor([-3.0, 0.0]), 4.0
    >>> px = OpenFeatures((logits + torch.tensor(size).log()).sigmoid(), logits)
    >>> px.get_normalized("scale")  # as scvi-tools' distributions have it
    tensor([0.0474, 0.5000])
    """

    arg_constraints = {"probs": constraints.unit_interval, "base_logits": constraints.real}

    def __init__(
        self,
        probs: torch.Tensor,
        base_logits: torch.Tensor,
        validate_args: bool | None = False,
    ) -> None:
        super().__init__(probs=probs, validate_args=validate_args)
        self.base_logits = base_logits

    def get_normalized(self, key: str) -> torch.Tensor:
        """Probabilities: ``"mu"``, at the cell's size; ``"scale"``, at size 1.

        Raises
        ------
        ValueError
            If it is another key.
        """
        if key == "mu":
            return self.probs
        if key == "scale":
            return self.base_logits.sigmoid()
        raise ValueError(f"key is {key!r}; use 'mu' or 'scale'.")

    def at(self, size: torch.Tensor) -> Bernoulli:
        """The same in cells of another size, which broadcasts."""
        return Bernoulli(logits=self.base_logits + size.log(), validate_args=False)


@at_size.register(OpenFeatures)
def _at_size(
    px: OpenFeatures, size: torch.Tensor, size_factors: torch.Tensor | None = None
) -> Bernoulli:
    return px.at(size)
