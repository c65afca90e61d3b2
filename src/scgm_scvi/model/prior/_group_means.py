"""Mean log expression of groups of training cells, by their conditions and batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["GroupMeans", "measure_groups"]

_LEAST = 3  # cells of a batch, for a mean to compare with
_MOST_NUMBERS = 10_000_000  # that a model keeps; the largest groups are


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Means of log1p of counts per 10,000 of cells that have the same conditions and batch.

    Attributes
    ----------
    tokens
        Conditions, ``(n, n_conditions)``.
    batch
        Codes of batches, ``(n,)``.
    n_cells
        Cells of each, ``(n,)``.
    means
        ``(n, n_features)``, float32; NaN of features that were not measured.
    """

    tokens: np.ndarray
    batch: np.ndarray
    n_cells: np.ndarray
    means: np.ndarray

    @classmethod
    def none(cls, n_conditions: int, n_features: int) -> GroupMeans:
        """Of no cells."""
        counts = np.zeros(0, dtype=np.int64)
        tokens, means = np.zeros((0, n_conditions), dtype=np.int64), np.zeros((0, n_features))
        return cls(tokens, counts, counts, means)

    def size(self, group: np.ndarray) -> int:
        """Cells with these conditions."""
        return int(self.n_cells[self._rows(group)].sum())

    def mean(self, group: np.ndarray) -> np.ndarray:
        """Mean of the cells with these conditions, ``(n_features,)``."""
        rows = self._rows(group)
        return np.average(self.means[rows].astype(np.float64), axis=0, weights=self.n_cells[rows])

    def change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """From the cells with some conditions to those with others, ``(n_features,)``.

        Cells are compared with those of the same batch where there are enough, so that what is a
        batch's own is no change.
        """
        here, there = self._rows(before), self._rows(after)
        of_batch = dict(zip(self.batch[here], here, strict=True))
        whole = self.mean(before)
        out = np.zeros_like(whole)
        for row in there:
            same = of_batch.get(self.batch[row])
            like = whole if same is None or self.n_cells[same] < _LEAST else self.means[same]
            out += self.n_cells[row] * (self.means[row].astype(np.float64) - like)
        return out / self.n_cells[there].sum()

    def joined(self, other: GroupMeans) -> GroupMeans:
        """With those of other cells, whose conditions have the same tokens."""
        return GroupMeans(
            *(
                np.concatenate([getattr(of, name) for of in (self, other)])
                for name in ("tokens", "batch", "n_cells", "means")
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Arrays, which a model keeps."""
        return {name: getattr(self, name) for name in ("tokens", "batch", "n_cells", "means")}

    def _rows(self, group: np.ndarray) -> np.ndarray:
        return np.flatnonzero((self.tokens == group).all(axis=1))


def measure_groups(
    module: LatentDiffusionModule,
    spec: ConditionSpec,
    minibatches: Iterable[Mapping[str, torch.Tensor]],
) -> GroupMeans:
    """Read cells once; groups of few cells are left out where there are too many to keep."""
    sums: dict[tuple[int, ...], tuple[np.ndarray, int]] = {}
    n_features = sum(module.widths)
    for tensors in minibatches:
        own = Attributes.of(spec, tensors)
        keys = np.column_stack([own.tokens.numpy(), own.batch.numpy().ravel()]).astype(np.int64)
        with torch.no_grad():
            share = module.proportions(module.features(tensors)).nan_to_num()
            log = torch.log1p(share * 1e4).cpu().numpy()
        groups, rows = np.unique(keys, axis=0, return_inverse=True)
        for i, group in enumerate(groups):
            mine = log[rows.ravel() == i].astype(np.float64)
            total, n = sums.get(tuple(group), (np.zeros(n_features), 0))
            sums[tuple(group)] = (total + mine.sum(axis=0), n + len(mine))
    most = max(1, _MOST_NUMBERS // n_features)
    kept = sorted(sorted(sums, key=lambda k: -sums[k][1])[:most])
    keys = np.array(kept, dtype=np.int64).reshape(len(kept), -1)
    means = [sums[k][0] / sums[k][1] for k in kept]
    return GroupMeans(
        keys[:, :-1],
        keys[:, -1],
        np.array([sums[k][1] for k in kept], dtype=np.int64),
        np.array(means, dtype=np.float32).reshape(len(kept), n_features),
    )
