"""Conditions as vectors: any number of categorical and continuous attributes, each optional."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["ConditionEmbedding", "drop_conditions", "widths_of"]


class ConditionEmbedding(nn.Module):
    """Sum of one learnt vector per attribute.

    A categorical attribute is a token: 0 means unspecified, category ``i`` is ``i + 1``. The null
    token stands in row 0 so that tables can grow at their tail. A numeric attribute is a number,
    or several that belong together; NaN means unspecified.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical attribute.
    n_continuous
        How many numbers each numeric attribute is; a number alone: so many attributes of one each.
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

    def __init__(
        self, n_categories: Sequence[int], n_continuous: int | Sequence[int], n_output: int
    ) -> None:
        super().__init__()
        self.n_output = n_output
        self.value_widths = widths_of(n_continuous)
        self.tables = nn.ModuleList(nn.Embedding(n + 1, n_output) for n in n_categories)
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=0.3)
        self.curves = nn.ModuleList(
            nn.Sequential(nn.Linear(n + 1, n_output), nn.SiLU(), nn.Linear(n_output, n_output))
            for n in self.value_widths
        )
        # Numbers are standardised by the training data's mean and deviation.
        self.register_buffer("value_shift", torch.zeros(sum(self.value_widths)))
        self.register_buffer("value_scale", torch.ones(sum(self.value_widths)))

    def set_value_range(self, values: torch.Tensor) -> None:
        """Standardise numeric attributes by ``values`` of shape ``(n, n_values)``."""
        for j in range(values.shape[1]):
            known = values[:, j][~values[:, j].isnan()]
            if len(known) > 1:
                self.value_shift[j] = known.mean()
                spread = known.std()  # 0: a number that tells nothing, and is to say nothing
                self.value_scale[j] = torch.where(spread > 1e-6, spread, 1.0)

    def forward(self, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Embed ``tokens`` ``(n, n_categorical)`` and ``values`` ``(n, n_values)``."""
        out = values.new_zeros(len(tokens), self.n_output)
        for j, table in enumerate(self.tables):
            out = out + table(tokens[:, j])
        known = ~values.isnan()
        scaled = (values.nan_to_num() - self.value_shift) / self.value_scale * known
        parts = zip(*(x.split(self.value_widths, dim=1) for x in (scaled, known)), strict=True)
        for curve, (own, is_known) in zip(self.curves, parts, strict=True):
            out = out + curve(torch.cat([own, is_known[:, :1].to(own)], dim=1))
        return out


def drop_conditions(
    tokens: torch.Tensor,
    values: torch.Tensor,
    rate: float,
    *,
    value_widths: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave attributes unspecified at random: each by itself, and now and then all at once.

    Every attribute of every cell is dropped with probability ``rate``; besides, all attributes of
    a cell are dropped with probability ``rate``. One network then serves joint, partial and
    unconditional use.

    Parameters
    ----------
    tokens, values
        Conditions of shapes ``(n, n_categorical)`` and ``(n, n_values)``.
    rate
        Probability of dropping.
    value_widths
        How many numbers each numeric attribute is. Default: one each.
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
    widths = [1] * values.shape[1] if value_widths is None else list(value_widths)
    n_attributes = n_tokens + len(widths)
    u = torch.rand(n, n_attributes + 1, generator=generator, device=tokens.device)
    keep = (u[:, 1:] >= rate) & (u[:, :1] >= (rate if n_attributes > 1 else 0))
    dropped = ~keep[:, n_tokens:]
    if len(widths) < values.shape[1]:
        dropped = dropped.repeat_interleave(torch.tensor(widths, device=dropped.device), dim=1)
    values = values.masked_fill(dropped, float("nan"))
    return tokens * keep[:, :n_tokens], values


def widths_of(n_continuous: int | Sequence[int]) -> list[int]:
    """How many numbers each numeric attribute is."""
    return [1] * n_continuous if isinstance(n_continuous, int) else list(n_continuous)
