"""Cells to train on, cells that are held out, and cells that only fit the evaluation's PCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.metrics._space import ALL, LEAST_CELLS

__all__ = ["Split", "split_cells"]

_TEST, _REFERENCE = 0.3, 0.2  # of the cells of each type
_LEAST = 8 * LEAST_CELLS  # held-out cells; half of them are compared with the other half


@dataclass(frozen=True, eq=False)
class Split:
    """Parts of one data set, with counts in ``X`` and the cell type in ``obs``.

    ``notes`` say, for people, what was left out and why.
    """

    train: AnnData
    test: AnnData
    reference: AnnData
    notes: tuple[str, ...]


def split_cells(
    adata: AnnData,
    labels_key: str,
    *,
    layer: str | None = None,
    n_top_genes: int = 2000,
    max_cells: int = 20_000,
    seed: int = 0,
) -> Split:
    """Split the cells of each type into training (50%), held-out (30%) and reference cells (20%).

    Genes are chosen on the training cells. Cells without a type or without a count are left out.

    Parameters
    ----------
    adata
        Cells by genes. It is not changed.
    labels_key
        Column of ``obs`` with the cell type.
    layer
        Of the raw counts. Default: ``X``.
    n_top_genes
        Number of the most variable genes that are kept.
    max_cells
        Of more cells, so many are drawn, as many of each type in proportion.
    seed
        Of all draws.

    Raises
    ------
    KeyError
        If the column or the layer is missing.
    ValueError
        If values are no counts, there is only one type, or there are too few cells.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> split = scgm_scvi.benchmark.split_cells(adata, "cell_type", n_top_genes=500)
    >>> split.train.shape, split.test.n_obs, split.reference.n_obs
    ((360, 500), 205, 135)
    """
    n_top_genes = whole_number(n_top_genes, "n_top_genes")
    max_cells = whole_number(max_cells, "max_cells")
    cells, notes = _labelled_counts(adata, labels_key, layer)
    rng = np.random.default_rng(seed)
    label = cells.obs[labels_key].to_numpy()
    if cells.n_obs > max_cells:
        notes.append(f"Of {cells.n_obs:,} cells, about {max_cells:,} were drawn.")
        share = max_cells / cells.n_obs
        kept = [
            rng.permutation(rows)[: max(1, round(share * len(rows)))] for rows in _rows_of(label)
        ]
        cells = cells[np.sort(np.concatenate(kept))].copy()
        label = cells.obs[labels_key].to_numpy()
    part = np.zeros(cells.n_obs, dtype=int)
    for rows in _rows_of(label):
        rows = rng.permutation(rows)
        n_test, n_reference = int(_TEST * len(rows)), int(_REFERENCE * len(rows))
        part[rows[:n_test]], part[rows[n_test : n_test + n_reference]] = 1, 2
    _require_enough(label, part, labels_key)
    unasked = sorted(set(label) - set(label[part == 1]))
    if unasked:
        notes.append(f"Too few cells to hold any out, only trained on: {listed(unasked)}.")
    if n_top_genes < cells.n_vars:
        cells = cells[:, _most_variable(cells[part == 0], n_top_genes)].copy()
        notes.append(
            f"The {n_top_genes:,} most variable genes of the training cells of {adata.n_vars:,}."
        )
        has_counts = np.asarray(cells.X.sum(axis=1)).ravel() > 0
        if not has_counts.all():
            notes.append(
                f"Left out: {int((~has_counts).sum())} cells without a count in these genes."
            )
            cells, part = cells[has_counts].copy(), part[has_counts]
            _require_enough(cells.obs[labels_key].to_numpy(), part, labels_key)
    train, test, reference = (cells[part == i].copy() for i in range(3))
    return Split(train, test, reference, tuple(notes))


def _labelled_counts(adata: AnnData, key: str, layer: str | None) -> tuple[AnnData, list[str]]:
    """Counts in ``X`` and the type as text in ``obs``, of cells that have both; and what was left out."""
    if key not in adata.obs:
        raise KeyError(
            f"labels_key: {key!r} is not a column of obs.{nearest(key, adata.obs.columns)} "
            f"There are: {listed(adata.obs.columns)}."
        )
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"layer: {layer!r} is not a layer.{nearest(layer, adata.layers)} "
            f"There are: {listed(adata.layers)}."
        )
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"var_names holds {listed(twice, 3)} more than once: make the names unique "
            "(adata.var_names_make_unique())."
        )
    place = "X" if layer is None else f"layers[{layer!r}]"
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise ValueError(f"{place} is empty: name the layer of the raw counts.")
    if adata.isbacked:
        raise ValueError("adata is backed by its file: read it into memory (adata.to_memory()).")
    counts = sparse.csr_matrix(values, dtype=np.float32)
    if not np.isfinite(counts.data).all() or (counts.data < 0).any() or (counts.data % 1).any():
        odd = counts.data[~((counts.data >= 0) & (counts.data % 1 == 0))][0]
        others = f" It has the layers {listed(adata.layers)}." if len(adata.layers) else ""
        others += (
            " adata.raw may hold counts: adata.raw.to_adata()." if adata.raw is not None else ""
        )
        raise ValueError(
            f"{place} holds {odd:g}, which is no count: name the layer of the raw counts.{others}"
        )
    notes = []
    has_label = adata.obs[key].notna().to_numpy()
    has_counts = np.asarray(counts.sum(axis=1)).ravel() > 0
    for left_out, why in (
        (~has_label, f"without a {key}"),
        (has_label & ~has_counts, "without a count"),
    ):
        if left_out.any():
            notes.append(f"Left out: {int(left_out.sum()):,} cells {why}.")
    kept = has_label & has_counts
    names = [str(v) for v in adata.obs[key][kept]]
    # an index of another name than the column's: files can't hold both
    obs = pd.DataFrame({key: names}, index=adata.obs_names[kept].astype(str).rename(None))
    var = pd.DataFrame(index=adata.var_names.astype(str).rename(None))
    return AnnData(counts[kept], obs=obs, var=var), notes


def _rows_of(label: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(label == name) for name in np.unique(label)]


def _require_enough(label: np.ndarray, part: np.ndarray, key: str) -> None:
    if not len(label):
        raise ValueError(f"No cell has both a {key} and a count: there is nothing to split.")
    if ALL in label:
        raise ValueError(
            f"labels_key: {key!r} holds the value {ALL!r}, as the rows of all cells are called: "
            "rename it."
        )
    if len(np.unique(label)) < 2:
        raise ValueError(
            f"labels_key: {key!r} holds {listed(np.unique(label))} alone: name a column with at "
            "least two types."
        )
    held_out = int((part == 1).sum())
    if held_out < _LEAST:
        raise ValueError(
            f"{len(label)} cells of {len(np.unique(label))} types of {key!r} hold out {held_out}, "
            f"and {_LEAST} are needed: give at least about {round(_LEAST / _TEST * 1.1, -1):.0f} "
            "cells, of types that have more than a few."
        )


def _most_variable(train: AnnData, n: int) -> np.ndarray:
    """Which genes vary most; scanpy's usual way, of log counts."""
    log = train.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    sc.pp.highly_variable_genes(log, n_top_genes=n)
    return log.var["highly_variable"].to_numpy()
