"""Counts on disk, in the layout of anndata's CSR: written as they come, read by blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zarr
from scipy import sparse
from zarr.codecs import BloscCodec

__all__ = ["COMPRESSOR", "ROWS", "SHARD", "CsrWriter", "read_blocks"]

# Two thirds of annbatch's default (lz4) on disk, and read at no less than a few hundred thousand
# cells a second and core, which no training reaches.
COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
SHARD = 2**22  # values in a file
CHUNK = 2**16  # values that are read at least: 32 cells with 2,000 genes each
ROWS = 2**16  # cells that are read at least, of a column of obs


class _Vector:
    """A one-dimensional array that grows; each file of it is written once."""

    def __init__(self, group: zarr.Group, name: str, dtype: type, chunk: int) -> None:
        self._group, self._name, self._dtype = group, name, np.dtype(dtype)
        self._chunk, self._shard = chunk, max(1, SHARD // chunk) * chunk
        self._waiting: list[np.ndarray] = []
        self._n_waiting = self._n_written = 0
        self._array: zarr.Array | None = None

    def append(self, values: np.ndarray) -> None:
        for i in range(0, len(values), self._shard):
            part = values[i : i + self._shard]
            self._waiting.append(part.astype(self._dtype))
            self._n_waiting += len(part)
            if self._n_waiting >= self._shard:
                self._write(self._n_waiting // self._shard * self._shard)

    def _write(self, n: int) -> None:
        values = np.concatenate([np.zeros(0, self._dtype), *self._waiting])
        self._waiting, self._n_waiting = [values[n:].copy()], len(values) - n
        start, self._n_written = self._n_written, self._n_written + n
        if self._array is None:
            # a small array gets a file of its size, as a whole shard is held while it is encoded
            shard = min(self._shard, max(1, -(-n // self._chunk)) * self._chunk)
            self._array = self._group.create_array(
                self._name,
                shape=(n,),
                dtype=self._dtype,
                chunks=(self._chunk,),
                shards=(shard,),
                compressors=COMPRESSOR,
            )
            self._array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            self._array.resize((self._n_written,))
        if n:
            self._array[start : self._n_written] = values[:n]

    def close(self) -> int:
        if self._n_waiting or self._array is None:
            self._write(self._n_waiting)
        return self._n_written


class CsrWriter:
    """A CSR matrix in anndata's layout, written a block of cells at a time.

    Parameters
    ----------
    group
        Where ``X`` is made.
    n_genes
        Columns.
    dtype
        Of the values.
    chunk
        Values that are read at least.
    """

    def __init__(
        self, group: zarr.Group, n_genes: int, dtype: type = np.int32, chunk: int = CHUNK
    ) -> None:
        self._group, self._n_genes = group.create_group("X"), n_genes
        self._data = _Vector(self._group, "data", dtype, chunk)
        self._indices = _Vector(self._group, "indices", np.int32, chunk)
        self._indptr = _Vector(self._group, "indptr", np.int64, ROWS)
        self._indptr.append(np.zeros(1))
        self.n_cells = self.n_values = 0

    def append(self, block: sparse.csr_matrix) -> None:
        """Take in cells; rows in order, columns sorted within."""
        self._data.append(block.data)
        self._indices.append(block.indices)
        self._indptr.append(block.indptr[1:].astype(np.int64) + self.n_values)
        self.n_cells, self.n_values = self.n_cells + block.shape[0], self.n_values + block.nnz

    def close(self) -> None:
        """Write what waits."""
        for vector in (self._data, self._indices, self._indptr):
            vector.close()
        self._group.attrs.update(
            {
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": [self.n_cells, self._n_genes],
            }
        )


def read_blocks(group: zarr.Group, n_values: int = SHARD) -> Iterator[sparse.csr_matrix]:
    """Counts of a shard, as many cells at a time as have ``n_values`` counts, at least one."""
    x = group["X"]
    indptr = x["indptr"][...]
    n_cells, n_genes = x.attrs["shape"]
    start = 0
    while start < n_cells:
        stop = int(np.searchsorted(indptr, indptr[start] + n_values, side="right")) - 1
        stop = min(max(stop, start + 1), n_cells)
        at = slice(int(indptr[start]), int(indptr[stop]))
        block = sparse.csr_matrix((stop - start, n_genes), dtype=x["data"].dtype)
        block.data, block.indices = x["data"][at], x["indices"][at]
        block.indptr = (indptr[start : stop + 1] - indptr[start]).astype(np.int32)
        yield block
        start = stop
