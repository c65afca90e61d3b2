"""The score network: a residual MLP steered by the noise level and the conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ._conditions import ConditionEmbedding

__all__ = ["ScoreNetwork"]


class _Block(nn.Module):
    """Pre-norm residual block; shift, scale and gate come from the context (adaLN-zero)."""

    def __init__(self, n_hidden: int, dropout_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_hidden, elementwise_affine=False)
        self.modulation = nn.Linear(n_hidden, 3 * n_hidden)
        self.up = nn.Linear(n_hidden, 2 * n_hidden)
        self.down = nn.Linear(2 * n_hidden, n_hidden)
        self.dropout = nn.Dropout(dropout_rate)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(context).chunk(3, dim=1)
        inner = torch.addcmul(shift, self.norm(h), 1 + scale)
        inner = self.down(self.dropout(nn.functional.silu(self.up(inner))))
        return torch.addcmul(h, gate, inner)


class ScoreNetwork(nn.Module):
    """Residual MLP with adaptive layer norm, for latent vectors whose order means nothing.

    Parameters
    ----------
    n_dims
        Number of diffused coordinates.
    n_categories, n_continuous
        Attributes it is conditioned on, see :class:`ConditionEmbedding`.
    n_hidden
        Width.
    n_layers
        Number of residual blocks.
    dropout_rate
        Dropout inside the blocks.

    Notes
    -----
    Gates and output start at zero, so that training starts from the identity (Peebles & Xie 2023,
    arXiv:2212.09748). No batch normalisation: a generated cell must not depend on its neighbours.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import ScoreNetwork
    >>> net = ScoreNetwork(n_dims=5, n_categories=[3], n_continuous=0, n_hidden=16, n_layers=2)
    >>> x, tokens = torch.randn(4, 5), torch.zeros(4, 1, dtype=torch.long)
    >>> net(x, torch.zeros(4), tokens, torch.zeros(4, 0)).shape
    torch.Size([4, 5])
    """

    frequencies: torch.Tensor

    def __init__(
        self,
        n_dims: int,
        n_categories: Sequence[int] = (),
        n_continuous: int | Sequence[int] = 0,
        n_hidden: int = 192,
        n_layers: int = 3,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        n_frequencies = 32
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0, math.log(100.0), n_frequencies))
        )
        self.noise_in = nn.Linear(2 * n_frequencies, n_hidden)
        self.noise_out = nn.Linear(n_hidden, n_hidden)
        self.conditions = ConditionEmbedding(n_categories, n_continuous, n_hidden)
        self.input = nn.Linear(n_dims, n_hidden)
        self.blocks = nn.ModuleList(_Block(n_hidden, dropout_rate) for _ in range(n_layers))
        self.norm = nn.LayerNorm(n_hidden, elementwise_affine=False)
        self.output = nn.Linear(n_hidden, n_dims)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: torch.Tensor, noise: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Predict the network's target for ``x`` ``(n, n_dims)`` at levels ``noise``.

        ``noise`` has shape ``(n,)``, or ``(1,)`` where all rows have one level.
        """
        angles = noise[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        context = self.noise_out(nn.functional.silu(self.noise_in(waves)))
        context = nn.functional.silu(context + self.conditions(tokens, values))
        h = self.input(x)
        for block in self.blocks:
            h = block(h, context)
        return self.output(self.norm(h))
