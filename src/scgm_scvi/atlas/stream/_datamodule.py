"""Train from a store on disk: minibatches for scvi-tools, and what a model must know of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch import LightningDataModule

from scgm_scvi._errors import whole_number
from scgm_scvi._processes import process

from ._holdout import MOST_VALIDATED, held_out, some_rows
from ._minibatches import RowBatches, TrainingBatches
from ._registry import Attributes, categorical_column
from ._row_order import RowOrder, row_weights
from ._training_cells import TrainingCells

__all__ = ["AtlasDataModule"]

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
        genes, whose cells are in random order. Cells without any counts are left out.
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
    perturbation_key, control, perturbation_separator, dose_key, condition_embeddings
        What was done to cells, as in :meth:`scgm_scvi.SCGM.setup_anndata`: the column that says it,
        its value for control cells, what stands between the parts of a set, the column with the
        dose, and vectors. Responses are then learnt from the cells to train on, each read once
        more; ``validation_size=0`` leaves none out.
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
        but no more than 10,000. With ``holdout``: of its cells, by default all up to 10,000. 0: none.
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

    Of a screen, whose responses the model learns too:

    >>> dm = AtlasDataModule(
    ...     "screen/train", perturbation_key="target", control="non-targeting"
    ... )  # doctest: +SKIP
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
        perturbation_key: str | None = None,
        control: str | None = None,
        perturbation_separator: str = "+",
        dose_key: str | None = None,
        condition_embeddings: Mapping[str, pd.DataFrame] | None = None,
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
            perturbation_key=perturbation_key,
            control=control,
            perturbation_separator=perturbation_separator,
            dose_key=dose_key,
            condition_embeddings=condition_embeddings,
        )
        dataset_key = batch_key if dataset_key is None else dataset_key
        datasets = None if dataset_key is None else categorical_column(self.cells, dataset_key)
        block_size = whole_number(block_size, "block_size")
        if isinstance(holdout, str):
            raise TypeError(f"holdout is the string {holdout!r}; pass a list: [{holdout!r}].")
        rows = np.ones(self.n_obs, dtype=bool)
        rows[self.cells.empty_rows] = False  # they have no depth to normalise by
        if holdout:
            held = held_out(datasets, dataset_key, holdout)
            if validation_size is None:
                validation_size = min(int((rows & held).sum()), MOST_VALIDATED)
            candidates, rows = rows & held, rows & ~held
        else:
            candidates = rows
        self.validation_rows = some_rows(
            _numbers_of(candidates), validation_size, block_size, self.seed
        )
        rows[self.validation_rows] = False
        self.train_rows = _numbers_of(rows)
        if not len(self.train_rows):
            raise ValueError(
                f"validation_size is {validation_size!r}, and there are {self.n_obs} cells: none "
                "is left to train on."
            )
        drawn = None
        if weights is not None and datasets is not None:
            drawn = row_weights(datasets.codes[self.train_rows], weights)
        if class_weights is not None:
            own = row_weights(self.attributes.labels[self.train_rows], class_weights)
            drawn = own if drawn is None else drawn * own
        self.order = RowOrder(self.train_rows, drawn, self.batch_size, block_size, self.seed)

    def __str__(self) -> str:
        return (
            f"AtlasDataModule: {self.n_obs:,} cells x {self.n_vars:,} genes at {self.cells.path}, "
            f"{self.n_train:,} to train on and {self.n_val:,} to validate on; {self.n_steps:,} "
            f"minibatches of {self.batch_size} an epoch."
        )

    __repr__ = __str__

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
        return self.steps_per_epoch or self.order.n_batches(process()[1])

    def train_dataloader(self) -> TrainingBatches:
        """Shuffled minibatches, epoch after epoch."""
        return TrainingBatches(self)

    def val_dataloader(self) -> RowBatches | list:
        """The validation cells, in order; each process has as many as every other."""
        rank, world_size = process()
        n = len(self.validation_rows) // world_size
        rows = self.validation_rows[rank * n : (rank + 1) * n]
        return RowBatches(self, rows, self.batch_size) if n else []

    def inference_dataloader(
        self, split: Literal["train", "validation"] | None = None, batch_size: int = 1024
    ) -> RowBatches:
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
        rank, world_size = process()
        ends = np.linspace(0, len(rows), world_size + 1).round().astype(int)
        part = slice(ends[rank], ends[rank + 1])
        return RowBatches(self, rows[part], batch_size, None if weights is None else weights[part])


def _numbers_of(rows: np.ndarray) -> np.ndarray:
    """Numbers of the rows that are so, in four bytes if they fit."""
    return np.flatnonzero(rows).astype(np.uint32 if len(rows) < 2**32 else np.int64)
