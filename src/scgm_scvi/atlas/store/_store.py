"""The store: one AnnData on disk a dataset, and a manifest of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy import sparse

from scgm_scvi._whole import fresh_name, remove_whole, sync_path, written_whole

from ._content import canonical_obs, hash_of_names
from ._manifest import OK, QUARANTINED, Row, write_manifest
from ._readable_store import FORMAT, FORMAT_VERSION, ReadableStore
from ._shard import LIBRARY_SIZE, write_shard

__all__ = ["Staged", "Store"]

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


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


class Store(ReadableStore):
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
    ...     "toy",
    ...     iter([counts]),
    ...     obs,
    ...     var,
    ...     measured=np.ones(3, bool),
    ...     provenance={"source": "local"},
    ... )
    >>> store.datasets["n_counts"].to_dict()
    {'toy': 6}
    >>> store["toy"][:1].X.toarray()
    array([[1, 0, 3]], dtype=int32)
    >>> folder.cleanup()
    """

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
        with written_whole(path / "atlas.json", tmp=path / "tmp", sync=True) as part:
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return cls(path)

    def stage(
        self,
        key: str,
        blocks: Iterable[sparse.csr_matrix],
        obs: pd.DataFrame,
        var: pd.DataFrame,
        *,
        measured: np.ndarray,
        provenance: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame] | None = None,
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
        if LIBRARY_SIZE in obs:
            raise ValueError(f"{key}: obs has {LIBRARY_SIZE!r}, which the store adds: rename it.")
        try:
            text = json.dumps(dict(provenance), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as e:
            raise TypeError(f"{key}: provenance must be plain values, as JSON has them: {e}") from e
        folder = self._tmp / fresh_name(f"{key}.zarr")
        with written_whole(folder, sync=True) as part:
            row = write_shard(part, key, blocks, canonical_obs(obs), var, measured, text, tables)
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
                remove_whole(target, self._tmp)
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
        tables: Mapping[str, pd.DataFrame] | None = None,
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
        tables
            More of the dataset that is not of cells or genes, for ``uns``.

        Raises
        ------
        FileExistsError
            If the store has it: :meth:`drop` it first.
        ValueError
            If a value is no count, cells and ``obs`` differ in number, there are no cells, genes
            that were not measured have counts, or ``var`` is not that of the other datasets.
        """
        staged = self.stage(
            key, blocks, obs, var, measured=measured, provenance=provenance, tables=tables
        )
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
                remove_whole(self._shard(key), self._tmp)

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

    def _lock(self) -> FileLock:
        return FileLock(self.path / "manifest.lock")

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
