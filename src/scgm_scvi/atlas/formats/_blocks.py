"""Blocks of cells out of matrices that are stored some other way."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy import sparse

from scgm_scvi._errors import whole_number

__all__ = ["EntrySpool", "rechunked"]

ENTRY = np.dtype([("cell", np.int32), ("gene", np.int32), ("value", np.float32)])
IN_MEMORY = 1 << 23  # entries, 100 MB
SORTED_AT_ONCE = 1 << 21  # entries, 25 MB
N_BUCKETS = 256


def rechunked(matrices: Iterable[sparse.csr_matrix], size: int) -> Iterator[sparse.csr_matrix]:
    """The rows of the matrices, ``size`` at a time; the last block has the rest."""
    size = whole_number(size, "size")
    held: list[sparse.csr_matrix] = []
    n = 0
    for matrix in matrices:
        start = 0
        while n + matrix.shape[0] - start >= size:
            stop = start + size - n
            whole = sparse.vstack([*held, matrix[start:stop]], format="csr")
            held, n, start = [], 0, stop
            yield whole
        if start < matrix.shape[0]:
            held.append(matrix[start:] if start else matrix)
            n += matrix.shape[0] - start
    if n:
        yield sparse.vstack(held, format="csr")


class EntrySpool:
    """Entries that come in any order, given back a block of cells at a time.

    Entries are put into buckets of neighbouring cells. Up to ``in_memory`` entries (12 bytes each)
    are held; beyond that the buckets go to files in a temporary folder (``TMPDIR`` says where),
    which is removed with this object. Memory is so bounded by ``in_memory`` while entries come,
    and by the fullest of 256 buckets while blocks are read.

    Parameters
    ----------
    n_cells
        Cells there will be.
    in_memory
        Most entries held; by default 8 million (100 MB).

    Examples
    --------
    >>> spool = EntrySpool(3)
    >>> spool.add([2, 0, 2], [1, 0, 0], [5.0, 1.0, 7.0])
    >>> [block.toarray().tolist() for block in spool.blocks(2, n_genes=2)]
    [[[1.0, 0.0], [0.0, 0.0]], [[7.0, 5.0]]]
    """

    def __init__(self, n_cells: int, in_memory: int | None = None) -> None:
        self.n_cells = n_cells
        self.in_memory = IN_MEMORY if in_memory is None else in_memory
        self.width = max(1, -(-n_cells // N_BUCKETS))
        self._buckets: list[list[np.ndarray]] = [[] for _ in range(-(-n_cells // self.width))]
        self._pending: list[np.ndarray] = []
        self._n_pending = self._n_held = 0
        self._folder: Path | None = None

    def add(self, cells: np.ndarray, genes: np.ndarray, values: np.ndarray) -> None:
        """Take entries; those of value 0 are left out, those of one place are summed later."""
        values = np.asarray(values)
        kept = values != 0
        entries = np.empty(int(kept.sum()), ENTRY)
        entries["cell"], entries["gene"] = np.asarray(cells)[kept], np.asarray(genes)[kept]
        entries["value"] = values[kept]
        self._pending.append(entries)
        self._n_pending += len(entries)
        if self._n_pending >= min(SORTED_AT_ONCE, self.in_memory):
            self._sort()

    def blocks(self, size: int, *, n_genes: int) -> Iterator[sparse.csr_matrix]:
        """CSR matrices of ``size`` cells and ``n_genes`` genes, float32."""
        self._sort()
        return rechunked((self._bucket(i, n_genes) for i in range(len(self._buckets))), size)

    def _sort(self) -> None:
        if not self._n_pending:
            return
        entries = np.concatenate(self._pending)
        self._pending, self._n_pending = [], 0
        bucket = entries["cell"] // self.width
        if (np.diff(bucket) < 0).any():
            order = np.argsort(bucket, kind="stable")
            entries, bucket = entries[order], bucket[order]
        found, starts = np.unique(bucket, return_index=True)
        for i, part in zip(found, np.split(entries, starts[1:]), strict=True):
            self._buckets[i].append(part.copy())
        self._n_held += len(entries)
        if self._n_held > self.in_memory:
            self._spill()

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="scgm-atlas-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for i, parts in enumerate(self._buckets):
            if parts:
                with open(self._folder / str(i), "ab") as f:
                    for part in parts:
                        part.tofile(f)
                parts.clear()
        self._n_held = 0

    def _bucket(self, i: int, n_genes: int) -> sparse.csr_matrix:
        parts = list(self._buckets[i])
        spilt = None if self._folder is None else self._folder / str(i)
        if spilt is not None and spilt.exists():
            parts.insert(0, np.fromfile(spilt, ENTRY))
        entries = np.concatenate([np.empty(0, ENTRY), *parts])
        first = i * self.width
        shape = (min(self.width, self.n_cells - first), n_genes)
        place = (entries["cell"] - first, entries["gene"])
        matrix = sparse.csr_matrix((entries["value"], place), shape=shape, dtype=np.float32)
        matrix.sum_duplicates()
        return matrix
