"""The store as its readers see it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from scgm_scvi._errors import listed, nearest

from ._csr import SHARD, read_blocks
from ._manifest import OK, Row, read_manifest, table
from ._shard import hash_of_shard, open_shard, read_statistics
from ._statistics import Statistics
from ._variable_genes import variable_genes

__all__ = ["FORMAT", "FORMAT_VERSION", "ReadableStore"]

FORMAT, FORMAT_VERSION = "scgdb", 1


class ReadableStore:
    """What :class:`Store` does without changing anything."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        about = self.path / "atlas.json"
        if not about.exists():
            raise FileNotFoundError(
                f"{self.path} is no store of scGDB: make one by Store.create()."
            )
        self._known: tuple[tuple[int, ...], dict[str, Row]] = ((), {})
        self._about = json.loads(about.read_text(encoding="utf-8"))
        if self._about.get("format") != FORMAT or self._about["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{about} says {self._about.get('format')!r}, version "
                f"{self._about.get('format_version')}; this package reads {FORMAT!r} up to version "
                f"{FORMAT_VERSION}: update scgm-scvi."
            )

    def __repr__(self) -> str:
        good = [r for r in self._rows().values() if r.status == OK]
        n = sum(r.n_cells for r in good)
        return f"Store({str(self.path)!r}): {len(good)} datasets, {n:,} cells"

    @property
    def axis(self) -> dict[str, str]:
        """Name and version of the gene axis."""
        return dict(self._about["axis"])

    @property
    def datasets(self) -> pd.DataFrame:
        """The manifest: a row a dataset, failed ones too (see ``status`` and ``reason``)."""
        return table(self._rows().values())

    def stored(self) -> dict[str, Row]:
        """What the manifest says of the datasets that have cells, by key, sorted."""
        return {key: row for key, row in self._rows().items() if row.status == OK}

    def keys(self) -> list[str]:
        """Datasets that have cells, sorted."""
        return list(self.stored())

    def row(self, key: str) -> Row:
        """What the manifest says of a dataset, failed ones too."""
        rows = self._rows()
        if key not in rows:
            raise KeyError(f"{key!r} is no dataset of {self.path}.{nearest(key, rows)}")
        return rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def folder(self, key: str) -> Path:
        """Where a dataset lies: open it by ``anndata.io.read_zarr``, dask or annbatch as it is."""
        row = self.row(key)
        if row.status != OK:
            raise KeyError(f"{key!r} has no cells, as it failed: {row.reason}")
        return self._shard(key)

    def __getitem__(self, key: str) -> AnnData:
        """A dataset with its counts on disk: ``store[key][rows].X`` reads those rows.

        ``varm["statistics"]`` holds its statistics and which genes it ``measured``; ``to_memory()``
        reads it all.
        """
        return open_shard(self.folder(key))

    def columns(self, key: str) -> list[str]:
        """Names of the columns of a dataset's cells."""
        return list(zarr.open_group(self.folder(key), mode="r")["obs"].attrs["column-order"])

    def blocks(self, key: str, n_values: int = SHARD) -> Iterator[sparse.csr_matrix]:
        """Counts of a dataset, as many cells at a time as have ``n_values`` counts above zero."""
        return read_blocks(zarr.open_group(self.folder(key), mode="r"), n_values)

    def measured(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """Which genes each dataset measured: truth values, datasets x genes."""
        keys = self.keys() if keys is None else list(keys)
        genes, rows = pd.Index([]), []
        for key in keys:
            table = read_statistics(zarr.open_group(self.folder(key), mode="r"))
            genes = table.index
            rows.append(table["measured"].to_numpy(bool))
        values = np.stack(rows) if rows else np.zeros((0, 0), dtype=bool)
        return pd.DataFrame(values, index=keys, columns=genes)

    def statistics(self, key: str | None = None) -> Statistics:
        """Sums over the cells of a dataset, or of all; no cell is read."""
        if key is not None:
            return Statistics(read_statistics(zarr.open_group(self.folder(key), mode="r")))
        return Statistics.sum(self.statistics(k) for k in self.keys())

    def value_counts(
        self, column: str, *, normalize: bool = False, dropna: bool = True
    ) -> pd.Series:
        """Number of cells by the values of a column, all datasets together.

        Of all that is stored, this one column is read.

        Parameters
        ----------
        column
            Of the cells, as ``"tissue"``; or ``"source"``.
        normalize, dropna
            As in :meth:`pandas.Series.value_counts`: shares in place of numbers; whether cells
            without a value are left out.

        Returns
        -------
        Most frequent first, as :meth:`pandas.Series.value_counts` gives them.

        Raises
        ------
        KeyError
            If cells have no such column.

        Examples
        --------
        >>> from scgm_scvi import atlas
        >>> atlas.open("scgdb/").value_counts("disease")  # doctest: +SKIP
        """
        total = pd.Series(dtype="int64")
        for key in self:
            obs = zarr.open_group(self.folder(key), mode="r")["obs"]
            if column not in (columns := obs.attrs["column-order"]):
                raise KeyError(
                    f"column is {column!r}; cells have {listed(columns, 20)}."
                    f"{nearest(column, columns)}"
                )
            found = pd.Series(read_elem(obs[column])).value_counts(dropna=dropna)
            total = total.add(found.set_axis(found.index.astype(object)), fill_value=0)
        total = total[total > 0].astype("int64").sort_values(ascending=False, kind="stable")
        total = total / total.sum() if normalize else total
        return total.rename("proportion" if normalize else "count").rename_axis(column)

    def highly_variable(
        self,
        n_top: int,
        *,
        flavor: str = "scran",
        by_dataset: bool = False,
        min_cells: int = 1,
        datasets: Iterable[str] | None = None,
    ) -> pd.Index:
        """Names of the genes that vary most, by statistics alone; see :func:`variable_genes`."""
        keys = self.keys() if datasets is None else list(datasets)
        each = (self.statistics(k) for k in keys)  # one at a time
        options = {"flavor": flavor, "by_dataset": by_dataset, "min_cells": min_cells}
        return variable_genes(each, n_top, **options)

    def content_hash(self) -> str:
        """sha256 of all datasets: equal where two stores hold the same cells."""
        good = {k: r.content_hash for k, r in self.stored().items()}
        return sha256(json.dumps([self.axis, good], sort_keys=True).encode()).hexdigest()

    def verify(self, key: str | None = None) -> dict[str, str]:
        """Read a dataset, or all, and compare with the manifest.

        Returns
        -------
        What is wrong, by dataset; empty where nothing is.
        """
        wrong = {}
        damaged = (OSError, ValueError, RuntimeError, LookupError, TypeError)  # what readers raise
        for k in self.keys() if key is None else [key]:
            folder = self.folder(k)
            try:
                found = hash_of_shard(folder)
            except damaged as e:
                wrong[k] = f"can't be read: {type(e).__name__}: {e}"
            else:
                if found != self.row(k).content_hash:
                    wrong[k] = "holds other cells than the manifest says"
        return wrong

    @property
    def _tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    def _shard(self, key: str) -> Path:
        return self.path / "datasets" / f"{key}.zarr"

    def _rows(self) -> dict[str, Row]:
        if not self._manifest.exists():
            return {}
        stat = self._manifest.stat()  # a new file each time that it is written
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._known[0] != state:
            self._known = state, read_manifest(self._manifest)
        return dict(self._known[1])
