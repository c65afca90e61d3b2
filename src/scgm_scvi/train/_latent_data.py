"""Stage two's data: the cells' latents, held in memory and drawn without a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from scgm_scvi._processes import process

__all__ = ["LatentDataModule"]

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class _LatentBatches:
    """Minibatches ``(state, tokens, values)``; states are fresh posterior samples each time."""

    def __init__(
        self, data: LatentDataModule, indices: np.ndarray, n_batches: int | None, seed: int
    ) -> None:
        self.data, self.indices, self.n_batches = data, torch.as_tensor(indices), n_batches
        self.generator = torch.Generator().manual_seed(seed)
        self.seed = seed

    def __len__(self) -> int:
        return self.n_batches or -(-len(self.indices) // self.data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.n_batches is None:  # validation: the same cells and noise every time
            self.generator.manual_seed(self.seed)
            for chunk in self.indices.split(self.data.batch_size):
                yield self._draw(chunk)
            return
        queue = self.indices[:0]
        for _ in range(self.n_batches):
            while len(queue) < self.data.batch_size:
                order = torch.randperm(len(self.indices), generator=self.generator)
                queue = torch.cat([queue, self.indices[order]])
            yield self._draw(queue[: self.data.batch_size])
            queue = queue[self.data.batch_size :]

    def _draw(self, rows: torch.Tensor) -> Batch:
        d = self.data
        mean = d.mean[rows]
        noise = torch.randn(mean.shape, generator=self.generator)
        state = mean + d.std[rows] * noise
        return state, d.tokens[rows], d.values[rows]


class LatentDataModule(LightningDataModule):
    """Posterior samples of cells' states with their conditions.

    In a distributed run (:mod:`torch.distributed`) each process draws from cells of its own.

    Parameters
    ----------
    mean, variance
        Of each cell's state, standardised, of shape ``(n, d)``.
    tokens, values
        Conditions of shapes ``(n, n_categorical)`` and ``(n, n_values)``.
    train_indices, validation_indices
        Rows to train on and to validate on; the latter may be empty.
    batch_size
        Cells in a minibatch.
    steps_per_epoch
        Minibatches in an epoch: epochs are for logging and validation, not passes.
    seed
        Of shuffling and posterior samples.

    Raises
    ------
    ValueError
        If there is nothing to train on.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.train import LatentDataModule
    >>> n = torch.zeros(8, 0)
    >>> data = LatentDataModule(torch.zeros(8, 3), torch.ones(8, 3), n.long(), n, range(8), [], 4)
    >>> next(iter(data.train_dataloader()))[0].shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        mean: torch.Tensor,
        variance: torch.Tensor,
        tokens: torch.Tensor,
        values: torch.Tensor,
        train_indices: np.ndarray,
        validation_indices: np.ndarray,
        batch_size: int = 256,
        steps_per_epoch: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not len(train_indices):
            raise ValueError("train_indices is empty: there are no latents to train on.")
        self.mean, self.std = mean, variance.sqrt()
        self.tokens, self.values = tokens, values
        self.train_indices = np.asarray(train_indices, dtype=np.int64)
        self.validation_indices = np.asarray(validation_indices, dtype=np.int64)
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    def train_dataloader(self) -> _LatentBatches:
        """Endless shuffled passes, ``steps_per_epoch`` minibatches an epoch."""
        rank, rows = self._share(self.train_indices)
        return _LatentBatches(self, rows, self.steps_per_epoch, self.seed + 1_000 * rank)

    def val_dataloader(self) -> _LatentBatches | list:
        """All held-out cells once; in a distributed run as many for each process."""
        rank, rows = self._share(self.validation_indices)
        return _LatentBatches(self, rows, None, self.seed + 1 + 1_000 * rank) if len(rows) else []

    @staticmethod
    def _share(rows: np.ndarray) -> tuple[int, np.ndarray]:
        """Rank of this process, and its part of the rows."""
        rank, world_size = process()
        n = len(rows) // world_size
        return rank, rows[rank * n : (rank + 1) * n]
