"""Mean log expression of groups of training cells, by their conditions and batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scgm_scvi._processes import gathered
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

from ._measured_responses import in_all_modalities

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
    design: np.ndarray,
    *,
    shared: bool = False,
) -> GroupMeans:
    """Read cells once; where there are more groups than can be kept, the largest are.

    Cells that were not measured in all modalities say nothing.

    Parameters
    ----------
    design
        Conditions and batches of training cells as the denoiser has them, ``(n_training,
        n_conditions + 1)``.
    shared
        Whether each process of a distributed run reads a share of the cells.
    """
    n_features = sum(module.widths)
    groups, sizes = np.unique(design, axis=0, return_counts=True)
    most = max(1, _MOST_NUMBERS // n_features)
    groups = groups[np.sort(np.argsort(-sizes, kind="stable")[:most])]
    number = {group.tobytes(): i for i, group in enumerate(groups)}
    sums, n_cells = np.zeros((len(groups), n_features)), np.zeros(len(groups), dtype=np.int64)
    for tensors in minibatches:
        own = Attributes.of(spec, tensors)
        keys = np.column_stack([own.tokens.numpy(), own.batch.numpy().ravel() + 1])
        rows = np.array([number.get(k.tobytes(), -1) for k in keys.astype(groups.dtype)])
        x = module.features(tensors)
        rows[~in_all_modalities(module, x)] = -1
        with torch.no_grad():
            log = torch.log1p(module.proportions(x).nan_to_num() * 1e4).cpu().numpy()
        for i in np.unique(rows[rows >= 0]):
            mine = rows == i
            sums[i] += log[mine].sum(axis=0, dtype=np.float64)
            n_cells[i] += mine.sum()
    if shared:
        n_cells = np.sum(gathered(n_cells), axis=0)
        sums = np.array([np.sum(gathered(row), axis=0) for row in sums]).reshape(sums.shape)
    met = np.flatnonzero(n_cells)
    means = (sums[met] / n_cells[met, None]).astype(np.float32)
    tokens = groups[met].astype(np.int64)
    return GroupMeans(tokens[:, :-1], tokens[:, -1] - 1, n_cells[met], means)
