from collections import Counter

import anndata
import numpy as np
import pytest
import scanpy
from atlas_values import real
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas.curate._genes import GeneAxis
from scgm_scvi.atlas.curate._qc import QC, normalized_view


@pytest.fixture(scope="module")
def axis():
    return GeneAxis.load("human")


def cells(axis, *kinds):
    """Cells of so many genes, counts of each, and mitochondrial counts."""
    mt = int(np.flatnonzero(axis.mitochondrial)[0])
    others = np.flatnonzero(~axis.mitochondrial)
    rows = []
    for n_genes, each, mitochondrial in kinds:
        row = sparse.lil_matrix((1, len(axis)), dtype=np.float32)
        row[0, others[:n_genes]] = each
        row[0, mt] = mitochondrial
        rows.append(row)
    return sparse.vstack(rows, format="csr")


def test_filters(axis):
    counts = cells(
        axis,
        (300, 2, 0),  # good
        (300, 2, 150),  # at the limit: 150 of 750
        (300, 2, 151),
        (300, 1, 0),  # 300 counts
        (199, 3, 0),
        (10, 1, 90),  # all three
        (0, 0, 0),
    )
    result = QC().filter(counts, axis)
    assert result.keep.tolist() == [True, True, False, False, False, False, False]
    assert result.reasons == {
        "cells": 7,
        "empty": 1,
        "min_counts": 3,
        "min_genes": 3,
        "max_mitochondrial": 2,
        "kept": 2,
    }
    assert result.library_size.tolist() == [600, 750, 751, 300, 597, 100, 0]
    assert result.n_genes.tolist() == [300, 301, 301, 300, 199, 11, 0]
    np.testing.assert_allclose(result.mitochondrial[[1, 5, 6]], [0.2, 0.9, 0])
    nothing = QC(None, None, None).filter(counts, axis)
    assert nothing.keep.tolist() == [*[True] * 6, False]
    most = QC(None, None, None, max_counts=600, max_genes=299).filter(counts, axis)
    assert most.keep.tolist() == [False, False, False, False, True, True, False]


def test_blocks_add_up(axis):
    rng = np.random.default_rng(0)
    kinds = zip(
        rng.integers(0, 500, 30), rng.integers(1, 4, 30), rng.integers(0, 300, 30), strict=True
    )
    counts = cells(axis, *kinds)
    whole = QC().filter(counts, axis)
    assert 0 < whole.reasons["kept"] < 30
    total, keep = Counter(), []
    for start in range(0, 30, 7):
        block = QC().filter(counts[start : start + 7], axis)
        total.update(block.reasons)
        keep.append(block.keep)
    assert dict(total) == whole.reasons
    np.testing.assert_array_equal(np.concatenate(keep), whole.keep)


def test_explicit_zeros_are_no_genes(axis):
    counts = cells(axis, (300, 2, 5))
    with_zeros = counts.copy()
    with_zeros.data[:150] = 0
    assert QC().filter(with_zeros, axis).n_genes.tolist() == [151]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_genes": -1}, "min_genes is -1"),
        ({"min_counts": "many"}, "min_counts is 'many'"),
        ({"min_counts": float("nan")}, "min_counts is nan"),
        ({"max_mitochondrial": 20}, "max_mitochondrial is 20; .*20% is 0.2"),
        ({"min_genes": 10, "max_genes": 5}, "no cell would be left"),
    ],
)
def test_bad_filters(options, message):
    with pytest.raises(ValueError, match=message):
        QC(**options)


def test_counts_of_other_genes(axis):
    with pytest.raises(ValueError, match="3 genes and the axis has 55807"):
        QC().filter(sparse.csr_matrix((2, 3)), axis)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), part=st.floats(0.2, 1))
def test_normalized_view_is_exact(seed, part):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.7, (8, 50)).astype(np.float32))
    counts.data[: counts.indptr[1]] = 0
    counts.eliminate_zeros()  # an empty cell
    library = np.asarray(counts.sum(axis=1)).ravel()
    view = normalized_view(counts, library)
    assert view.dtype == np.float32 and view.nnz == counts.nnz
    # of some genes, as of all; and back
    genes = rng.random(50) < part
    assert (normalized_view(counts[:, genes], library) != view[:, genes]).nnz == 0
    back = view.copy()
    back.data = np.rint(
        np.expm1(back.data.astype(float)) * np.repeat(library, np.diff(back.indptr)) / 1e4
    )
    assert (back != counts).nnz == 0


def test_normalized_view_is_scanpys():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.7, (8, 50)).astype(np.float32))
    adata = anndata.AnnData(counts.copy())
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    view = normalized_view(counts, np.asarray(counts.sum(axis=1)).ravel())
    np.testing.assert_allclose(view.toarray(), adata.X.toarray(), rtol=1e-5)


def test_a_view_needs_libraries():
    counts = sparse.csr_matrix(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="cell 1 is 0.0"):
        normalized_view(counts, [3, 0])
    with pytest.raises(ValueError, match=r"shape \(3,\); counts has 2 cells"):
        normalized_view(counts, [3, 3, 3])


def test_real_cells_and_what_their_authors_kept(axis):
    adata = anndata.read_h5ad(real("covid_balf_liao2020.h5ad"))
    counts = axis.map(adata.var).apply(adata.X)
    authors = adata.obs["qc_pass"].astype(str).to_numpy() == "True"
    assert authors.sum() == 3769
    result = QC().filter(counts, axis)
    assert result.reasons["cells"] == 10706
    # lenient: nearly all of theirs, and few more
    assert result.keep[authors].mean() > 0.99
    assert result.keep.sum() < 2 * authors.sum()
    # with the limits of their paper, nearly the same cells
    theirs = QC(min_counts=1000, min_genes=200, max_mitochondrial=0.1, max_genes=6000)
    assert (theirs.filter(counts, axis).keep == authors).mean() > 0.98
