"""Conditions as vectors: any number of categorical and continuous attributes, each optional."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["ConditionEmbedding", "drop_conditions"]


class ConditionEmbedding(nn.Module):
    """Sum of one learnt vector per attribute.

    A categorical attribute is a token: 0 means unspecified, category ``i`` is ``i + 1``. The null
    token stands in row 0 so that tables can grow at their tail. A continuous attribute is a
    number; NaN means unspecified.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical attribute.
    n_continuous
        Number of continuous attributes.
    n_output
        Width of the embedding.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import ConditionEmbedding
    >>> embed = ConditionEmbedding([3, 2], n_continuous=1, n_output=8)
    >>> embed(torch.tensor([[1, 0]]), torch.tensor([[float("nan")]])).shape
    torch.Size([1, 8])
    """

    value_shift: torch.Tensor
    value_scale: torch.Tensor

    def __init__(self, n_categories: Sequence[int], n_continuous: int, n_output: int) -> None:
        super().__init__()
        self.n_output = n_output
        self.tables = nn.ModuleList(nn.Embedding(n + 1, n_output) for n in n_categories)
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.3)
        self.curves = nn.ModuleList(
            nn.Sequential(nn.Linear(2, n_output), nn.SiLU(), nn.Linear(n_output, n_output))
            for _ in range(n_continuous)
        )
        # Continuous values are standardised by the training data's mean and deviation.
        self.register_buffer("value_shift", torch.zeros(n_continuous))
        self.register_buffer("value_scale", torch.ones(n_continuous))

    def set_value_range(self, values: torch.Tensor) -> None:
        """Standardise continuous attributes by ``values`` of shape ``(n, n_continuous)``."""
        for j in range(values.shape[1]):
            known = values[:, j][~values[:, j].isnan()]
            if len(known) > 1:
                self.value_shift[j] = known.mean()
                self.value_scale[j] = known.std().clamp(min=1e-6)

    def forward(self, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Embed ``tokens`` ``(n, n_categorical)`` and ``values`` ``(n, n_continuous)``."""
        out = values.new_zeros(len(tokens), self.n_output)
        for j, table in enumerate(self.tables):
            out = out + table(tokens[:, j])
        for j, curve in enumerate(self.curves):
            known = ~values[:, j].isnan()
            scaled = (values[:, j].nan_to_num() - self.value_shift[j]) / self.value_scale[j]
            out = out + curve(torch.stack([scaled * known, known.to(scaled)], dim=1))
        return out


def drop_conditions(
    tokens: torch.Tensor,
    values: torch.Tensor,
    rate: float,
    *,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave attributes unspecified at random: each by itself, and now and then all at once.

    Every attribute of every cell is dropped with probability ``rate``; besides, all attributes of
    a cell are dropped with probability ``rate``. One network then serves joint, partial and
    unconditional use.

    Parameters
    ----------
    tokens, values
        Conditions of shapes ``(n, n_categorical)`` and ``(n, n_continuous)``.
    rate
        Probability of dropping.
    generator
        Source of randomness.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import drop_conditions
    >>> drop_conditions(torch.ones(2, 1, dtype=torch.long), torch.zeros(2, 0), rate=1.0)[0]
    tensor([[0],
            [0]])
    """
    n, n_tokens = tokens.shape
    n_attributes = n_tokens + values.shape[1]
    u = torch.rand(n, n_attributes + 1, generator=generator, device=tokens.device)
    keep = (u[:, 1:] >= rate) & (u[:, :1] >= (rate if n_attributes > 1 else 0))
    values = values.masked_fill(~keep[:, n_tokens:], float("nan"))
    return tokens * keep[:, :n_tokens], values
