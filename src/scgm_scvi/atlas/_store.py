"""The store: one AnnData on disk a dataset, and a manifest of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from filelock import FileLock
from scipy import sparse

from scgm_scvi._errors import nearest

from ._content import ContentHash, canonical_counts, canonical_obs, hash_of_names
from ._files import fresh_name, remove_folder, replace_file, sync_folder, sync_path
from ._manifest import OK, QUARANTINED, Row, read_manifest, table, write_manifest
from ._shard import (
    CsrWriter,
    consolidate,
    open_shard,
    read_blocks,
    read_statistics,
    write_frames,
)
from ._statistics import Statistics
from ._variable_genes import variable_genes

__all__ = ["Staged", "Store"]

FORMAT, FORMAT_VERSION = "scgdb", 1
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_LIBRARY_SIZE = "library_size"


@dataclass(frozen=True)
class Staged:
    """A dataset that is written and waits for :meth:`Store.commit`; can be sent between processes.

    Parameters
    ----------
    folder
        Its name in the store's folder ``tmp``.
    row
        What the manifest will say.
    """

    folder: str
    row: Row


class Store:
    """Datasets on disk, on one gene axis: a folder that any process may read while it grows.

    ::

        atlas.json             version of this format, the gene axis
        manifest.jsonl         a row a dataset: what exists
        datasets/<key>.zarr    one AnnData a dataset (zarr v3): counts in X, as CSR
        train/                 what make_training_store makes
        tmp/                   what is being written; readers never look

    A dataset is written in ``tmp``, moved when it is whole, and then listed in the manifest at one
    stroke. What the manifest does not list does not exist, whenever the writing was cut.

    Parameters
    ----------
    path
        The folder, as :meth:`create` made it.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If a later version of the package wrote it.

    Examples
    --------
    >>> import tempfile, numpy as np, pandas as pd
    >>> from scipy import sparse
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = Store.create(folder.name, {"name": "toy", "version": "1"})
    >>> counts = sparse.csr_matrix([[1, 0, 3], [0, 2, 0]])
    >>> obs = pd.DataFrame({"cell_type": ["T cell", "B cell"]}, index=["a", "b"])
    >>> var = pd.DataFrame(index=["g1", "g2", "g3"])
    >>> row = store.write(
    ...     "toy", iter([counts]), obs, var, measured=np.ones(3, bool), provenance={"source": "local"}
    ... )
    >>> store.datasets[["n_cells", "n_counts", "source"]]
         n_cells  n_counts source
    key                          
    toy        2         6  local
    >>> store["toy"][:1].X.toarray()
    array([[1, 0, 3]], dtype=int32)
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        about = self.path / "atlas.json"
        if not about.exists():
            raise FileNotFoundError(f"{self.path} is no store of scGDB: make one by Store.create().")
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

    @classmethod
    def create(cls, path: str | os.PathLike, axis: Any) -> Store:
        """Make an empty store.

        Parameters
        ----------
        path
            A folder that is empty or not there yet, or one where making a store was cut.
        axis
            The gene axis: something with ``name`` and ``version``, as attributes or keys.

        Raises
        ------
        FileExistsError
            If there is something in the folder.
        """
        path = Path(path)
        known = {"datasets", "tmp", "manifest.lock"}
        if path.exists() and (found := sorted({p.name for p in path.iterdir()} - known)):
            raise FileExistsError(
                f"{path} holds {found[0]!r} already: open it by Store(path) if it is a store, "
                "otherwise choose an empty folder."
            )
        get = axis.get if isinstance(axis, Mapping) else lambda k: getattr(axis, k)
        for name in ("datasets", "tmp"):
            (path / name).mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "axis": {"name": str(get("name")), "version": str(get("version"))},
            "scgm_scvi": version("scgm-scvi"),
        }
        replace_file(path / "atlas.json", json.dumps(about, indent=1) + "\n", path / "tmp")
        return cls(path)

    # -- what there is

    @property
    def axis(self) -> dict[str, str]:
        """Name and version of the gene axis."""
        return dict(self._about["axis"])

    @property
    def datasets(self) -> pd.DataFrame:
        """The manifest: a row a dataset, failed ones too (see ``status`` and ``reason``)."""
        return table(self._rows().values())

    def keys(self) -> list[str]:
        """Datasets that have cells, sorted."""
        return [row.key for row in self._rows().values() if row.status == OK]

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

    def blocks(self, key: str, n_values: int = 2**22) -> Iterator[sparse.csr_matrix]:
        """Counts of a dataset, as many cells at a time as have ``n_values`` counts above zero."""
        return read_blocks(zarr.open_group(self.folder(key), mode="r"), n_values)

    def measured(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """Which genes each dataset measured: truth values, datasets x genes."""
        keys = self.keys() if keys is None else list(keys)
        tables = {k: read_statistics(zarr.open_group(self.folder(k), mode="r")) for k in keys}
        return pd.DataFrame({k: t["measured"] for k, t in tables.items()}).T.astype(bool)

    def statistics(self, key: str | None = None) -> Statistics:
        """Sums over the cells of a dataset, or of all; no cell is read."""
        if key is not None:
            return Statistics(read_statistics(zarr.open_group(self.folder(key), mode="r")))
        return Statistics.sum(self.statistics(k) for k in self.keys())

    def highly_variable(
        self,
        n_top: int,
        *,
        flavor: str = "seurat",
        by_dataset: bool = False,
        datasets: Iterable[str] | None = None,
    ) -> pd.Index:
        """Names of the genes that vary most, by statistics alone; see :func:`variable_genes`."""
        keys = self.keys() if datasets is None else list(datasets)
        each = [self.statistics(k) for k in keys]
        return variable_genes(each, n_top, flavor=flavor, by_dataset=by_dataset)

    def content_hash(self) -> str:
        """sha256 of all datasets: equal where two stores hold the same cells."""
        good = {k: r.content_hash for k, r in self._rows().items() if r.status == OK}
        return sha256(json.dumps([self.axis, good], sort_keys=True).encode()).hexdigest()

    def verify(self, key: str | None = None) -> dict[str, str]:
        """Read a dataset, or all, and compare with the manifest.

        Returns
        -------
        What is wrong, by dataset; empty where nothing is.
        """
        wrong = {}
        for k in self.keys() if key is None else [key]:
            try:
                found = _hash_of_shard(self.folder(k))
            except KeyError:
                raise
            except Exception as e:  # whatever a damaged file makes its reader raise
                wrong[k] = f"can't be read: {type(e).__name__}: {e}"
            else:
                if found != self.row(k).content_hash:
                    wrong[k] = "holds other cells than the manifest says"
        return wrong

    # -- changing it

    def stage(
        self,
        key: str,
        blocks: Iterable[sparse.csr_matrix],
        obs: pd.DataFrame,
        var: pd.DataFrame,
        *,
        measured: np.ndarray,
        provenance: Mapping[str, Any],
    ) -> Staged:
        """Write a dataset where no reader sees it; the first half of :meth:`write`.

        Any process may do so, for different datasets at the same time; one that commits then makes
        them part of the store.
        """
        self._check_new(key, var)
        measured = np.asarray(measured)
        if measured.dtype != bool or measured.shape != (len(var),):
            raise ValueError(
                f"{key}: measured has dtype {measured.dtype} and shape {measured.shape}; it must be "
                f"a truth value for each of the {len(var)} genes."
            )
        if _LIBRARY_SIZE in obs:
            raise ValueError(f"{key}: obs has {_LIBRARY_SIZE!r}, which the store adds: rename it.")
        try:
            text = json.dumps(dict(provenance), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as e:
            raise TypeError(f"{key}: provenance must be plain values, as JSON has them: {e}") from e
        folder = self._tmp / fresh_name(f"{key}.zarr")
        try:
            row = _write_shard(folder, key, blocks, canonical_obs(obs), var, measured, text)
            sync_folder(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Staged(folder.name, row)

    def commit(self, staged: Staged) -> Row:
        """Make a staged dataset part of the store, at one stroke; doing so twice is harmless."""
        row, source = staged.row, self._tmp / staged.folder
        with self._lock():
            rows = self._rows()
            old = rows.get(row.key)
            if old and old.status == OK and old.content_hash == row.content_hash:
                shutil.rmtree(source, ignore_errors=True)
                return old
            self._check_new(row.key, row.axis_hash)
            target = self._shard(row.key)
            if target.exists():  # moved, but never listed
                remove_folder(target, self._tmp)
            os.rename(source, target)
            sync_path(target.parent)
            write_manifest(self._manifest, {**rows, row.key: row}, self._tmp)
        return row

    def write(
        self,
        key: str,
        blocks: Iterable[sparse.csr_matrix],
        obs: pd.DataFrame,
        var: pd.DataFrame,
        *,
        measured: np.ndarray,
        provenance: Mapping[str, Any],
    ) -> Row:
        """Add a dataset; afterwards it is there, or nothing has changed.

        Memory is that of ``obs`` and of a block of cells, whatever their number.

        Parameters
        ----------
        key
            Its name: letters, digits, ``_``, ``-`` and ``.``.
        blocks
            Counts, cells x genes of the axis, in the order of ``obs``, each cell once.
        obs
            A row a cell, indexed by barcode. Text is stored as categories. A column
            ``"library_size"`` is added, the sum of a cell's counts, so that
            ``ln(1 + 1e4 * counts / library_size)`` needs nothing else.
        var
            The gene axis: the same in all datasets.
        measured
            A truth value a gene. One that was not measured has no counts, and these are no zeros.
        provenance
            Plain values that the manifest keeps: source, id, version, files and their checksums,
            scale, reports of genes and quality control, licence, citation.

        Raises
        ------
        FileExistsError
            If the store has it: :meth:`drop` it first.
        ValueError
            If a value is no count, cells and ``obs`` differ in number, there are no cells, genes
            that were not measured have counts, or ``var`` is not that of the other datasets.
        """
        staged = self.stage(key, blocks, obs, var, measured=measured, provenance=provenance)
        return self.commit(staged)

    def quarantine(self, key: str, reason: str, provenance: Mapping[str, Any] | None = None) -> Row:
        """Record that a dataset failed, and why; writing it later replaces the record."""
        _check_key(key)
        row = Row(key, QUARANTINED, str(reason), provenance=dict(provenance or {}))
        with self._lock():
            rows = self._rows()
            if key in rows and rows[key].status == OK:
                raise FileExistsError(f"{key!r} is in {self.path}: store.drop({key!r}) first.")
            write_manifest(self._manifest, {**rows, key: row}, self._tmp)
        return row

    def drop(self, key: str) -> None:
        """Remove a dataset, or the record of one that failed."""
        with self._lock():
            rows = self._rows()
            self.row(key)
            del rows[key]
            write_manifest(self._manifest, rows, self._tmp)
            if self._shard(key).exists():
                remove_folder(self._shard(key), self._tmp)

    def recover(self) -> list[str]:
        """Remove what a killed process left: a build begins with this, while no other writes.

        Returns
        -------
        What was removed, relative to the store.
        """
        with self._lock():
            listed = {self._shard(key) for key in self.keys()}
            left = [p for p in (self.path / "datasets").iterdir() if p not in listed]
            left += list(self._tmp.iterdir())
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return sorted(str(p.relative_to(self.path)) for p in left)

    # -- where things are

    @property
    def _tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    def _shard(self, key: str) -> Path:
        return self.path / "datasets" / f"{key}.zarr"

    def _lock(self) -> FileLock:
        return FileLock(self.path / "manifest.lock")

    def _rows(self) -> dict[str, Row]:
        return read_manifest(self._manifest)

    def _check_new(self, key: str, var: pd.DataFrame | str) -> None:
        _check_key(key)
        rows = self._rows()
        if key in rows and rows[key].status == OK:
            raise FileExistsError(f"{key!r} is in {self.path}: store.drop({key!r}) first.")
        if not isinstance(var, str):
            if not var.index.is_unique:
                twice = var.index[var.index.duplicated()][0]
                raise ValueError(f"{key}: var names {twice!r} twice: sum its counts first.")
            var = hash_of_names(var.index)
        other = next((r for r in rows.values() if r.status == OK and r.axis_hash != var), None)
        if other:
            raise ValueError(
                f"{key}: its genes are not those of {other.key!r}: a store has one gene axis, here "
                f"{self.axis['name']!r} version {self.axis['version']!r}; map the dataset to it."
            )


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"key is {key!r}; it names a folder: use letters, digits, '_', '-' and '.' only."
        )


def _write_shard(
    folder: Path,
    key: str,
    blocks: Iterable[sparse.csr_matrix],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    measured: np.ndarray,
    provenance: str,
) -> Row:
    group = zarr.open_group(folder, mode="w-", zarr_format=3)
    writer, content = CsrWriter(group, len(var)), ContentHash(var.index, measured)
    statistics, libraries = Statistics.zero(var.index, measured), [np.zeros(0)]
    for block in blocks:
        counts = canonical_counts(block, writer.n_cells, obs.index, var.index, key)
        writer.append(counts)
        content.update(counts)
        statistics.add_cells(counts)
        libraries.append(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    if not writer.n_cells:
        raise ValueError(f"{key}: there are no cells: quarantine the dataset.")
    if writer.n_cells != len(obs):
        raise ValueError(
            f"{key}: the blocks hold {writer.n_cells} cells, obs {len(obs)}: each cell needs a row."
        )
    stray = (statistics.table["n_expressed"] > 0) & ~measured
    if stray.any():
        raise ValueError(
            f"{key}: gene {var.index[stray][0]!r} has counts and is said not to be measured."
        )
    writer.close()
    obs = obs.assign(**{_LIBRARY_SIZE: np.concatenate(libraries)})
    varm, uns = {"statistics": statistics.table}, {"provenance": provenance}
    write_frames(group, obs=obs, var=_text_as_objects(var), varm=varm, uns=uns)
    consolidate(group)
    row = Row(
        key,
        n_cells=writer.n_cells,
        n_genes=int(measured.sum()),
        n_values=writer.n_values,
        n_counts=int(obs[_LIBRARY_SIZE].sum()),
        content_hash=content.finish(obs),
        axis_hash=hash_of_names(var.index),
        provenance=json.loads(provenance),
    )
    n_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return replace(row, n_bytes=n_bytes)


def _text_as_objects(var: pd.DataFrame) -> pd.DataFrame:
    plain = canonical_obs(var)
    return plain.set_axis(pd.Index(var.index.astype(str).to_numpy(object), dtype=object))


def _hash_of_shard(folder: Path) -> str:
    group = zarr.open_group(folder, mode="r")
    adata = open_shard(folder)
    content = ContentHash(adata.var_names, adata.varm["statistics"]["measured"].to_numpy())
    for block in read_blocks(group):
        content.update(block)
    return content.finish(canonical_obs(adata.obs))
