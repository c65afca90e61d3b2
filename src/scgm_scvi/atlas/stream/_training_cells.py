"""Cells of a training store, by row."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from scgm_scvi._errors import listed, nearest

__all__ = ["Block", "TrainingCells", "fast_reading", "spans"]

_CHECKED = 1024  # cells
_GAP = 64  # rows that are read to be thrown away, where another read would take longer


class Block:
    """Rows that were read at once, in any order and number.

    Parameters
    ----------
    x
        Counts of all rows between the first and the last of each run, float32.
    positions
        Row of ``x`` of each cell asked for.
    rows
        Row of the store of each cell asked for.
    """

    def __init__(self, x: sparse.csr_matrix, positions: np.ndarray, rows: np.ndarray) -> None:
        self.x, self.positions, self.rows = x, positions, rows

    def dense(self, cells: np.ndarray) -> np.ndarray:
        """Counts ``(len(cells), n_vars)`` of some of the cells asked for, float32."""
        return self.x[self.positions[cells]].toarray()


class TrainingCells:
    """Read a training store: a zarr group of AnnData called ``dataset_0``, ``dataset_1``, ...

    Counts stay on disk; what is held in memory is where each cell's counts begin, and the columns
    of ``obs`` that are asked for, as codes.

    Parameters
    ----------
    path
        Of the store.

    Attributes
    ----------
    n_obs, n_vars
        Number of cells and of genes.
    var
        The genes.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If its members are not AnnData of CSR counts with the same genes.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._names = _member_names(self.path)
        self._root = zarr.open_group(self.path, mode="r")
        self.var = ad.io.read_elem(self._root[f"{self._names[0]}/var"])
        self._data, self._indices, self._indptr = [], [], []
        with fast_reading():
            for name in self._names:
                self._open(name)
        lengths = [len(p) - 1 for p in self._indptr]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.n_obs, self.n_vars = int(self._starts[-1]), len(self.var)
        if not self.n_obs:
            raise ValueError(f"The training store {str(self.path)!r} has no cells.")
        self._require_counts()

    def _open(self, name: str) -> None:
        group = self._root[f"{name}/X"]
        if dict(group.attrs).get("encoding-type") != "csr_matrix":
            raise ValueError(
                f"{name}/X of the training store {str(self.path)!r} is no CSR matrix. Write the "
                "store with the atlas, or with anndata from a matrix that is scipy's csr_matrix."
            )
        index = self._root[f"{name}/var"].attrs["_index"]
        genes = ad.io.read_elem(self._root[f"{name}/var/{index}"])
        if not np.array_equal(np.asarray(genes), self.var.index.to_numpy()):
            raise ValueError(
                f"{name} of the training store {str(self.path)!r} has other genes than "
                f"{self._names[0]}, or has them in another order. All members need the same."
            )
        self._data.append(group["data"])
        self._indices.append(group["indices"])
        pointer = group["indptr"][:]
        small = pointer[-1] < 2**32  # half of what is held of a cell
        self._indptr.append(pointer.astype(np.uint32) if small else pointer)

    def _require_counts(self) -> None:
        """Raise if the first cells hold anything but counts."""
        values = self.read(np.arange(min(self.n_obs, _CHECKED))).x.data
        if (
            not (values >= 0).all() or (values % 1).any()
        ):  # NaN fails the first, infinity the second
            raise ValueError(
                f"The training store {str(self.path)!r} does not hold counts: found "
                f"{values[~((values >= 0) & (values % 1 == 0))][0]}. Write it from raw counts."
            )

    @property
    def matrices(self) -> list[ad.abc.CSRDataset]:
        """Counts of each member, on disk."""
        return [ad.io.sparse_dataset(self._root[f"{name}/X"]) for name in self._names]

    @property
    def empty_rows(self) -> np.ndarray:
        """Cells without counts in these genes."""
        lengths = np.concatenate([np.diff(pointer) for pointer in self._indptr])
        return np.flatnonzero(lengths == 0)

    def column(self, key: str) -> pd.Categorical | np.ndarray:
        """A column of ``obs``: categorical, or numbers as float32.

        Raises
        ------
        KeyError
            If there is none of that name.
        TypeError
            If it holds something else, such as strings that are not categorical.
        """
        parts = []
        for name in self._names:
            obs = self._root[f"{name}/obs"]
            if key not in obs:
                known = list(dict(obs.attrs).get("column-order", []))
                raise KeyError(
                    f"obs of {name} in the training store {str(self.path)!r} has no column "
                    f"{key!r}.{nearest(key, known)} It has {listed(known)}."
                )
            part = ad.io.read_elem(obs[key])
            part = part if isinstance(part, pd.Categorical) else np.asarray(part)
            if isinstance(part, np.ndarray) and part.dtype.kind not in "biuf":
                raise TypeError(
                    f"obs[{key!r}] of {name} in the training store {str(self.path)!r} is neither "
                    "categorical nor numeric. Make it categorical before the store is written."
                )
            parts.append(part)
        if all(isinstance(p, np.ndarray) for p in parts):
            return np.concatenate([p.astype(np.float32) for p in parts])
        if not all(isinstance(p, pd.Categorical) for p in parts):
            raise TypeError(
                f"obs[{key!r}] is categorical in some members of the training store "
                f"{str(self.path)!r}, and numeric in others."
            )
        return _joined(parts)

    def read(self, rows: np.ndarray) -> Block:
        """Counts of cells, by row; ``rows`` are sorted, and may hold a row more than once."""
        begins, ends, positions = spans(rows)
        data, indices, lengths = [], [], []
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            first = int(np.searchsorted(self._starts, begin, side="right")) - 1
            while begin < end:  # a run may go on in the next member
                start, stop = int(self._starts[first]), int(self._starts[first + 1])
                pointer = self._indptr[first][begin - start : min(end, stop) - start + 1]
                values = slice(int(pointer[0]), int(pointer[-1]))
                data.append(self._data[first][values])
                indices.append(self._indices[first][values])
                lengths.append(np.diff(pointer))
                begin, first = min(end, stop), first + 1
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
        x = sparse.csr_matrix(
            (np.concatenate(data).astype(np.float32), np.concatenate(indices), indptr),
            shape=(len(indptr) - 1, self.n_vars),
        )
        return Block(x, positions, rows)


def spans(rows: np.ndarray, gap: int = _GAP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of rows that cover ``rows``, which are sorted and may repeat.

    Parameters
    ----------
    rows
        At least one.
    gap
        Runs that lie no more than so many rows apart are one.

    Returns
    -------
    First and last-plus-one row of each run, and where each of ``rows`` is in all of them, one after
    the other.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.atlas.stream._training_cells import spans
    >>> begins, ends, positions = spans(np.array([3, 4, 4, 6, 90]), gap=2)
    >>> begins.tolist(), ends.tolist(), positions.tolist()
    ([3, 90], [7, 91], [0, 1, 1, 3, 4])
    """
    rows = np.asarray(rows, dtype=np.int64)
    breaks = np.flatnonzero(np.diff(rows) > gap) + 1
    begins = rows[np.concatenate([[0], breaks])]
    ends = rows[np.concatenate([breaks, [len(rows)]]) - 1] + 1
    run = np.repeat(np.arange(len(begins)), np.diff(np.concatenate([[0], breaks, [len(rows)]])))
    offsets = np.concatenate([[0], np.cumsum(ends - begins)[:-1]])
    return begins, ends, rows - begins[run] + offsets[run]


def _member_names(path: Path) -> list[str]:
    if not path.is_dir():
        raise FileNotFoundError(f"There is no training store at {str(path)!r}.")
    names = [p.name for p in path.iterdir() if re.fullmatch(r"dataset_\d+", p.name)]
    if not names:
        raise ValueError(
            f"{str(path)!r} is no training store: it has no members dataset_0, dataset_1, ... "
            "Give the folder of the store that holds them."
        )
    return sorted(names, key=lambda name: int(name.split("_")[1]))


def fast_reading() -> AbstractContextManager:
    """Within it arrays are opened to be decoded by zarrs, if that is installed."""
    if find_spec("zarrs") is None:
        return nullcontext()
    import zarrs  # noqa: F401  (registers itself)

    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})


def _joined(parts: list[pd.Categorical]) -> pd.Categorical:
    """One after the other; categories that only later ones have come last."""
    categories = list(dict.fromkeys(c for part in parts for c in part.categories))
    codes = []
    for part in parts:
        table = pd.Index(categories).get_indexer(part.categories)
        small = np.min_scalar_type(-max(len(categories), 1))  # signed: -1 is missing
        codes.append(np.append(table, -1).astype(small)[part.codes])
    return pd.Categorical.from_codes(np.concatenate(codes), categories=categories)
