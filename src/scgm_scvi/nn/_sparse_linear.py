"""A linear layer for inputs that are mostly zero."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """``x @ weight + bias`` that looks at the entries of ``x`` that are not zero.

    Of 100,000 features a cell has a percent: a dense product would spend most of a training step
    on zeros.

    Parameters
    ----------
    n_in, n_out
        Width of input and output.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import SparseLinear
    >>> layer = SparseLinear(4, 2)
    >>> x = torch.tensor([[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    >>> torch.allclose(layer(x), x @ layer.weight + layer.bias)
    True
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, n_out)`` of ``x`` ``(n, n_in)``."""
        rows, columns = x.nonzero(as_tuple=True)
        return self.of_entries(rows, columns, x[rows, columns], len(x))

    def of_entries(
        self, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, n: int
    ) -> torch.Tensor:
        """Outputs ``(n, n_out)`` of an ``x`` of ``n`` rows whose entries are given, row by row."""
        if not len(rows):  # which embedding_bag does not take
            return self.bias.expand(n, -1)
        starts = torch.bincount(rows, minlength=n).cumsum(0).roll(1)
        starts[0] = 0
        out = nn.functional.embedding_bag(
            columns, self.weight, starts, mode="sum", per_sample_weights=values
        )
        return out + self.bias
