"""Write generated cells of several modalities to disk chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi._mudata import columns_stay

from ._modalities import make_mudata
from ._writing import CellWriter, begin, extend

__all__ = ["MuDataWriter"]


class MuDataWriter(CellWriter):
    """A MuData in a file, ``.h5mu``.

    Features go to disk as they come; of cells, only names and attributes are kept in memory.

    Parameters
    ----------
    path
        Must not exist.
    var
        Modality to the table of its features, in the order of the columns that are appended.
    """

    endings = (".h5mu",)

    def __init__(self, path: str | os.PathLike, var: Mapping[str, pd.DataFrame]) -> None:
        super().__init__(path)
        self._var = dict(var)
        self._arrays = self.path.with_name(f"{self.path.name}.arrays.part")
        self._obs: list[pd.DataFrame] = []

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._arrays.unlink(missing_ok=True)

    def append(
        self, x: sparse.csr_matrix | np.ndarray, obsm: Mapping[str, np.ndarray], obs: pd.DataFrame
    ) -> None:
        """Add cells; ``x`` has the features of all modalities side by side."""
        self._obs.append(obs)
        parts, start = {}, 0
        for key, var in self._var.items():
            parts[key] = x[:, start : start + len(var)]
            start += len(var)
        arrays = {"X": parts, "obsm": obsm}
        if self._file is None:
            self._file = h5py.File(self._arrays, "w")
            for name, values in arrays.items():
                group = self._file.create_group(name)
                for key, value in values.items():
                    begin(group, key, value)
            return
        for name, values in arrays.items():
            for key, value in values.items():
                extend(self._file[name][key], value)

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
