"""Train from a store on disk: minibatches for scvi-tools, and what a model must know of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule

from scgm_scvi._errors import listed, nearest, whole_number

from ._loaders import ENGINES, engine_of_this_python
from ._registry import Attributes, categorical_column
from ._row_order import RowOrder, row_weights
from ._training_cells import TrainingCells

__all__ = ["AtlasDataModule"]

_MOST_VALIDATED = 10_000
_READ_AT_ONCE = 8_192  # cells, in order: for inference and validation
_WEIGHTS = ("sqrt", "uniform")


class AtlasDataModule(LightningDataModule):
    """Cells of a training store, streamed in shuffled minibatches.

    For ``model.train(datamodule=...)`` of :class:`scgm_scvi.SCGM` and of scvi-tools' own models.
    Memory does not grow with the counts in the store: of each cell a few bytes are held, its
    categories and where its counts begin. No other processes are started.

    In a distributed run (:mod:`torch.distributed`) each process draws from cells of its own, as
    many minibatches as every other; what is left over waits for another pass.

    Parameters
    ----------
    path
        A zarr group of AnnData ``dataset_0``, ``dataset_1``, ..., with CSR counts of the same
        genes, whose cells are in random order.
    labels_key, condition_keys, continuous_condition_keys
        Columns of ``obs`` to steer by, as in :meth:`scgm_scvi.SCGM.setup_anndata`. Missing values
        are "unspecified".
    batch_key, categorical_covariate_keys, continuous_covariate_keys
        Columns of ``obs`` with nuisances. ``None``: all cells are one batch.
    dataset_key
        Column of ``obs`` with the data set that each cell comes from, for ``weights`` and
        ``holdout``. Default: ``batch_key``.
    unlabeled_category
        Value of the labels and of the categorical conditions that means "unspecified".
    batch_size
        Cells in a minibatch, of each process.
    weights
        How often data sets are drawn: by the square root of their number of cells, each as often
        as any other, or (``None``) as they are, each cell once a pass.
    class_weights
        The same for labels, on top.
    holdout
        Data sets that are never trained on; validation is on them.
    validation_size
        Cells, or share of the cells, that training leaves out for validation. Default: a tenth,
        but no more than 10,000; with ``holdout``, so many of its cells. 0: none.
    steps_per_epoch
        Minibatches in an epoch, where that is not to be a pass over the cells: of a large store,
        epochs are for logging and validation. The next epoch goes on where one ended.
    seed
        Same seed, same minibatches.
    block_size
        Consecutive cells of the store that are read together.
    fetch_factor
        Minibatches that are read at once, and mixed.

    Attributes
    ----------
    cells
        The store.
    train_rows, validation_rows
        Rows of the store, sorted.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If the store or an argument can't be used; the message says which, and what to do.

    Examples
    --------
    >>> dm = AtlasDataModule("scgdb/training", labels_key="cell_type")  # doctest: +SKIP
    >>> model = SCGM(registry=dm.registry)  # doctest: +SKIP
    >>> model.train(datamodule=dm, max_steps=50_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        labels_key: str | None = None,
        batch_key: str | None = "dataset",
        condition_keys: Sequence[str] = (),
        continuous_condition_keys: Sequence[str] = (),
        categorical_covariate_keys: Sequence[str] = (),
        continuous_covariate_keys: Sequence[str] = (),
        dataset_key: str | None = None,
        unlabeled_category: str | None = "unknown",
        batch_size: int = 128,
        weights: Literal["sqrt", "uniform"] | None = "sqrt",
        class_weights: Literal["sqrt", "uniform"] | None = None,
        holdout: Sequence[str] = (),
        validation_size: float | int | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        block_size: int = 256,
        fetch_factor: int = 16,
    ) -> None:
        super().__init__()
        self.batch_size = whole_number(batch_size, "batch_size")
        self.fetch_factor = whole_number(fetch_factor, "fetch_factor")
        if steps_per_epoch is not None:
            steps_per_epoch = whole_number(steps_per_epoch, "steps_per_epoch")
        self.steps_per_epoch = steps_per_epoch
        self.seed = int(seed)
        for name, value in {"weights": weights, "class_weights": class_weights}.items():
            if value is not None and value not in _WEIGHTS:
                raise ValueError(f"{name} is {value!r}; use one of {_WEIGHTS}, or None.")
        if class_weights is not None and labels_key is None:
            raise ValueError(f"class_weights is {class_weights!r}, but there is no labels_key.")
        self.cells = TrainingCells(path)
        self.attributes = Attributes(
            self.cells,
            labels_key=labels_key,
            batch_key=batch_key,
            condition_keys=condition_keys,
            continuous_condition_keys=continuous_condition_keys,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            unlabeled_category=unlabeled_category,
        )
        dataset_key = batch_key if dataset_key is None else dataset_key
        datasets = None if dataset_key is None else categorical_column(self.cells, dataset_key)
        self.train_rows, self.validation_rows = self._split(
            datasets, dataset_key, holdout, validation_size, whole_number(block_size, "block_size")
        )
        drawn = None
        if weights is not None and datasets is not None:
            drawn = row_weights(datasets.codes[self.train_rows], weights)
        if class_weights is not None:
            own = row_weights(self.attributes.labels[self.train_rows], class_weights)
            drawn = own if drawn is None else drawn * own
        self.order = RowOrder(self.train_rows, drawn, self.batch_size, block_size, self.seed)

    def _split(
        self,
        datasets: pd.Categorical | None,
        dataset_key: str | None,
        holdout: Sequence[str],
        size: float | int | None,
        block_size: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to validate on, sorted."""
        if isinstance(holdout, str):
            raise TypeError(f"holdout is the string {holdout!r}; pass a list: [{holdout!r}].")
        n = self.cells.n_obs
        rows = np.arange(n, dtype=np.uint32 if n < 2**32 else np.int64)
        if holdout:
            if datasets is None:
                raise ValueError(f"holdout is {list(holdout)}, but there is no dataset_key.")
            known = list(datasets.categories)
            for name in holdout:
                if name not in known:
                    raise ValueError(
                        f"holdout: {dataset_key!r} has no data set {name!r}."
                        f"{nearest(name, known)} It has {listed(known)}."
                    )
            held = np.isin(datasets.codes, [known.index(name) for name in holdout])
            if held.all():
                raise ValueError("holdout names all data sets: there is nothing to train on.")
            rows, candidates = rows[~held], rows[held]
            return rows, np.sort(self._some(candidates, size, len(candidates), block_size))
        validation = self._some(rows, size, n, block_size)
        if len(validation) == n:
            raise ValueError(
                f"validation_size is {size!r}, and there are {n} cells: none is left to train on."
            )
        keep = np.ones(n, dtype=bool)
        keep[validation] = False
        return rows[keep], np.sort(validation)

    def _some(
        self, rows: np.ndarray, size: float | int | None, n: int, block_size: int
    ) -> np.ndarray:
        """So many of the rows, in blocks from all over the store."""
        if size is None:
            n_some = min(_MOST_VALIDATED, -(-n // 10) if len(rows) == self.cells.n_obs else n)
        elif isinstance(size, float):
            if not 0 <= size < 1:
                raise ValueError(f"validation_size is {size!r}; a share is from 0 to below 1.")
            n_some = round(size * n)
        else:
            n_some = 0 if size == 0 else min(n, whole_number(size, "validation_size"))
        block_size = max(1, min(block_size, n_some // 16))
        blocks = np.random.default_rng([self.seed, 0]).permutation(-(-n // block_size))
        blocks = blocks[: -(-n_some // block_size) + 1]  # the last block may be a short one
        picked = [rows[b * block_size : (b + 1) * block_size] for b in blocks]
        return np.concatenate([*picked, rows[:0]])[:n_some]

    @property
    def registry(self) -> dict[str, Any]:
        """What a model must know of the cells, as scvi-tools has it."""
        return self.attributes.registry(self.n_obs, self.cells.var.index.to_numpy())

    @property
    def var(self) -> pd.DataFrame:
        """The genes."""
        return self.cells.var

    @property
    def n_obs(self) -> int:
        """Number of cells in the store."""
        return self.cells.n_obs

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self.cells.n_vars

    @property
    def n_batch(self) -> int:
        """Number of batches."""
        return len(self.attributes.batches)

    @property
    def n_labels(self) -> int:
        """Number of labels, of which "unspecified" is one if it occurs."""
        return len(self.attributes.label_names)

    @property
    def n_samples(self) -> int:
        """None; scvi-tools asks."""
        return 0

    @property
    def batch_labels(self) -> np.ndarray:
        """The batches."""
        return self.attributes.batches

    @property
    def label_keys(self) -> np.ndarray:
        """The labels."""
        return self.attributes.label_names

    @property
    def n_train(self) -> int:
        """Number of cells to train on."""
        return len(self.train_rows)

    @property
    def n_val(self) -> int:
        """Number of cells to validate on."""
        return len(self.validation_rows)

    @property
    def n_steps(self) -> int:
        """Minibatches in an epoch, of each process."""
        return self.steps_per_epoch or self.order.n_batches(_process()[1])

    def train_dataloader(self) -> _TrainingBatches:
        """Shuffled minibatches, epoch after epoch."""
        return _TrainingBatches(self)

    def val_dataloader(self) -> _RowBatches | list:
        """The validation cells, in order; each process has as many as every other."""
        rank, world_size = _process()
        n = len(self.validation_rows) // world_size
        rows = self.validation_rows[rank * n : (rank + 1) * n]
        return _RowBatches(self, rows, self.batch_size) if n else []

    def inference_dataloader(
        self, split: Literal["train", "validation"] | None = None, batch_size: int = 1024
    ) -> _RowBatches:
        """Each cell once, in the order of the store.

        Parameters
        ----------
        split
            Only cells to train on, or to validate on. Default: all in the store.
        batch_size
            Cells in a minibatch.

        Returns
        -------
        Minibatches. ``n_obs`` is the number of their cells, and ``weights`` says how often each
        is drawn in training; ``None``: all the same. In a distributed run, of a share of the cells
        for each process.
        """
        if split not in (None, "train", "validation"):
            raise ValueError(f"split is {split!r}; use 'train', 'validation' or None.")
        weights = None
        if split is None:
            rows = np.arange(self.n_obs)
        else:
            rows = self.train_rows if split == "train" else self.validation_rows
            weights = self.order.weights if split == "train" else None
        rank, world_size = _process()
        ends = np.linspace(0, len(rows), world_size + 1).round().astype(int)
        part = slice(ends[rank], ends[rank + 1])
        return _RowBatches(self, rows[part], batch_size, None if weights is None else weights[part])

    def _minibatches(
        self, rows: np.ndarray, batch_size: int, *, seed: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        fetch = self.fetch_factor if seed is not None else max(1, _READ_AT_ONCE // batch_size)
        engine = ENGINES[engine_of_this_python()]
        minibatches = engine(
            self.cells,
            rows,
            batch_size=batch_size,
            fetch_factor=fetch,
            shuffle=seed is not None,
            seed=seed or 0,
        )
        for x, of in minibatches:
            yield {"X": torch.from_numpy(x), **self.attributes.tensors(of)}


class _TrainingBatches:
    """Passes over the training cells of this process, cut into epochs."""

    def __init__(self, data: AtlasDataModule) -> None:
        self.data = data
        self.n_passes = 0
        self._rest: Iterator[dict[str, torch.Tensor]] = iter(())
        if not len(self):
            n, (_, world_size) = data.n_train, _process()
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
        (rank, world_size), number, data = _process(), self.n_passes, self.data
        self.n_passes += 1
        seed = np.random.SeedSequence([data.seed, number, rank]).generate_state(1)
        rows = data.order.of_pass(number, rank, world_size)
        return data._minibatches(rows, data.batch_size, seed=int(seed[0]))


class _RowBatches:
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
        return self.data._minibatches(self.rows, self.batch_size)


def _process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
