"""Cells of many datasets in random order, in bounded memory."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from scgm_scvi._errors import whole_number
from scgm_scvi._whole import fresh_name

from ._csr import SHARD, CsrWriter
from ._readable_store import ReadableStore
from ._shard import write_frames
from ._spool import CellSpool

__all__ = ["NAMED", "Shuffle", "categories_of"]

ROWS = 64  # cells that are read at least, annbatch's default
BYTES = 8  # of a value in memory: count and gene
NAMED = ("dataset", "source")


class Shuffle:
    """What goes into the parts, and how many there are."""

    def __init__(
        self,
        store: ReadableStore,
        var: pd.DataFrame,
        columns: dict[str, bool],
        seed: int,
        memory: int,
        cells_per_part: int | None,
        before: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.store, self.var, self.columns, self.seed = store, var, columns, seed
        self.memory = memory
        if cells_per_part is not None:
            cells_per_part = whole_number(cells_per_part, "cells_per_part")
        self.cells_per_part = cells_per_part
        self.categories = {c: list(v) for c, v in (before or {}).items()}
        self.n_parts = 0

    def write(self, root: zarr.Group, folder: Path, keys: list[str], first: int) -> None:
        """Shuffle datasets into parts, numbered on from ``first``."""
        self._collect_categories(keys)
        place = [(c, "<i4" if text else "<f4") for c, text in self.columns.items()]
        about = np.dtype(
            [*((c, "<i4") for c in NAMED), *place, ("library_size", "<f4"), ("row", "<i8")]
        )
        n_cells = sum(self.store.row(k).n_cells for k in keys)
        n_values = sum(
            int(self.store.statistics(k).table["n_expressed"].loc[self.var.index].sum())
            for k in keys
        )
        # a part in memory, its rows in their new order a slice at a time, and the encoder's buffers
        size = n_values * BYTES + n_cells * (about.itemsize + 64)
        n_parts = -(-size * 2 // self.memory)
        if self.cells_per_part:
            n_parts = max(n_parts, -(-n_cells // self.cells_per_part))
        n_parts = int(max(1, min(n_parts, n_cells)))
        spool = CellSpool(folder.with_name(fresh_name("spool")), n_parts, len(self.var), about)
        try:
            for key in keys:
                self._throw(key, spool, about, n_parts)
            self.n_parts = first
            for i in spool.filled():
                group = root.create_group(f"dataset_{self.n_parts}")
                self._write_part(group, *spool.take(i), self.n_parts)
                self.n_parts += 1
        finally:
            shutil.rmtree(spool.folder, ignore_errors=True)

    def _collect_categories(self, keys: list[str]) -> None:
        sources = {str(self.store.row(k).provenance.get("source", "")) for k in keys} - {""}
        found = {"dataset": set(keys), "source": sources}
        for key in keys:
            obs = zarr.open_group(self.store.folder(key), mode="r")["obs"]
            there = categories_of(obs)
            for c, text in self.columns.items():
                if text and c in obs:
                    # a number in this dataset, text in another
                    new = there[c][...] if c in there else _column(obs, c).cat.categories
                    found.setdefault(c, set()).update(str(v) for v in new)
        for c, text in {**dict.fromkeys(NAMED, True), **self.columns}.items():
            if text:
                old = self.categories.get(c, [])
                self.categories[c] = np.array(
                    [*old, *sorted(found.get(c, set()) - set(old))], object
                )

    def _throw(self, key: str, spool: CellSpool, dtype: np.dtype, n_parts: int) -> None:
        group = zarr.open_group(self.store.folder(key), mode="r")
        obs, row = group["obs"], self.store.row(key)
        about = np.zeros(row.n_cells, dtype)
        source = pd.Index(self.categories["source"]).get_indexer([row.provenance.get("source")])
        about["dataset"] = list(self.categories["dataset"]).index(key)
        about["source"] = source[0]
        about["row"] = np.arange(row.n_cells)
        about["library_size"] = obs["library_size"][...]
        for c, text in self.columns.items():
            if c not in obs:
                about[c] = -1 if text else np.nan
            elif text:
                values = _column(obs, c)
                recode = pd.Index(self.categories[c]).get_indexer(values.cat.categories)
                about[c] = np.append(recode, -1)[values.cat.codes.to_numpy()]
            else:
                about[c] = pd.to_numeric(pd.Series(ad.io.read_elem(obs[c])), errors="coerce")
        axis = ad.io.read_elem(group["var"]).index
        genes = axis.get_indexer(self.var.index)
        # of the dataset's own, so that neither the others nor their order matter
        name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
        bucket = np.random.default_rng([self.seed, name]).integers(n_parts, size=row.n_cells)
        start = 0
        for block in self.store.blocks(key, min(SHARD, max(1, self.memory // (BYTES * 8)))):
            at = slice(start, start + block.shape[0])
            chosen = block[:, genes]
            chosen.sort_indices()
            spool.add(chosen, about[at], bucket[at])
            start = at.stop

    def _write_part(
        self, group: zarr.Group, counts: sparse.csr_matrix, cells: np.ndarray, number: int
    ) -> None:
        order = np.random.default_rng([self.seed, number]).permutation(len(cells))
        cells = cells[order]
        mean = counts.nnz / max(1, len(cells))
        chunk = max(1024, int(-(-mean * ROWS // 1024)) * 1024)
        writer = CsrWriter(group, len(self.var), np.float32, chunk)
        step = max(1, int(SHARD / max(1.0, mean)) // 4)
        for i in range(0, len(order), step):
            writer.append(counts[order[i : i + step]])
        writer.close()
        obs = {}
        for c in cells.dtype.names:
            if c in self.categories:
                known = pd.Index(self.categories[c], dtype=object)
                obs[c] = pd.Categorical.from_codes(cells[c], known)
            else:
                obs[c] = cells[c]
        keys = self.categories["dataset"]
        names = [f"{keys[d]}/{r}" for d, r in zip(cells["dataset"], cells["row"], strict=True)]
        index = pd.Index(names, dtype=object, name="cell")
        write_frames(group, obs=pd.DataFrame(obs, index=index), var=self.var)


def categories_of(obs: zarr.Group) -> dict[str, zarr.Array]:
    return {k: v["categories"] for k, v in obs.groups() if "categories" in v}


def _column(obs: zarr.Group, name: str) -> pd.Series:
    values = pd.Series(ad.io.read_elem(obs[name]))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    return pd.Series(pd.Categorical(values.astype(object).map(str, na_action="ignore")))
