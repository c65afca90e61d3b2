"""Sums over cells of groups, of which means and deviations are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scgm_scvi._processes import gathered

__all__ = ["GroupSums", "balanced", "of_all_processes", "together"]

_AT_ONCE = 64  # groups that processes hand each other; bounds the memory


class GroupSums:
    """Sums over cells, every other one apart, of what means and deviations are made of.

    Parameters
    ----------
    n_features
        Of a cell.

    Attributes
    ----------
    n
        Cells of both halves.
    log
        Sums of the logarithms of features, ``(2, n_features)``.
    one
        Sum over cells of what one count is.
    batches
        Batch to its number of cells.
    """

    def __init__(self, n_features: int) -> None:
        self.n, self.one = np.zeros(2, dtype=int), 0.0
        self.log = np.zeros((2, n_features))
        self.batches: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Cells."""
        return int(self.n.sum())

    @property
    def mean(self) -> np.ndarray:
        """Of all cells, ``(n_features,)``."""
        return self.log.sum(axis=0) / self.total

    @property
    def means(self) -> np.ndarray:
        """Of both halves, ``(2, n_features)``."""
        return self.log / self.n[:, None]

    def add(self, log: np.ndarray, one: np.ndarray, batches: np.ndarray) -> None:
        """Cells by the logarithms of their features, and of what one count is."""
        half = (self.total + np.arange(len(log))) % 2
        self.one += float(one.sum())
        for i in (0, 1):
            self.n[i] += int((half == i).sum())
            self.log[i] += log[half == i].sum(axis=0, dtype=np.float64)
        for batch, n in zip(*np.unique(batches, return_counts=True), strict=True):
            self.batches[int(batch)] = self.batches.get(int(batch), 0) + int(n)

    def swapped(self) -> GroupSums:
        """The same, one half for the other."""
        out = GroupSums(self.log.shape[1])
        out.n, out.log, out.one = self.n[::-1].copy(), self.log[::-1].copy(), self.one
        out.batches = dict(self.batches)
        return out


def balanced(parts: Sequence[GroupSums]) -> list[GroupSums]:
    """Parts of one group, with halves swapped where all first halves would be the larger ones.

    Of parts of one cell each, all cells would else be in the first half, and none in the second.
    """
    out, excess = [], 0
    for sums in parts:
        own = int(sums.n[0] - sums.n[1])
        if own * excess > 0:
            sums, own = sums.swapped(), -own
        out.append(sums)
        excess += own
    return out


def together(parts: Sequence[GroupSums]) -> GroupSums:
    """The sums over the cells of all parts, halves with halves."""
    out = GroupSums(parts[0].log.shape[1])
    for sums in parts:
        out.n, out.log, out.one = out.n + sums.n, out.log + sums.log, out.one + sums.one
        for batch, n in sums.batches.items():
            out.batches[batch] = out.batches.get(batch, 0) + n
    return out


def of_all_processes(groups: Mapping[Any, GroupSums]) -> dict[Any, GroupSums]:
    """Groups of all cells, where each process of a distributed run has read a share of them.

    Parameters
    ----------
    groups
        Of this process, by keys that can be sorted.
    """
    keys = sorted({key for own in gathered(list(groups)) for key in own})
    out = {}
    for i in range(0, len(keys), _AT_ONCE):
        some = keys[i : i + _AT_ONCE]
        parts = gathered({key: groups[key] for key in some if key in groups})
        for key in some:
            out[key] = together(balanced([part[key] for part in parts if key in part]))
    return out
