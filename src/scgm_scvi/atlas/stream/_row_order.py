"""Which cells are drawn in a pass over a training store, and in what order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["RowOrder", "row_weights"]

_CHUNK = 2**17  # rows whose draws are worked out at a time


@dataclass(frozen=True)
class RowOrder:
    """Passes over rows, in shuffled blocks, split between the processes of a distributed run.

    Blocks of consecutive rows are read fast, and their cells are mixed later, within what is read
    at once. Each process has blocks of its own, and as many minibatches as every other.

    Parameters
    ----------
    rows
        The training cells, sorted.
    weights
        How often each is drawn, up to a factor; ``None``: each once a pass.
    batch_size
        Cells in a minibatch.
    block_size
        Cells in a block; fewer where that would make too few blocks.
    seed
        Same seed, same passes.
    """

    rows: np.ndarray
    weights: np.ndarray | None
    batch_size: int
    block_size: int
    seed: int

    def block(self, world_size: int) -> int:
        """Cells in a block, where so many processes share them."""
        return max(1, min(self.block_size, len(self.rows) // (16 * world_size)))

    def n_cells(self, world_size: int = 1) -> int:
        """Cells that each process draws in a pass; whole minibatches if there are several."""
        if world_size == 1:
            return len(self.rows)
        size = self.block(world_size)
        n_blocks = -(-len(self.rows) // size)
        fewest = n_blocks // world_size * size - (n_blocks * size - len(self.rows))
        return max(0, fewest // self.batch_size * self.batch_size)

    def n_batches(self, world_size: int = 1) -> int:
        """Minibatches of each process in a pass."""
        return -(-self.n_cells(world_size) // self.batch_size)

    def of_pass(self, number: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Rows that process ``rank`` draws in a pass, block by block, in the order of the blocks."""
        size, n = self.block(world_size), self.n_cells(world_size)
        n_blocks = -(-len(self.rows) // size)
        shared = np.random.default_rng([self.seed, number])  # the same in each process
        mine = shared.permutation(n_blocks)[rank::world_size]
        if self.weights is None:
            return self._of_blocks(mine, size)[:n]
        own = np.random.default_rng([self.seed, number, rank])
        drawn = self._drawn(np.sort(mine), size, n, own.random())
        n_blocks = -(-n // size)
        order = own.permutation(n_blocks)
        return np.concatenate([drawn[b * size : (b + 1) * size] for b in order] or [drawn])

    def _of_blocks(self, blocks: np.ndarray, size: int) -> np.ndarray:
        return np.concatenate([self.rows[b * size : (b + 1) * size] for b in blocks])

    def _drawn(self, blocks: np.ndarray, size: int, n: int, start: float) -> np.ndarray:
        """Exactly ``n`` rows of the blocks by their weights, sorted.

        Systematic sampling: a cell that is to come 2.3 times on average comes twice or three
        times, which varies less than independent draws would.
        """

        def chunks() -> list[np.ndarray]:
            per_chunk = max(1, _CHUNK // size)
            return [blocks[i : i + per_chunk] for i in range(0, len(blocks), per_chunk)]

        def weights(some: np.ndarray) -> np.ndarray:
            parts = [self.weights[b * size : (b + 1) * size] for b in some]
            return np.concatenate(parts).astype(np.float64)

        total = sum(float(weights(some).sum()) for some in chunks())
        out, done, so_far = np.empty(n, dtype=self.rows.dtype), 0, 0.0
        for some in chunks():
            until = so_far + np.cumsum(weights(some))
            # the i-th draw falls where the running sum passes (i + start) / n of the total
            passed = np.minimum(np.ceil(until * (n / total) - start), n).astype(np.int64)
            times = np.diff(passed, prepend=done).clip(min=0)
            drawn = np.repeat(self._of_blocks(some, size), times)[: n - done]
            out[done : done + len(drawn)] = drawn
            done, so_far = done + len(drawn), float(until[-1])
            last = self._of_blocks(some, size)[-1]
        out[done:] = last  # rounding may leave the last draw over
        return out


def row_weights(groups: np.ndarray, kind: str) -> np.ndarray:
    """Weight of each cell, such that groups are drawn as ``kind`` says; float32 ``(n,)``.

    Parameters
    ----------
    groups
        Group of each cell, from -1.
    kind
        ``"sqrt"``: groups by the square root of their size; ``"uniform"``: all the same.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.atlas.stream._row_order import row_weights
    >>> row_weights(np.array([0, 0, 0, 0, 1]), "sqrt").tolist()
    [0.5, 0.5, 0.5, 0.5, 1.0]
    """
    sizes = np.bincount(groups.astype(np.int64) + 1).clip(min=1).astype(np.float64)
    power = {"sqrt": -0.5, "uniform": -1.0}[kind]
    return (sizes**power).astype(np.float32)[groups.astype(np.int64) + 1]
