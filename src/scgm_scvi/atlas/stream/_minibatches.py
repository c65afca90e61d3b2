"""Minibatches of a data module: shuffled passes, or rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgm_scvi._processes import process

from ._loaders import ENGINES, engine_of_this_python

if TYPE_CHECKING:
    from ._datamodule import AtlasDataModule

__all__ = ["RowBatches", "TrainingBatches"]

_READ_AT_ONCE = 8_192  # cells, where they are read in order


class TrainingBatches:
    """Passes over the training cells of this process, cut into epochs."""

    def __init__(self, data: AtlasDataModule) -> None:
        self.data = data
        self.n_passes = 0
        self._rest: Iterator[dict[str, torch.Tensor]] = iter(())
        if not len(self):
            n, (_, world_size) = data.n_train, process()
            raise ValueError(
                f"{n} training cells are too few for {world_size} processes with minibatches of "
                f"{data.batch_size}. Take fewer processes, or a smaller batch_size."
            )

    def __len__(self) -> int:
        return self.data.n_steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.data.steps_per_epoch is None:
            yield from self._pass()
            return
        for _ in range(self.data.steps_per_epoch):
            minibatch = next(self._rest, None)
            if minibatch is None:
                self._rest = self._pass()
                minibatch = next(self._rest)
            yield minibatch

    def _pass(self) -> Iterator[dict[str, torch.Tensor]]:
        (rank, world_size), number, data = process(), self.n_passes, self.data
        self.n_passes += 1
        seed = np.random.SeedSequence([data.seed, number, rank]).generate_state(1)
        rows = data.order.of_pass(number, rank, world_size)
        return minibatches(data, rows, data.batch_size, seed=int(seed[0]))


class RowBatches:
    """Minibatches of rows in order."""

    def __init__(
        self,
        data: AtlasDataModule,
        rows: np.ndarray,
        batch_size: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.data, self.rows, self.batch_size, self.weights = data, rows, batch_size, weights
        self.n_obs = len(rows)

    def __len__(self) -> int:
        return -(-self.n_obs // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return minibatches(self.data, self.rows, self.batch_size)


def minibatches(
    data: AtlasDataModule, rows: np.ndarray, batch_size: int, *, seed: int | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Rows under the names of scvi-tools' registry; mixed by ``seed``, or in order."""
    in_order = seed is None
    read = ENGINES[engine_of_this_python()](
        data.cells,
        rows,
        batch_size=batch_size,
        fetch_factor=max(1, _READ_AT_ONCE // batch_size) if in_order else data.fetch_factor,
        shuffle=not in_order,
        seed=seed or 0,
    )
    for x, of in read:
        yield {"X": torch.from_numpy(x), **data.attributes.tensors(of)}
