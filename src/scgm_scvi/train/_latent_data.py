"""Stage two's data: the cells' latents, drawn without a DataLoader from memory or from disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule

from ._latent_cache import LatentRows

__all__ = ["LatentDataModule"]

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_DRAWN_AT_ONCE = 2**16


class _LatentBatches:
    """Minibatches ``(state, tokens, values)``; states are fresh posterior samples each time."""

    def __init__(
        self,
        data: LatentDataModule,
        indices: np.ndarray,
        n_batches: int | None,
        seed: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.data, self.indices, self.n_batches = data, torch.as_tensor(indices), n_batches
        self.until = None if weights is None else torch.as_tensor(weights).double().cumsum(0)
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
                queue = torch.cat([queue, self._more()])
            yield self._draw(queue[: self.data.batch_size])
            queue = queue[self.data.batch_size :]

    def _more(self) -> torch.Tensor:
        """Rows to come: all of them shuffled, or, where they have weights, some draws."""
        if self.until is None:
            return self.indices[torch.randperm(len(self.indices), generator=self.generator)]
        n = max(self.data.batch_size, _DRAWN_AT_ONCE)
        at = torch.rand(n, generator=self.generator, dtype=torch.float64) * self.until[-1]
        drawn = torch.searchsorted(self.until, at, right=True)
        return self.indices[drawn.clamp(max=len(self.indices) - 1)]

    def _draw(self, rows: torch.Tensor) -> Batch:
        d = self.data
        mean = d.mean[rows]
        noise = torch.randn(mean.shape, generator=self.generator)
        state = mean + d.variance[rows].sqrt() * noise
        return state, d.tokens[rows].long(), d.values[rows]


class LatentDataModule(LightningDataModule):
    """Posterior samples of cells' states with their conditions.

    In a distributed run (:mod:`torch.distributed`) each process draws from rows of its own.

    Parameters
    ----------
    mean, variance
        Of each cell's state, standardised, of shape ``(n, d)``: tensors, or rows of a
        :class:`LatentCache`.
    tokens, values
        Conditions of shapes ``(n, n_categorical)`` and ``(n, n_continuous)``.
    train_indices, validation_indices
        Rows to train on and to validate on; the latter may be empty.
    batch_size
        Cells in a minibatch.
    steps_per_epoch
        Minibatches in an epoch: epochs are for logging and validation, not passes.
    seed
        Of shuffling and posterior samples.
    weights
        How often each of ``train_indices`` is drawn. Default: all the same, in shuffled passes.
    is_share
        Whether these cells are already this process's own share in a distributed run.

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
        mean: torch.Tensor | LatentRows,
        variance: torch.Tensor | LatentRows,
        tokens: torch.Tensor,
        values: torch.Tensor,
        train_indices: np.ndarray,
        validation_indices: np.ndarray,
        batch_size: int = 256,
        steps_per_epoch: int = 100,
        seed: int = 0,
        weights: np.ndarray | None = None,
        is_share: bool = False,
    ) -> None:
        super().__init__()
        if not len(train_indices):
            raise ValueError("train_indices is empty: there are no latents to train on.")
        self.mean, self.variance = mean, variance
        self.tokens, self.values = tokens, values
        self.train_indices = np.asarray(train_indices, dtype=np.int64)
        self.validation_indices = np.asarray(validation_indices, dtype=np.int64)
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.weights = weights
        self.is_share = is_share

    def train_dataloader(self) -> _LatentBatches:
        """Endless shuffled passes, ``steps_per_epoch`` minibatches an epoch."""
        rank, part = self._share(len(self.train_indices), "training")
        return _LatentBatches(
            self,
            self.train_indices[part],
            self.steps_per_epoch,
            self.seed + 1_000 * rank,
            None if self.weights is None else self.weights[part],
        )

    def val_dataloader(self) -> _LatentBatches | list:
        """All held-out cells once; in a distributed run as many for each process."""
        if not len(self.validation_indices):
            return []
        rank, part = self._share(len(self.validation_indices), "validation")
        rows = self.validation_indices[part]
        return _LatentBatches(self, rows, None, self.seed + 1 + 1_000 * rank)

    def _share(self, n: int, what: str) -> tuple[int, slice]:
        """Rank of this process, and its part of ``n`` rows."""
        if not (dist.is_available() and dist.is_initialized()):
            return 0, slice(None)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        if self.is_share:
            return rank, slice(None)
        if n < world_size:
            raise ValueError(f"{n} {what} cells are too few for {world_size} processes.")
        n //= world_size
        return rank, slice(rank * n, (rank + 1) * n)
