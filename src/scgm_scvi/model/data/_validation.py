"""Checks of a user's data, made before anything is written to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed, nearest

from ._matrices import Matrix, as_matrix

__all__ = [
    "has_fractions",
    "layer_names",
    "match_features",
    "validate_adata",
    "validate_keys",
    "validate_matrix",
    "validate_specified",
]

_MOST_LOG = 15.0  # the logarithm of more counts than a cell has


def validate_adata(adata: AnnData, *, may_be_view: bool = False, name: str = "adata") -> None:
    """Refuse views, backed objects and ambiguous names.

    Parameters
    ----------
    may_be_view
        Whether a view will do, because nothing is written to it.
    name
        What messages call it.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    ValueError
        If it is a view, on disk, without cells or features, or has duplicated ``var_names``.
    """
    if not isinstance(adata, AnnData):
        hint = ""
        if isinstance(adata, MuData):
            hint = (
                f" Pass one of its modalities ({listed(adata.mod)}), or learn RNA and ATAC together: "
                "scgm_scvi.MultiSCGM."
            )
        raise TypeError(f"{name} is a {type(adata).__name__}; an AnnData is needed.{hint}")
    if adata.is_view and not may_be_view:
        raise ValueError(
            f"{name} is a view of another AnnData, which can't be written to. "
            f"Pass a copy: {name} = {name}.copy()."
        )
    if not isinstance(adata.obs, pd.DataFrame):
        raise ValueError(
            f"{name} was read lazily; it has to be in memory. Load it: {name} = {name}.to_memory()."
        )
    if adata.isbacked:
        raise ValueError(
            f"{name} is backed by {str(adata.filename)!r}; it has to be in memory. "
            f"Load it: {name} = {name}.to_memory()."
        )
    if 0 in adata.shape:
        raise ValueError(f"{name} has shape {adata.shape}: there is nothing to learn from.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{name}.var_names holds {len(twice)} duplicated names: {listed(twice, 5)}. "
            f"Make them unique: {name}.var_names_make_unique()."
        )


def match_features(adata: AnnData, names: pd.Index, name: str = "adata") -> AnnData:
    """``adata`` with the features ``names`` in that order: itself, or a view of it.

    Raises
    ------
    ValueError
        If it lacks any of them.
    """
    if adata.var_names.equals(names):
        return adata
    missing = names.difference(adata.var_names, sort=False)
    if len(missing):
        raise ValueError(
            f"{name}.var_names lacks {len(missing)} of the {len(names)} features that the model "
            f"was trained on: {listed(missing, 5)}. Pass data with all of them."
        )
    return adata[:, names]


def validate_keys(
    adata: AnnData,
    keys: Mapping[str, Sequence[str | None]],
    numeric: Sequence[str] = (),
    name: str = "adata",
) -> None:
    """Check that columns of ``obs`` exist, are named once, and are numeric where they must be.

    Parameters
    ----------
    keys
        Argument name to the columns given for it.
    numeric
        Arguments whose columns must be numbers.
    name
        What messages call ``adata``.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a column serves two arguments, or is not numeric where it must be, or is infinite.
    """
    seen: dict[str, str] = {}
    for argument, columns in keys.items():
        for column in columns:
            if column is None:
                continue
            if column not in adata.obs:
                raise KeyError(
                    f"{argument}: {column!r} is not a column of {name}.obs."
                    f"{nearest(column, adata.obs.columns)} Columns: {listed(adata.obs.columns)}."
                )
            if column in seen:
                raise ValueError(
                    f"{name}.obs[{column!r}] is given for both {seen[column]} and {argument}; "
                    "name it in one of them."
                )
            seen[column] = argument
            if argument in numeric:
                if not pd.api.types.is_numeric_dtype(adata.obs[column]):
                    raise ValueError(
                        f"{argument}: {name}.obs[{column!r}] has dtype "
                        f"{adata.obs[column].dtype}; numbers are needed. Convert it with "
                        "pandas.to_numeric, or give it as a categorical key."
                    )
                if np.isinf(adata.obs[column].to_numpy(float, na_value=np.nan)).any():
                    raise ValueError(f"{argument}: {name}.obs[{column!r}] holds infinite values.")


def validate_specified(
    obs: pd.DataFrame,
    keys: Mapping[str, Sequence[str | None]],
    name: str,
    further: Sequence[str] = (),
) -> None:
    """Check that each condition is specified of some cell.

    Raises
    ------
    ValueError
        If a column holds missing values alone.
    """
    named = ("labels_key", "condition_keys", "continuous_condition_keys")
    for argument in (*named, *further):
        for column in keys.get(argument, ()):
            if obs[column].isna().all():
                raise ValueError(
                    f"{argument}: {name}.obs[{column!r}] is missing for all {len(obs)} cells, so "
                    f"there is nothing to learn of it. Fill it in, or leave out {argument}."
                )


def validate_matrix(
    adata: AnnData,
    layer: str | None,
    is_count_data: bool,
    check_features: bool = True,
    *,
    check_cells: bool = True,
    name: str = "adata",
) -> None:
    """Check the values that a model will learn from.

    Parameters
    ----------
    layer
        Key of ``adata.layers``, or ``None`` for ``adata.X``.
    is_count_data
        Whether values must be non-negative integers.
    check_features
        Whether to warn of features without any count.
    check_cells
        Whether to refuse cells without any count.
    name
        What messages call ``adata``.

    Raises
    ------
    KeyError
        If the layer is missing.
    ValueError
        If a value is NaN, infinite, negative or fractional, or a cell is empty.
    """
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"layer: {layer!r} is not in {name}.layers.{nearest(layer, layer_names(adata))} "
            f"Layers: {listed(layer_names(adata))}."
        )
    place = f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise ValueError(f"{place} is None. Put counts there, or name a layer that holds them.")
    x = as_matrix(x, place)
    values = x.data if sparse.issparse(x) else x.ravel()
    if not np.issubdtype(values.dtype, np.number):
        raise ValueError(f"{place} has dtype {values.dtype}; numbers are needed.")
    for part in _parts(values):
        _validate_values(part, place, is_count_data)
    if check_features and sparse.issparse(x) and x.format == "csc":
        warnings.warn(
            f"{place} is in CSC, whose rows are slow to read; training is faster in CSR: "
            f"{place} = {place}.tocsr().",
            UserWarning,
            stacklevel=3,
        )
    if not is_count_data:
        return
    message = _empty_message(x, 1, adata.obs_names, place, "cells") if check_cells else None
    if message:  # a cell without depth has no log depth
        raise ValueError(f"{message} Remove them: sc.pp.filter_cells({name}, min_counts=1).")
    message = _empty_message(x, 0, adata.var_names, place, "features") if check_features else None
    if message:  # harmless, and usual in a subset of cells: the model learns that they are zero
        warnings.warn(
            f"{message} They will be generated as zeros. To leave them out: "
            f"sc.pp.filter_genes({name}, min_counts=1).",
            UserWarning,
            stacklevel=3,
        )


def has_fractions(adata: AnnData, layer: str | None) -> bool:
    """Whether values are no integers, as of counts that were corrected for ambient RNA."""
    x = adata.X if layer is None else adata.layers.get(layer)
    if x is None:
        return False
    values = x.data if sparse.issparse(x) else np.asarray(x).ravel()
    return any((part != np.rint(part)).any() for part in _parts(values))


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    """Bounded memory on large matrices."""
    for start in range(0, len(values), 1 << 24):
        yield values[start : start + (1 << 24)]


def _validate_values(values: np.ndarray, place: str, is_count_data: bool) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(
            f"{place} holds {int((~finite).sum())} NaN or infinite values (the first is "
            f"{values[~finite][0]}). Replace them or remove their cells."
        )
    if not is_count_data:
        return
    if (values < 0).any():
        raise ValueError(
            f"{place} holds negative values (the lowest is {values.min():g}): these look like "
            "scaled data. Give raw counts, in adata.X or by layer=."
        )
    fractional = values != np.rint(values)
    if fractional.any():
        raise ValueError(
            f"{place} holds values that are not integers ({values[fractional][0]!s} is one): "
            f"{_of_fractions(values, fractional, place)}"
        )


def _of_fractions(values: np.ndarray, fractional: np.ndarray, place: str) -> str:
    """What values that are no counts seem to be, and what to do."""
    if values.max() < _MOST_LOG and fractional.sum() > 0.9 * np.count_nonzero(values):
        return (
            "these look like normalised data. Give raw counts, in adata.X or by layer=; for "
            'log-normalised input pass is_count_data=False here and gene_likelihood="normal" '
            "to the model."
        )
    return (
        "these look like counts that were corrected, as for ambient RNA, or estimated, as by RSEM. "
        f"Round them: {place} = np.rint({place}). If they were normalised, give raw counts, in "
        "adata.X or by layer=."
    )


def layer_names(adata: AnnData) -> list[str]:
    """Keys of ``adata.layers``, without the ``None`` by which newer anndata lists ``X`` there."""
    return [name for name in adata.layers if name is not None]


def _empty_message(x: Matrix, axis: int, names: pd.Index, place: str, what: str) -> str | None:
    empty = np.asarray(x.sum(axis=axis)).ravel() == 0
    if not empty.any():
        return None
    return f"{place} has {int(empty.sum())} {what} without any count: {listed(names[empty], 5)}."
