"""Write generated cells to disk chunk by chunk."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scgm_scvi._whole import written_whole

from ._matrices import Matrix

__all__ = ["CellWriter", "ChunkWriter", "begin", "extend"]


class CellWriter(ABC):
    """A file that grows by its cells; it appears under its name when it is complete.

    A context manager: an error inside leaves nothing behind.

    Parameters
    ----------
    path
        Must not exist.

    Raises
    ------
    ValueError
        If the ending is none of ``endings``.
    FileExistsError, FileNotFoundError
        If the path exists, or its folder does not.
    """

    endings: ClassVar[tuple[str, ...]]

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.suffix not in self.endings:
            raise ValueError(
                f"out is {str(path)!r}; its name must end in {' or '.join(self.endings)}."
            )
        if self.path.exists():
            raise FileExistsError(f"out: {str(path)!r} exists already. Remove it or name another.")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"out: the folder {str(self.path.parent)!r} does not exist.")
        self._whole = written_whole(self.path)
        self._file: Any = None  # from the first cells on

    def __enter__(self) -> CellWriter:
        self._part = self._whole.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if isinstance(self._file, h5py.File):
            self._file.close()
        self._whole.__exit__(*error)

    @abstractmethod
    def append(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        """Add cells."""

    @abstractmethod
    def finish(self, var: pd.DataFrame, uns: Mapping[str, Any]) -> None:
        """Write what is not per cell."""


class ChunkWriter(CellWriter):
    """An AnnData in a file, ``.h5ad`` or ``.zarr``."""

    endings = (".h5ad", ".zarr")

    def append(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        """Add cells."""
        if self._file is None:
            self._begin(x, obsm, obs)
            return
        extend(self._file["X"], x)
        for key, value in obsm.items():
            extend(self._file["obsm"][key], value)
        group = self._file["obs"]
        extend(group[group.attrs["_index"]], obs.index.to_numpy(dtype=object))
        for name, column in obs.items():
            if isinstance(column.dtype, pd.CategoricalDtype):
                extend(group[name]["codes"], column.cat.codes.to_numpy())
            else:
                extend(group[name], column.to_numpy())

    def _begin(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        if self.path.suffix == ".h5ad":
            self._file = h5py.File(self._part, "w")
        else:
            self._file = zarr.open_group(str(self._part), mode="w", zarr_format=3)
        with _plain_chunks():
            write_elem(self._file, "/", ad.AnnData(shape=(0, 0)))
            begin(self._file, "X", x)
            for key, value in obsm.items():
                begin(self._file["obsm"], key, value)
            # as objects: pandas 3's own strings may become a group, which does not grow
            begin(self._file, "obs", obs.set_axis(obs.index.astype(object), axis=0))

    def finish(self, var: pd.DataFrame, uns: Mapping[str, Any]) -> None:
        """Write what is not per cell."""
        with _plain_chunks():
            write_elem(self._file, "var", var)
            write_elem(self._file, "uns", dict(uns))


def _plain_chunks() -> AbstractContextManager:
    """Arrays that can grow: no shards, which newer anndata makes by default."""
    if hasattr(ad.settings, "auto_shard_zarr_v3"):
        return ad.settings.override(auto_shard_zarr_v3=False)
    return nullcontext()


def begin(group: Any, key: str, value: Matrix | pd.DataFrame) -> None:
    """Write a matrix, an array, or a table of columns that can grow along its first axis."""
    options: dict[str, Any] = {}
    if sparse.issparse(value):
        value.indptr = value.indptr.astype(np.int64)  # a file may outgrow 32 bits
    else:
        width = () if isinstance(value, pd.DataFrame) else value.shape[1:]
        n_rows = (1 << 18) // max(1, math.prod(width))  # chunks of about a megabyte
        options["chunks"] = (max(1, min(1024, n_rows)), *width)
        if isinstance(group, h5py.Group):
            options["maxshape"] = (None, *width)
    write_elem(group, key, value, dataset_kwargs=options)


def extend(element: Any, value: sparse.csr_matrix | np.ndarray) -> None:
    """Add rows to what :func:`begin` wrote."""
    if sparse.issparse(value):
        sparse_dataset(element).append(value)
        return
    n = element.shape[0]
    element.resize((n + len(value), *element.shape[1:]))
    element[n:] = value
