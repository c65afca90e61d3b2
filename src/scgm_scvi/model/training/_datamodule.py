"""What training from disk needs of a data module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch

__all__ = ["CellsToEncode", "TrainingDataModule"]

Minibatch = Mapping[str, torch.Tensor]


class CellsToEncode(Protocol):
    """Minibatches of cells, each once.

    Attributes
    ----------
    n_obs
        Number of cells.
    weights
        How often each is to be drawn, or ``None``: all the same.
    """

    n_obs: int
    weights: np.ndarray | None

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches."""


class TrainingDataModule(Protocol):
    """Cells on disk, in minibatches of scvi-tools' kind with entries of conditions.

    :class:`scgm_scvi.atlas.AtlasDataModule` is one; whatever has these may take its place.

    Attributes
    ----------
    registry
        As a model's: the fields of the cells, among them ``"scgm_conditions"``.
    var
        Table of the features.
    n_steps
        Minibatches of a pass over the training cells.
    n_val
        Number of cells that are held out.
    """

    registry: Mapping[str, Any]
    var: pd.DataFrame
    n_steps: int
    n_val: int

    def train_dataloader(self) -> Iterable[dict[str, torch.Tensor]]:
        """Minibatches to train on."""

    def inference_dataloader(self, split: Literal["train", "validation"]) -> CellsToEncode:
        """All cells of a part, each once; in a distributed run a share of them for each process."""
