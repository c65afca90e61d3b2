"""Stage two's data where the latents are on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from scgm_scvi._processes import process

from ._latent_cache import LatentCache

__all__ = ["CachedLatents"]

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_BLOCK, _BLOCKS_AT_ONCE = 64, 64  # cells that are read together; of which so many are mixed


class CachedLatents(LightningDataModule):
    """Posterior samples of the cells in a :class:`LatentCache`, with their conditions.

    Cells are read in random blocks and mixed in memory, so they should be cached in random order.
    In a distributed run (:mod:`torch.distributed`) each process draws from cells of its own.

    Parameters
    ----------
    cache
        Complete, with ``"tokens"`` and ``"values"`` of the cells.
    shift, scale
        That standardise the states, ``(d,)``.
    batch_size
        Cells in a minibatch.
    steps_per_epoch
        Minibatches in an epoch: epochs are for logging and validation, not passes.
    seed
        Of shuffling and posterior samples.
    n_validated
        Of the cells after the first ``cache.n_train``, so many are validated on. Default: all.
    weights
        How often each training cell is drawn. Default: all the same.
    is_share
        Whether the cache holds what is this process's own share in a distributed run.

    Examples
    --------
    >>> import tempfile, torch
    >>> from scgm_scvi.train import CachedLatents, LatentCache
    >>> design = {"tokens": torch.zeros(8, 1).int(), "values": torch.zeros(8, 0)}
    >>> with tempfile.TemporaryDirectory() as folder, LatentCache(folder, 8, 8) as cache:
    ...     cache.append(torch.randn(8, 3), torch.ones(8, 3), design)
    ...     data = CachedLatents(cache, torch.zeros(3), torch.ones(3), batch_size=4)
    ...     next(iter(data.train_dataloader()))[0].shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        cache: LatentCache,
        shift: torch.Tensor,
        scale: torch.Tensor,
        *,
        batch_size: int = 256,
        steps_per_epoch: int = 100,
        seed: int = 0,
        n_validated: int | None = None,
        weights: np.ndarray | None = None,
        is_share: bool = False,
    ) -> None:
        super().__init__()
        self.cache, self.shift, self.scale = cache, shift, scale
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.n_validated = cache.n_cells - cache.n_train if n_validated is None else n_validated
        self.weights, self.is_share = weights, is_share

    def train_dataloader(self) -> _Training:
        """Endless passes, ``steps_per_epoch`` minibatches an epoch."""
        return _Training(self)

    def val_dataloader(self) -> _Validation | list:
        """All held-out cells once; in a distributed run as many for each process."""
        rank, world_size = (0, 1) if self.is_share else process()
        n, first = self.n_validated // world_size, self.cache.n_train
        return _Validation(self, first + rank * n, first + (rank + 1) * n) if n else []

    def cells(self, blocks: list[slice]) -> tuple[torch.Tensor, ...]:
        """Blocks of cells: mean and standard deviation of their states, tokens, values."""
        means, stds = zip(*(self.cache.states(b.start, b.stop) for b in blocks), strict=True)
        tokens, values = (
            torch.from_numpy(np.concatenate([self.cache.read(k, b.start, b.stop) for b in blocks]))
            for k in ("tokens", "values")
        )
        mean = (torch.cat(means) - self.shift) / self.scale
        return mean, torch.cat(stds) / self.scale, tokens.long(), values


class _Training:
    """Passes over the training cells of this process, cut into epochs."""

    def __init__(self, data: CachedLatents) -> None:
        self.data = data
        rank, world_size = process()
        self.rng = np.random.default_rng([data.seed, rank])
        self.generator = torch.Generator().manual_seed(data.seed + 1_000 * rank)
        n = data.cache.n_train
        size = max(1, min(_BLOCK, n // 16))
        blocks = [slice(i, min(i + size, n)) for i in range(0, n, size)]
        self.blocks = blocks if data.is_share else blocks[rank::world_size]
        self.minibatches = self._passes()

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.data.steps_per_epoch):
            yield next(self.minibatches)

    def _passes(self) -> Iterator[Batch]:
        size, rest = self.data.batch_size, None
        while True:
            order = self.rng.permutation(len(self.blocks))
            for i in range(0, len(order), _BLOCKS_AT_ONCE):
                blocks = [self.blocks[b] for b in np.sort(order[i : i + _BLOCKS_AT_ONCE])]
                rows = torch.from_numpy(self.rng.permutation(self._drawn(blocks)))
                mixed = [part[rows] for part in self.data.cells(blocks)]
                if rest is not None:
                    mixed = [torch.cat(parts) for parts in zip(rest, mixed, strict=True)]
                n = len(mixed[0]) // size * size
                for start in range(0, n, size):
                    yield _sampled([part[start : start + size] for part in mixed], self.generator)
                rest = [part[n:] for part in mixed]

    def _drawn(self, blocks: list[slice]) -> np.ndarray:
        """Which cells of the blocks come in this pass, as often as their weights say."""
        if self.data.weights is None:
            return np.arange(sum(b.stop - b.start for b in blocks))
        weights = np.concatenate([self.data.weights[b] for b in blocks]).astype(np.float64)
        until = np.floor(np.cumsum(weights / self.data.weights.mean()) + self.rng.random())
        return np.repeat(np.arange(len(weights)), np.diff(until, prepend=0).astype(np.int64))


class _Validation:
    """The same cells and noise every time."""

    def __init__(self, data: CachedLatents, start: int, stop: int) -> None:
        self.data, self.start, self.stop = data, start, stop

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.data.seed + 1)
        for start in range(self.start, self.stop, self.data.batch_size):
            rows = slice(start, min(start + self.data.batch_size, self.stop))
            yield _sampled(self.data.cells([rows]), generator)


def _sampled(cells: Sequence[torch.Tensor], generator: torch.Generator) -> Batch:
    mean, std, tokens, values = cells
    return mean + std * torch.randn(mean.shape, generator=generator), tokens, values
