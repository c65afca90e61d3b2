"""By how much expression has to change for mean log expression to change as it is to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributions import Distribution

from scgm_scvi.distributions import moved_log1p
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["STAYS", "LogFolds", "with_move"]

# To a twentieth at least: whether more is left of what is hardly seen after can't be told.
_GRID = (*(-3.0, -2.0, -1.5, -1.0, -0.5, -0.25, -0.1, 0.0), *(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0))

STAYS = np.array([[1.0], [0.0]])  # the move of what does not change


@dataclass(frozen=True, eq=False)
class LogFolds:
    r"""Changes of mean log1p of counts per 10,000 of some cells, by how their means are moved.

    A mean :math:`m` in counts per 10,000 becomes :math:`f m + e`, a *move*. By a log fold change
    :math:`l`, with :math:`t = e^l`, what falls has :math:`f = t`. Of what rises, :math:`f = 1 + \pi
    (t - 1)` and :math:`e = (t - 1) (1 + (1 - \pi) \bar m)`, with the feature's mean :math:`\bar m`
    and the share :math:`\pi` of cells that show it: what all cells express rises in proportion;
    what few do, or none, comes up in all of them alike, as it does once it is induced.

    Attributes
    ----------
    changes
        Of each log fold change of a grid, of each feature, ``(n_grid, n_features)``; they grow.
    mean, shown
        :math:`\bar m` and :math:`\pi`, ``(n_features,)``.
    """

    changes: np.ndarray
    mean: np.ndarray
    shown: np.ndarray

    @classmethod
    def of(
        cls, module: LatentDiffusionModule, cells: Iterable[tuple[Distribution, torch.Tensor]]
    ) -> LogFolds:
        """Of cells by the distributions of their counts, and the counts ``(n, n_features)``."""
        n_features, some, n = sum(module.widths), list(cells), 0
        mean, shown, before = np.zeros((3, n_features))
        for _, x in some:
            share = module.proportions(x).nan_to_num() * 1e4
            n += len(x)
            for total, of in ((mean, share), (shown, x > 0), (before, torch.log1p(share))):
                total += of.sum(dim=0).cpu().numpy()
        none = cls(np.zeros((len(_GRID), n_features)), mean / n, shown / n)
        total = np.zeros_like(none.changes)
        for px, x in some:
            size = module.modality_totals(x).clamp(min=1)
            for i, fold in enumerate(_GRID):
                factor, excess = torch.as_tensor(none.move(np.array(fold))).to(px.mean)
                factor, excess = factor.expand_as(x), excess * size / 1e4
                log = moved_log1p(px, x, factor, excess, 1e4 / size)
                total[i] += log.sum(dim=0).cpu().numpy()
        change = (total - before) / n
        return cls(np.maximum.accumulate(change, axis=0), none.mean, none.shown)

    def move(self, fold: np.ndarray) -> np.ndarray:
        """Factors and excess ``(2, n_features)`` of log fold changes, which broadcast."""
        gain = np.maximum(np.exp(fold) - 1, 0)
        factor = np.minimum(np.exp(fold), 1) + self.shown * gain
        return np.stack([factor, gain * (1 + (1 - self.shown) * self.mean)])

    def inverse(self, change: np.ndarray) -> np.ndarray:
        """The move ``(2, n_features)`` that makes these changes, as far as any does."""
        at = ((self.changes <= change).sum(axis=0) - 1).clip(0, len(_GRID) - 2)
        columns, grid = np.arange(len(change)), np.array(_GRID)
        low, high = self.changes[at, columns], self.changes[at + 1, columns]
        share = (change - low) / np.where(high > low, high - low, np.inf)
        return self.move(grid[at] + share.clip(0, 1) * (grid[at + 1] - grid[at]))


def with_move(move: np.ndarray, share: torch.Tensor) -> torch.Tensor:
    """Proportions ``(n, n_features)`` of features once they are moved, as of :class:`LogFolds`."""
    factor, excess = torch.as_tensor(np.moveaxis(move, -2, 0)).to(share)
    return share * factor + excess / 1e4
