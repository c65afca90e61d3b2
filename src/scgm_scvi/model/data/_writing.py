"""Write generated cells to disk chunk by chunk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

__all__ = ["ChunkWriter", "extend", "require_free"]


class ChunkWriter:
    """An AnnData file that grows by its cells; it appears under its name when it is complete.

    A context manager: an error inside leaves nothing behind.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``; must not exist.

    Raises
    ------
    ValueError
        If the ending is neither.
    FileExistsError, FileNotFoundError
        If the path exists, or its folder does not.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = require_free(path, (".h5ad", ".zarr"))
        self._part = self.path.with_name(self.path.name + ".part")
        self._remove_part()
        self._root: Any = None

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if isinstance(self._root, h5py.File):
            self._root.close()
        if kind is None:
            self._part.rename(self.path)
        else:
            self._remove_part()

    def append(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        """Add cells."""
        if self._root is None:
            self._begin(x, obsm, obs)
            return
        if sparse.issparse(x):
            sparse_dataset(self._root["X"]).append(x)
        else:
            extend(self._root["X"], x)
        for key, value in obsm.items():
            extend(self._root["obsm"][key], value)
        group = self._root["obs"]
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
            self._root = h5py.File(self._part, "w")
        else:
            self._root = zarr.open_group(str(self._part), mode="w", zarr_format=3)
        with _plain_chunks():
            write_elem(self._root, "/", ad.AnnData(shape=(0, 0)))
            for group, key, value in [
                (self._root, "X", x),
                *((self._root["obsm"], k, v) for k, v in obsm.items()),
            ]:
                if sparse.issparse(value):
                    value.indptr = value.indptr.astype(np.int64)  # a file may outgrow 32 bits
                    write_elem(group, key, value)
                else:
                    self._write_growing(group, key, value, (value.shape[1],))
            # as objects: pandas 3's own strings may become a group, which does not grow
            obs = obs.set_axis(obs.index.astype(object), axis=0)
            self._write_growing(self._root, "obs", obs, ())

    def _write_growing(self, group: Any, key: str, value: Any, width: tuple[int, ...]) -> None:
        """Write arrays, or a table of columns, that can grow along their first axis."""
        options = {"chunks": (1024, *width)}
        if isinstance(self._root, h5py.File):
            options["maxshape"] = (None, *width)
        write_elem(group, key, value, dataset_kwargs=options)

    def finish(self, var: pd.DataFrame, uns: Mapping[str, Any]) -> None:
        """Write what is not per cell."""
        with _plain_chunks():
            write_elem(self._root, "var", var)
            write_elem(self._root, "uns", dict(uns))

    def _remove_part(self) -> None:
        if self._part.is_dir():
            shutil.rmtree(self._part)
        elif self._part.exists():
            self._part.unlink()


def _plain_chunks() -> AbstractContextManager:
    """Arrays that can grow: no shards, which newer anndata makes by default."""
    if hasattr(ad.settings, "auto_shard_zarr_v3"):
        return ad.settings.override(auto_shard_zarr_v3=False)
    return nullcontext()


def require_free(path: str | os.PathLike, endings: Sequence[str]) -> Path:
    """``path``, if a file of that name can be made and has one of the endings."""
    place = Path(path)
    if place.suffix not in endings:
        raise ValueError(f"out is {str(path)!r}; its name must end in {' or '.join(endings)}.")
    if place.exists():
        raise FileExistsError(f"out: {str(path)!r} exists already. Remove it or name another.")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"out: the folder {str(place.parent)!r} does not exist.")
    return place


def extend(dataset: Any, value: np.ndarray) -> None:
    """Add rows to an array on disk."""
    n = dataset.shape[0]
    dataset.resize((n + len(value), *dataset.shape[1:]))
    dataset[n:] = value
