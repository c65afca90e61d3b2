"""One distribution of features that come in modalities, each with a likelihood of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.distributions import Distribution, constraints

from ._moved import moved_counts, moved_log1p
from ._operations import (
    at_depth,
    log_likelihood,
    positive_probability,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

__all__ = ["BlockwiseDistribution"]


class BlockwiseDistribution(Distribution):
    """Independent distributions of modalities of features, side by side.

    Parameters
    ----------
    parts
        A distribution ``(n, n_features)`` of each modality, for the same ``n`` cells; or a function
        that makes it, called when it is first asked for: who looks at one modality alone need not wait
        for the others.
    widths
        Number of features of each. Default: as their means have, for which functions are called.
    n_cells
        ``n``, or leading dimensions; given with ``widths``.

    Raises
    ------
    ValueError
        If there is none, or they are of different numbers of cells.

    Attributes
    ----------
    widths
        Number of features of each.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli, Poisson
    >>> from scgm_scvi.distributions import BlockwiseDistribution
    >>> px = BlockwiseDistribution([Poisson(torch.ones(2, 3)), Bernoulli(torch.full((2, 1), 0.5))])
    >>> px.mean
    tensor([[1.0000, 1.0000, 1.0000, 0.5000],
            [1.0000, 1.0000, 1.0000, 0.5000]])
    >>> px.log_prob(torch.zeros(2, 4)).sum(dim=1)
    tensor([-3.6931, -3.6931])
    """

    arg_constraints = {}

    def __init__(
        self,
        parts: Sequence[Distribution | Callable[[], Distribution]],
        widths: Sequence[int] | None = None,
        n_cells: Sequence[int] | None = None,
    ) -> None:
        self._parts = list(parts)
        if widths is None or n_cells is None:
            # scvi's distributions don't say what shape they have; their means do
            shapes = [self.part(i).mean.shape for i in range(len(self._parts))]
            if not shapes or any(shape[:-1] != shapes[0][:-1] for shape in shapes):
                raise ValueError(
                    f"parts have means of the shapes {[tuple(shape) for shape in shapes]}; give at "
                    "least one, and all of the same cells."
                )
            widths, n_cells = [shape[-1] for shape in shapes], shapes[0][:-1]
        self.widths = list(widths)
        super().__init__(torch.Size([*n_cells, sum(self.widths)]), validate_args=False)

    def part(self, number: int) -> Distribution:
        """The distribution of one modality."""
        part = self._parts[number]
        if not isinstance(part, Distribution):
            part = self._parts[number] = part()
        return part

    @property
    def parts(self) -> tuple[Distribution, ...]:
        """The distributions of all modalities."""
        return tuple(self.part(i) for i in range(len(self.widths)))

    @property
    def support(self) -> constraints.Constraint:
        """What values each feature can have."""
        return constraints.cat([part.support for part in self.parts], -1, self.widths)

    @property
    def mean(self) -> torch.Tensor:
        """Expected features, ``(n, n_features)``."""
        return torch.cat([part.mean for part in self.parts], dim=-1)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the features, ``(n, n_features)``."""
        return torch.cat([part.variance for part in self.parts], dim=-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> torch.Tensor:
        """Draws of shape ``(*sample_shape, n, n_features)``."""
        shape = torch.Size(sample_shape)
        return torch.cat([part.sample(shape) for part in self.parts], dim=-1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-probability of each feature, of ``value``'s shape ``(..., n, n_features)``."""
        parts = zip(self.parts, self.split(value), strict=True)
        return torch.cat([part.log_prob(x) for part, x in parts], dim=-1)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features ``(..., n_features)``, those of each modality for themselves."""
        return x.split(self.widths, dim=-1)

    def __repr__(self) -> str:
        return f"BlockwiseDistribution({' + '.join(map(str, self.widths))} features)"


@log_likelihood.register(BlockwiseDistribution)
def _log_likelihood(px: BlockwiseDistribution, x: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(len(x))
    for i, own in enumerate(px.split(x)):
        measured = (own != 0).any(dim=1)
        if measured.any():
            total = total + torch.where(measured, log_likelihood(px.part(i), own), 0.0)
    return total


@with_mean.register(BlockwiseDistribution)
def _with_mean(px: BlockwiseDistribution, mean: torch.Tensor) -> BlockwiseDistribution:
    pairs = zip(px.parts, px.split(mean), strict=True)
    return BlockwiseDistribution([with_mean(*pair) for pair in pairs])


@with_dispersion.register(BlockwiseDistribution)
def _with_dispersion(
    px: BlockwiseDistribution, rows: torch.Tensor, theta: torch.Tensor
) -> BlockwiseDistribution:
    pairs = zip(px.parts, px.split(theta), strict=True)
    return BlockwiseDistribution([with_dispersion(part, rows, own) for part, own in pairs])


@at_depth.register(BlockwiseDistribution)
def _at_depth(
    px: BlockwiseDistribution, depth: torch.Tensor, columns: torch.Tensor
) -> BlockwiseDistribution:
    ends = torch.as_tensor([0, *px.widths], device=columns.device).cumsum(0).tolist()
    parts = []
    for i, (part, start, end) in enumerate(zip(px.parts, ends[:-1], ends[1:], strict=True)):
        own = columns[(columns >= start) & (columns < end)] - start
        parts.append(at_depth(part, depth[:, i : i + 1], own))
    return BlockwiseDistribution(parts)


@zero_probability.register(BlockwiseDistribution)
def _zero_probability(px: BlockwiseDistribution) -> torch.Tensor:
    return torch.cat([zero_probability(part) for part in px.parts], dim=1)


@positive_probability.register(BlockwiseDistribution)
def _positive_probability(px: BlockwiseDistribution) -> torch.Tensor:
    return torch.cat([positive_probability(part) for part in px.parts], dim=1)


@rates_given_counts.register(BlockwiseDistribution)
def _rates_given_counts(px: BlockwiseDistribution, x: torch.Tensor) -> torch.Tensor:
    rates = [
        torch.where((own != 0).any(dim=1, keepdim=True), rates_given_counts(part, own), part.mean)
        for part, own in zip(px.parts, px.split(x), strict=True)
    ]
    return torch.cat(rates, dim=1)


@moved_counts.register(BlockwiseDistribution)
def _moved_counts(
    px: BlockwiseDistribution, x: torch.Tensor, factor: torch.Tensor, excess: torch.Tensor
) -> torch.Tensor:
    columns = (px.split(values) for values in (x, factor, excess))
    parts = zip(px.parts, *columns, strict=True)
    return torch.cat([moved_counts(*part) for part in parts], dim=1)


@moved_log1p.register(BlockwiseDistribution)
def _moved_log1p(
    px: BlockwiseDistribution,
    x: torch.Tensor,
    factor: torch.Tensor,
    excess: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    columns = (px.split(values) for values in (x, factor, excess, scale.expand_as(x)))
    parts = zip(px.parts, *columns, strict=True)
    return torch.cat([moved_log1p(*part) for part in parts], dim=1)
