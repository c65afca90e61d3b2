"""Cells thrown into buckets on disk, at random, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numcodecs import Blosc
from scipy import sparse

__all__ = ["CellSpool"]

# Read once and thrown away: fast rather than small.
CODEC = Blosc(cname="lz4", clevel=1, shuffle=Blosc.SHUFFLE)


class CellSpool:
    """Buckets of cells, a file each, that are filled piece by piece and read once.

    Parameters
    ----------
    folder
        Where the files are made.
    n_buckets
        How many.
    n_genes
        Columns of the counts.
    about
        dtype of the record that goes along with each cell.
    """

    def __init__(self, folder: Path, n_buckets: int, n_genes: int, about: np.dtype) -> None:
        folder.mkdir()
        self.folder = folder
        self._files = [folder / str(i) for i in range(n_buckets)]
        self._n_genes, self._about = n_genes, about
        self._sizes = np.zeros((n_buckets, 2), np.int64)  # cells and values

    def add(self, counts: sparse.csr_matrix, about: np.ndarray, bucket: np.ndarray) -> None:
        """Throw cells into the buckets named."""
        order = np.argsort(bucket, kind="stable")
        counts, about, bucket = counts[order], about[order], bucket[order]
        for b, start, n in zip(
            *np.unique(bucket, return_index=True, return_counts=True), strict=True
        ):
            at = slice(counts.indptr[start], counts.indptr[start + n])
            lengths = np.diff(counts.indptr[start : start + n + 1]).astype(np.int32)
            arrays = (lengths, about[start : start + n], counts.data[at], counts.indices[at])
            pieces = [CODEC.encode(a) if len(a) else b"" for a in map(np.ascontiguousarray, arrays)]
            with open(self._files[b], "ab") as f:
                f.write(np.array([len(p) for p in pieces], np.int64).tobytes())
                for piece in pieces:
                    f.write(piece)
            self._sizes[b] += n, len(arrays[2])

    def filled(self) -> list[int]:
        """Buckets that hold cells."""
        return np.flatnonzero(self._sizes[:, 0]).tolist()

    def take(self, bucket: int) -> tuple[sparse.csr_matrix, np.ndarray]:
        """All cells of a bucket, in the order in which they came; its file is removed."""
        n_cells, n_values = self._sizes[bucket]
        # filled in place, as a bucket is about as large as memory may be
        about = np.empty(n_cells, self._about)
        lengths = np.empty(n_cells, np.int32)
        data, indices = np.empty(n_values, np.int32), np.empty(n_values, np.int32)
        cell = value = 0
        with open(self._files[bucket], "rb") as f:
            while head := f.read(32):
                pieces = [CODEC.decode(f.read(n)) if n else b"" for n in np.frombuffer(head, "<i8")]
                own = np.frombuffer(pieces[0], np.int32)
                n, m = len(own), int(own.sum())
                lengths[cell : cell + n] = own
                about[cell : cell + n] = np.frombuffer(pieces[1], self._about)
                data[value : value + m] = np.frombuffer(pieces[2], np.int32)
                indices[value : value + m] = np.frombuffer(pieces[3], np.int32)
                cell, value = cell + n, value + m
        self._files[bucket].unlink()
        counts = sparse.csr_matrix((n_cells, self._n_genes), dtype=np.int32)
        counts.data, counts.indices = data, indices
        counts.indptr = np.concatenate([[0], np.cumsum(lengths)])
        if n_values < np.iinfo(np.int32).max:
            counts.indptr = counts.indptr.astype(np.int32)
        return counts, about
