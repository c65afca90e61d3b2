"""Stand-ins for features that some cells were not measured in."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["FeatureFill"]

_N_NEIGHBORS = 15


class FeatureFill(nn.Module):
    """Expression with missing features filled in from the most similar cells of a memory.

    A cell without any count in all the missing features was not measured in them. It gets their
    mean over the 15 cells of the memory whose measured features are most similar (cosine), and its
    depth is that of the measured features over the share that they have in the memory. Other cells
    pass as they are.

    Parameters
    ----------
    n_memory
        Cells in the memory.
    n_features
        Number of features.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import FeatureFill
    >>> fill = FeatureFill(2, 3)
    >>> fill.remember(torch.tensor([[5.0, 5.0, 0.0], [5.0, 5.0, 90.0]]), torch.tensor([0, 0, 1]))
    >>> fill(torch.tensor([[1.0, 1.0, 0.0]])).shape
    torch.Size([1, 3])
    """

    memory: torch.Tensor
    missing: torch.Tensor

    def __init__(self, n_memory: int, n_features: int) -> None:
        super().__init__()
        # Half precision: the memory is the larger part of a small model's file.
        self.register_buffer("memory", torch.zeros(n_memory, n_features, dtype=torch.float16))
        self.register_buffer("missing", torch.zeros(n_features, dtype=torch.bool))

    def remember(self, counts: torch.Tensor, missing: torch.Tensor) -> None:
        """Take ``counts`` ``(n_memory, n_features)``, and which features are ``missing``."""
        self.memory.copy_(_log_normalized(counts, counts.sum(1, keepdim=True)))
        self.missing.copy_(missing.bool())

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """``log1p`` of counts per 10,000, filled in, of ``counts`` ``(n, n_features)``."""
        depth = counts.sum(1, keepdim=True)
        out = _log_normalized(counts, depth)
        lacking = (counts[:, self.missing] == 0).all(dim=1)
        if not self.missing.any() or not lacking.any():
            return out
        memory = self.memory.to(counts.dtype)
        share = torch.expm1(memory[:, self.missing]).sum(1).mean() / 1e4
        some = _log_normalized(counts[lacking], depth[lacking] / (1 - share).clamp(min=0.1))
        known = nn.functional.normalize(memory[:, ~self.missing], dim=1)
        similar = nn.functional.normalize(some[:, ~self.missing], dim=1) @ known.T
        nearest = similar.topk(min(_N_NEIGHBORS, len(memory)), dim=1).indices
        weights = torch.zeros_like(similar).scatter_(1, nearest, 1 / nearest.shape[1])
        some = torch.where(self.missing, weights @ memory, some)
        out[lacking] = some
        return out


def _log_normalized(counts: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    return torch.log1p(counts * (1e4 / depth.clamp(min=1e-8)))
