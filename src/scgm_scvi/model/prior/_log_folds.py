"""By how much expression has to change for mean log expression to change as it is to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributions import Distribution

from scgm_scvi.distributions import mean_log1p, with_mean
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["LogFolds", "moved_means"]

# To a twentieth at least: whether more is left of what is hardly seen after can't be told.
_GRID = (*(-3.0, -2.0, -1.5, -1.0, -0.5, -0.25, -0.1, 0.0), *(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0))


@dataclass(frozen=True, eq=False)
class LogFolds:
    """Changes of mean log1p of counts per 10,000 of some cells, by log fold changes of their means.

    Attributes
    ----------
    changes
        Of each log fold change of a grid, of each feature, ``(n_grid, n_features)``; they grow.
    """

    changes: np.ndarray

    @classmethod
    def of(
        cls, module: LatentDiffusionModule, cells: Iterable[tuple[Distribution, torch.Tensor]]
    ) -> LogFolds:
        """Of cells by the distributions of their counts, and their sizes ``(n, 1)``."""
        total, n = np.zeros((len(_GRID), sum(module.widths))), 0
        for px, size in cells:
            n += len(size)
            for i, fold in enumerate(_GRID):
                factor, excess = moved_means(px.mean / size * 1e4, torch.tensor(fold).to(size))
                moved = with_mean(px, px.mean * factor + excess * size / 1e4)
                total[i] += mean_log1p(moved, 1e4 / size)[0].sum(dim=0).cpu().numpy()
        mean = total / n
        return cls(np.maximum.accumulate(mean - mean[_GRID.index(0.0)], axis=0))

    def inverse(self, change: np.ndarray) -> np.ndarray:
        """Log fold changes ``(n_features,)`` that make these changes, as far as any does."""
        at = ((self.changes <= change).sum(axis=0) - 1).clip(0, len(_GRID) - 2)
        columns, grid = np.arange(len(change)), np.array(_GRID)
        low, high = self.changes[at, columns], self.changes[at + 1, columns]
        share = (change - low) / np.where(high > low, high - low, np.inf)
        return grid[at] + share.clip(0, 1) * (grid[at + 1] - grid[at])


def moved_means(share: torch.Tensor, fold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What means are multiplied by, and what is added, for a log fold change.

    What is hardly expressed has no fold to rise by, and is added to: then the logarithm of the counts
    per 10,000 and 1 changes so.

    Parameters
    ----------
    share
        Expected counts per 10,000.
    fold
        Log fold change, which broadcasts.
    """
    times = fold.exp().expand_as(share)
    return times, (times - 1).clamp(min=0)
