"""What a dataset holds, as bytes that do not depend on how it was written."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from pandas.api import types
from scipy import sparse

__all__ = ["ContentHash", "canonical_counts", "canonical_obs", "column_name", "hash_of_names"]

MOST = 2.0**31  # of an int32


def canonical_obs(obs: pd.DataFrame) -> pd.DataFrame:
    """The table as it is stored: numbers, truth values, and text as sorted categories.

    Missing text is a missing category. A slash, which zarr takes for a folder, becomes ``"_"`` in
    names of columns; names of cells are made unique as :func:`anndata.utils.make_index_unique`
    does.
    """
    columns = {}
    for name in obs.columns:
        plain = column_name(name)
        while plain in columns:
            plain += "_"
        columns[plain] = _canonical_column(obs[name])
    index = pd.Index(obs.index.astype(str).to_numpy(object), dtype=object)
    if not index.is_unique:
        index = pd.Index(make_index_unique(index).to_numpy(object), dtype=object)
    return pd.DataFrame({k: v.set_axis(index) for k, v in columns.items()}, index=index)


def column_name(name: object) -> str:
    """What a column is called in a store, as :func:`canonical_obs` says."""
    plain = str(name).replace("/", "_").strip(".")[:200]
    return f"column{plain}" if plain in ("", "_index") or plain.startswith("__") else plain


def _canonical_column(values: pd.Series) -> pd.Series:
    dtype = values.dtype
    if (
        types.is_object_dtype(dtype)
        and len(known := values.dropna())
        and all(isinstance(v, bool) for v in known)
    ):
        values = values.astype("boolean")
        dtype = values.dtype
    if types.is_bool_dtype(dtype) and not isinstance(dtype, pd.CategoricalDtype):
        return values.astype("boolean" if values.isna().any() else bool)
    if types.is_integer_dtype(dtype):
        return values.astype("float64" if values.isna().any() else "int64")
    if types.is_float_dtype(dtype):
        return values.astype("float64")
    codes, known = pd.factorize(values)  # missing ones are -1
    text = [str(k) for k in known]
    names = sorted(set(text))
    place = {name: i for i, name in enumerate(names)}
    recode = np.array([*(place[t] for t in text), -1])  # the last one is the missing one's
    # objects, as pandas 2 and 3 have each their own dtype of text
    known = pd.Index(names, dtype=object)
    return pd.Series(pd.Categorical.from_codes(recode[codes], known), index=values.index)


def canonical_counts(block: sparse.spmatrix, first: int, obs: pd.Index, var: pd.Index, where: str):
    """A block of counts as CSR of int32, columns in order, no zeros, no duplicates.

    Parameters
    ----------
    block
        Cells x genes.
    first
        Number of its first cell in the dataset.
    obs, var, where
        Names of cells, genes and the dataset, for the message.

    Raises
    ------
    ValueError
        If a value is no count; the message says where.
    """
    x = sparse.csr_matrix(block)
    if x.shape[1] != len(var):
        raise ValueError(
            f"{where}: a block has {x.shape[1]} genes, the axis {len(var)}: map it to the axis."
        )
    if not x.has_canonical_format or not x.data.all():
        x = x.copy()
        x.sum_duplicates()
        x.eliminate_zeros()
    with np.errstate(invalid="ignore"):
        wrong = ~((x.data > 0) & (x.data < MOST) & (x.data == np.floor(x.data)))
    if wrong.any():
        at = int(np.argmax(wrong))
        row = int(np.searchsorted(x.indptr, at, side="right")) - 1
        cell = obs[first + row] if first + row < len(obs) else "?"
        raise ValueError(
            f"{where}: cell {first + row} ({cell!r}) has {x.data[at]!r} of gene "
            f"{var[x.indices[at]]!r}; the store holds counts, whole numbers below 2**31: "
            "rebuild counts from the values, or quarantine the dataset."
        )
    data, indices = x.data.astype(np.int32), x.indices.astype(np.int32)
    out = sparse.csr_matrix(x.shape, dtype=np.int32)
    out.data, out.indices, out.indptr = data, indices, x.indptr.astype(np.int32)
    return out


def hash_of_names(names: pd.Index) -> str:
    """sha256 of names in their order."""
    # JSON, since names joined by any character could be confused with one that holds it
    return hashlib.sha256(json.dumps([str(n) for n in names]).encode()).hexdigest()


def _hash_of_column(values: pd.Series) -> str:
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes = values.cat.codes.to_numpy().astype("<i4")
        kind, parts = "text", [hash_of_names(values.cat.categories).encode(), codes.tobytes()]
    elif types.is_bool_dtype(values.dtype):
        missing = values.isna().to_numpy()
        filled = values.fillna(False).to_numpy(bool)
        kind, parts = "bool", [np.where(missing, 2, filled).astype("u1").tobytes()]
    elif types.is_integer_dtype(values.dtype):
        kind, parts = "int", [values.to_numpy().astype("<i8").tobytes()]
    else:
        numbers = values.to_numpy().astype("<f8") + 0.0  # no negative zero
        numbers[np.isnan(numbers)] = np.nan  # of the many, one
        kind, parts = "float", [numbers.tobytes()]
    return hashlib.sha256(kind.encode() + b"".join(parts)).hexdigest()


class ContentHash:
    """sha256 of a dataset, fed a block of cells at a time.

    It is the same whatever the size of the blocks, the chunks on disk, the order of the columns of
    ``obs`` and of their categories, and the time.
    """

    def __init__(self, var_names: pd.Index, measured: np.ndarray) -> None:
        self._axis = hash_of_names(var_names)
        self._measured = hashlib.sha256(np.asarray(measured, "u1").tobytes()).hexdigest()
        self._streams = {k: hashlib.sha256() for k in ("data", "indices", "lengths")}

    def update(self, block: sparse.csr_matrix) -> None:
        """Take in a block of :func:`canonical_counts`."""
        self._streams["data"].update(block.data.astype("<i4", copy=False).tobytes())
        self._streams["indices"].update(block.indices.astype("<i4", copy=False).tobytes())
        self._streams["lengths"].update(np.diff(block.indptr).astype("<i8").tobytes())

    def finish(self, obs: pd.DataFrame) -> str:
        """The hash, given the table of cells of :func:`canonical_obs`."""
        parts = {
            "version": 1,
            "axis": self._axis,
            "measured": self._measured,
            "cells": hash_of_names(obs.index),
            "obs": {str(c): _hash_of_column(obs[c]) for c in obs.columns},
            **{k: h.hexdigest() for k, h in self._streams.items()},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
