"""Parts of HDF5 files that several formats share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from scgm_scvi._errors import whole_number

from ._errors import no_damage

__all__ = ["compressed_blocks", "dense_slabs", "indptr_of", "open_h5", "strings"]

CACHE = 1 << 26  # bytes of chunks that stay decompressed, for blocks smaller than a chunk
SLAB = 1 << 24  # values of a dense matrix in memory at once, 64 MB in float32


def open_h5(path: Path) -> h5py.File:
    """Open a file to read; call within :func:`no_damage`."""
    return h5py.File(path, "r", rdcc_nbytes=CACHE)


def strings(dataset: h5py.Dataset) -> np.ndarray:
    """Texts as an array of ``str``, numbers as they are; ``(n, 1)`` as ``(n,)``."""
    values = dataset[()]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind not in "SO":
        return values
    flat = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
    return np.array(flat, dtype=object).reshape(values.shape)


def indptr_of(group: h5py.Group, n: int, path: Path) -> np.ndarray:
    """Where the rows (or columns) of a compressed sparse matrix begin, ``n + 1`` of them."""
    indptr = group["indptr"][()].astype(np.int64)
    nnz = len(group["data"])
    fits = len(indptr) == n + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
    if not fits or indptr[-1] != nnz or len(group["indices"]) != nnz:
        raise ValueError(
            f"{path}: the matrix {group.name!r} contradicts itself: indptr has {len(indptr)} "
            f"values up to {max(indptr, default=0)}, where there are {n} cells or genes along it, "
            f"{nnz} values and {len(group['indices'])} indices. The file is damaged."
        )
    return indptr


def read_run(group: h5py.Group, start: int, stop: int, n: int, path: Path) -> tuple:
    """Indices and float32 values between two places; the indices are below ``n``."""
    indices = group["indices"][start:stop]
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        wrong = indices.max() if indices.max() >= n else indices.min()
        raise ValueError(
            f"{path}: the matrix {group.name!r} has an entry at index {wrong}, beyond its {n} "
            "rows or columns. The file is damaged."
        )
    return indices.astype(np.int32), group["data"][start:stop].astype(np.float32)


def compressed_blocks(
    path: Path, name: str, shape: tuple[int, int], size: int
) -> Iterator[sparse.csr_matrix]:
    """Rows of the CSR matrix of cells x genes at ``name``, ``size`` at a time."""
    size = whole_number(size, "size")
    with no_damage(path), open_h5(path) as f:
        group = f[name]
        indptr = indptr_of(group, shape[0], path)
        for first in range(0, shape[0], size):
            rows = indptr[first : first + size + 1]
            indices, data = read_run(group, rows[0], rows[-1], shape[1], path)
            block = sparse.csr_matrix(
                (data, indices, (rows - rows[0]).astype(np.int32)),
                shape=(len(rows) - 1, shape[1]),
            )
            block.sum_duplicates()
            yield block


def dense_slabs(path: Path, name: str, cells_axis: int) -> Iterator[sparse.csr_matrix]:
    """Cells of a dense matrix, as many at a time as whole chunks fit into 64 MB."""
    with no_damage(path), open_h5(path) as f:
        dataset = f[name]
        n_cells, n_genes = dataset.shape[cells_axis], dataset.shape[1 - cells_axis]
        chunk = dataset.chunks[cells_axis] if dataset.chunks else 1
        width = max(chunk, SLAB // max(n_genes, 1) // chunk * chunk)
        for first in range(0, n_cells, width):
            cells = slice(first, first + width)
            values = dataset[cells] if cells_axis == 0 else dataset[:, cells].T
            yield sparse.csr_matrix(values.astype(np.float32, copy=False))
