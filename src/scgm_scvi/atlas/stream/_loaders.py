"""Rows of a training store as minibatches: annbatch where it can be installed, else scDataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np

from ._training_cells import Block, TrainingCells, fast_reading, spans

__all__ = ["ENGINES", "Minibatch", "engine_of_this_python"]

Minibatch = tuple[np.ndarray, np.ndarray]  # dense counts, rows of the store
Engine = Callable[..., Iterator[Minibatch]]


_MISSING = 'Training from disk needs {}: pip install "scgm_scvi[atlas]".'


def engine_of_this_python() -> str:
    """``"annbatch"`` from Python 3.12 on, before that ``"scdataset"``."""
    return "annbatch" if sys.version_info >= (3, 12) else "scdataset"


def by_scdataset(
    cells: TrainingCells,
    rows: np.ndarray,
    *,
    batch_size: int,
    fetch_factor: int,
    shuffle: bool,
    seed: int,
) -> Iterator[Minibatch]:
    """Minibatches of the cells in ``rows``.

    Parameters
    ----------
    cells
        The store.
    rows
        In the order in which they are read; may repeat.
    batch_size
        Cells in a minibatch.
    fetch_factor
        Minibatches that are read at once.
    shuffle
        Whether to mix what is read at once.
    seed
        Of that.
    """
    try:
        from scdataset import Streaming, scDataset
    except ImportError as error:
        raise ImportError(_MISSING.format("scdataset")) from error

    class Given(Streaming):
        def get_len(self, data_collection: TrainingCells) -> int:
            return len(rows)

        def get_indices(self, data_collection: TrainingCells, seed: int, rng: None = None):
            return rows

    def dense(block: Block, some: np.ndarray) -> Minibatch:
        return block.dense(some), block.rows[some]

    # rank and world_size: the rows are those of this process already
    return iter(
        scDataset(
            cells,
            Given(shuffle=shuffle),
            batch_size,
            fetch_factor,
            fetch_callback=TrainingCells.read,
            batch_callback=dense,
            rank=0,
            world_size=1,
            seed=seed,
        )
    )


def by_annbatch(
    cells: TrainingCells,
    rows: np.ndarray,
    *,
    batch_size: int,
    fetch_factor: int,
    shuffle: bool,
    seed: int,
) -> Iterator[Minibatch]:
    """As :func:`by_scdataset`."""
    try:
        from annbatch import Loader
        from annbatch.abc import Sampler
    except ImportError as error:
        raise ImportError(_MISSING.format("annbatch")) from error

    class Given(Sampler):
        @property
        def batch_size(self) -> int:
            return batch_size

        @property
        def shuffle(self) -> bool:
            return shuffle

        def n_batches(self, n_obs: int) -> int:
            return -(-len(rows) // batch_size)

        def validate(self, n_obs: int) -> None:
            pass

        def _sample(self, n_obs: int) -> Iterator[dict]:
            rng, size = np.random.default_rng(seed), batch_size * fetch_factor
            for start in range(0, len(rows), size):
                begins, ends, positions = spans(np.sort(rows[start : start + size]))
                if shuffle:
                    positions = rng.permutation(positions)
                yield {
                    "requests": [slice(*run) for run in zip(begins, ends, strict=True)],
                    "splits": np.split(
                        positions, np.arange(batch_size, len(positions), batch_size)
                    ),
                }

    loader = Loader(batch_sampler=Given(), return_index=True, preload_to_gpu=False)
    minibatches = iter(loader.add_datasets(cells.matrices))
    with fast_reading():  # annbatch opens the arrays when the first cells are asked for
        first = list(islice(minibatches, 1))
    for minibatch in chain(first, minibatches):
        yield minibatch["X"].astype(np.float32).toarray(), minibatch["index"]


ENGINES: dict[str, Engine] = {"annbatch": by_annbatch, "scdataset": by_scdataset}
