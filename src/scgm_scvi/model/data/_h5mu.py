"""Write generated cells of several modalities to disk chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scgm_scvi._mudata import columns_stay

from ._modalities import make_mudata
from ._writing import extend, require_free

__all__ = ["MuDataWriter"]


class MuDataWriter:
    """An ``.h5mu`` file that grows by its cells; it appears under its name when it is complete.

    A context manager: an error inside leaves nothing behind. Features go to disk as they come;
    of cells, only names and attributes are kept in memory.

    Parameters
    ----------
    path
        ``.h5mu``; must not exist.
    var
        Modality to the table of its features, in the order of the columns that are appended.

    Raises
    ------
    ValueError
        If the ending is another.
    FileExistsError, FileNotFoundError
        If the path exists, or its folder does not.
    """

    def __init__(self, path: str | os.PathLike, var: Mapping[str, pd.DataFrame]) -> None:
        self.path = require_free(path, (".h5mu",))
        self._var = dict(var)
        self._part, self._arrays = (
            self.path.with_name(self.path.name + end) for end in (".part", ".arrays.part")
        )
        self._remove_parts()
        self._file: h5py.File | None = None
        self._obs: list[pd.DataFrame] = []

    def __enter__(self) -> MuDataWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            self._part.rename(self.path)
        self._remove_parts()

    def append(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        """Add cells; ``x`` has the features of all modalities side by side."""
        self._obs.append(obs)
        parts, start = {}, 0
        for key, var in self._var.items():
            parts[key] = x[:, start : start + len(var)]
            start += len(var)
        if self._file is not None:
            for key, part in parts.items():
                where = self._file["X"][key]
                sparse_dataset(where).append(part) if sparse.issparse(part) else extend(where, part)
            for key, value in obsm.items():
                extend(self._file["obsm"][key], value)
            return
        self._file = h5py.File(self._arrays, "w")
        for group, arrays in (("X", parts), ("obsm", obsm)):
            group = self._file.create_group(group)
            for key, value in arrays.items():
                if sparse.issparse(value):
                    value.indptr = value.indptr.astype(np.int64)  # a file may outgrow 32 bits
                    write_elem(group, key, value)
                else:
                    width = value.shape[1]
                    growing = {"chunks": (_rows(width), width), "maxshape": (None, width)}
                    write_elem(group, key, value, dataset_kwargs=growing)

    def finish(self, var: pd.DataFrame, uns: Mapping[str, Any]) -> None:
        """Write what is not per cell, and bring all into one file."""
        obs = pd.concat(self._obs)
        mods = {key: AnnData(obs=obs.copy(), var=table) for key, table in self._var.items()}
        mdata = make_mudata(mods, obs)
        mdata.uns = dict(uns)
        with columns_stay():
            mdata.write_h5mu(self._part)
        with h5py.File(self._part, "r+") as file:
            for key in self._var:
                place = file["mod"][key]
                if "X" in place:
                    del place["X"]
                self._file.copy(f"X/{key}", place, "X")
            for key in self._file["obsm"]:
                self._file.copy(f"obsm/{key}", file["obsm"], key)

    def _remove_parts(self) -> None:
        for part in (self._part, self._arrays):
            Path(part).unlink(missing_ok=True)


def _rows(width: int) -> int:
    """Rows of a chunk of about a megabyte."""
    return max(1, min(1024, (1 << 18) // max(1, width)))
