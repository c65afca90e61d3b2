import json

import anndata
import numpy as np
import pandas as pd
import pytest
from atlas_values import draw_counts, normalised, real
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas.curate import _counts
from scgm_scvi.atlas.curate._multiples import multiples
from scgm_scvi.atlas.curate._scale import SCALES, detect_scale, to_counts

NORMALISED = {
    "ln_cp10k": (1e4, "expm1"),
    "log2_cpm": (1e6, "exp2m1"),
    "cpm": (1e6, "identity"),
    "ln_cpn": (2345.0, "expm1"),
    "log2_cpn": (1e4, "exp2m1"),
}


def assert_equal(a, b):
    assert a.shape == b.shape
    assert (a != b).nnz == 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(sorted(NORMALISED)),
    decimals=st.sampled_from([None, 3, 4]),
    kept=st.sampled_from([1.0, 0.6]),
    depth=st.floats(0.5, 8),
)
def test_counts_come_back_exactly(seed, name, decimals, kept, depth):
    target, transform = NORMALISED[name]
    if name.endswith("cpn"):
        kept = 1.0  # with genes left out, nothing tells an odd target
    counts = draw_counts(seed, depth=depth)
    x = normalised(counts, target, transform, decimals)
    genes = np.random.default_rng(seed).random(counts.shape[1]) < kept
    genes[0] = True
    scale = detect_scale(x[:, genes])
    assert (scale.name, scale.transform, scale.integer, scale.counts_available) == (
        name,
        transform,
        True,
        True,
    ), scale.reason
    assert scale.target_sum == pytest.approx(target, rel=1e-3)
    found = to_counts(x[:, genes], scale)
    assert found.counts.dtype == np.float32
    enough = np.diff(x[:, genes].indptr) >= 20
    # with 3 decimals, a cell with a very large count is not exact either
    assert found.exact[enough].mean() > 0.95 and not found.exact[~enough].any()
    assert_equal(found.counts[found.exact], counts[:, genes][found.exact])
    library = np.asarray(counts.sum(axis=1)).ravel()
    np.testing.assert_allclose(found.library_size[found.exact], library[found.exact], rtol=3e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([1, 2]), depth=st.floats(0.5, 30))
def test_what_coarse_values_cannot_tell_is_left_out(seed, decimals, depth):
    counts = draw_counts(seed, depth=depth)
    exact = normalised(counts)
    scale = detect_scale(normalised(counts, decimals=2))
    scale = type(scale)(**{**scale.to_dict(), "decimals": decimals})
    if not scale.counts_available:
        scale = detect_scale(exact)
    found = to_counts(normalised(counts, decimals=decimals), scale)
    keep = found.exact
    assert_equal(found.counts[keep], counts[keep])
    assert found.counts[~keep].nnz == 0 and np.isnan(found.library_size[~keep]).all()


def test_two_decimals_do_for_counts_below_fifty():
    counts = draw_counts(0)
    counts.data = np.minimum(counts.data, 10)
    x = normalised(counts, decimals=2)
    found = to_counts(x, detect_scale(x))
    assert found.exact.mean() > 0.9
    assert_equal(found.counts[found.exact], counts[found.exact])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize(
    ("transform", "name"),
    [("identity", "counts"), ("expm1", "ln_counts"), ("exp2m1", "log2_counts")],
)
def test_without_normalisation(dtype, transform, name):
    counts = draw_counts(1)
    counts.data[counts.indptr[3] : counts.indptr[4]] = 0
    counts.eliminate_zeros()
    x = counts.copy()
    x.data = {"identity": np.array, "expm1": np.log1p, "exp2m1": lambda y: np.log2(1 + y)}[
        transform
    ](x.data)
    x = x.astype(dtype if transform == "identity" else np.float32)
    scale = detect_scale(x)
    assert (scale.name, scale.target_sum) == (name, None)
    found = to_counts(x, scale)
    assert found.exact.all() and found.library_size[3] == 0
    assert_equal(found.counts, counts)
    np.testing.assert_array_equal(found.library_size, np.asarray(counts.sum(axis=1)).ravel())


def test_counts_that_all_are_even_are_those_halved():
    counts = draw_counts(2)
    x = normalised(2 * counts)
    found = to_counts(x, detect_scale(x))
    assert_equal(found.counts, counts)


def test_a_smallest_count_of_two_or_three():
    counts = draw_counts(3, depth=3)
    counts.data[counts.data == 1] = 2
    counts[::2].data += 1
    x = normalised(counts)
    scale = detect_scale(x)
    found = to_counts(x, scale)
    assert found.exact.all()
    assert_equal(found.counts, counts)


def test_cells_with_few_genes_are_not_exact():
    counts = draw_counts(4)
    x = normalised(counts)
    scale = detect_scale(x)
    lone = sparse.csr_matrix(([3.0, 5.0], ([0, 1], [7, 7])), shape=(3, 300))
    found = to_counts(lone, scale)
    assert found.exact.tolist() == [False, False, True]  # the last one is empty
    assert found.counts.nnz == 0


def tpm(seed=0):
    lengths = np.random.default_rng(seed).lognormal(0, 1, 300)
    return sparse.csr_matrix(draw_counts(seed).multiply(1 / lengths))


@pytest.mark.parametrize(
    ("target", "transform", "name"),
    [(1e6, "identity", "tpm"), (1e5, "exp2m1", "log2_tpm"), (1e4, "expm1", "ln_tpm")],
)
def test_other_values_with_a_constant_sum(target, transform, name):
    x = normalised(tpm(), target, transform)
    scale = detect_scale(x)
    assert (scale.name, scale.target_sum, scale.counts_available) == (name, target, False)
    with pytest.raises(ValueError, match=f"{name}.*not made of whole numbers.*Leave the dataset"):
        to_counts(x, scale)


def test_unknown_and_scaled_values_say_why():
    x = normalised(tpm(), 1e5, "exp2m1")
    left_out = detect_scale(x[:, 1::2])
    assert left_out.name == "unknown" and "look like logarithms" in left_out.reason
    scaled = sparse.csr_matrix(x.toarray() - x.toarray().mean(0))
    assert detect_scale(scaled).name == "scaled"
    x.data[5] = np.nan
    assert detect_scale(x).name == "unknown" and "NaN" in detect_scale(x).reason
    empty = detect_scale(sparse.csr_matrix((4, 5)))
    assert empty.name == "unknown" and "empty" in empty.reason
    with pytest.raises(ValueError, match="no cells"):
        detect_scale(sparse.csr_matrix((0, 5)))


@pytest.mark.parametrize("n_other", [4, 20, 36])
@pytest.mark.parametrize("other", ["log2_cpm", "counts", "tpm"])
def test_cells_that_disagree_are_never_mixed(other, n_other):
    counts = draw_counts(5)
    others = {
        "counts": counts,
        "log2_cpm": normalised(counts, 1e6, "exp2m1"),
        "tpm": normalised(tpm(5), 1e4),
    }[other][:n_other]
    x = sparse.vstack([others, normalised(counts)[n_other:]], format="csr")
    scale = detect_scale(x)
    assert (scale.name, scale.counts_available) == ("unknown", False)
    assert "disagree" in scale.reason and "ln_cp10k" in scale.reason


@pytest.mark.parametrize("stranger", ["counts", "log2_cpm"])
def test_cells_of_another_scale_in_a_later_block_are_refused(stranger):
    counts = draw_counts(6)
    scale = detect_scale(normalised(counts))
    other = counts * 50 if stranger == "counts" else normalised(counts, 1e6, "exp2m1")
    if stranger == "counts":
        other.data += np.arange(other.nnz) % 7
    found = to_counts(sparse.vstack([normalised(counts), other], format="csr"), scale)
    assert found.exact[:40].all() and not found.exact[40:].any()
    bad = normalised(counts)
    bad.data[0] = np.nan
    bad.data[bad.indptr[1]] = -1
    assert to_counts(bad, scale).exact.tolist() == [False, False, *[True] * 38]
    assert to_counts(bad, detect_scale(counts)).exact.sum() == 0


def test_scales_are_plain_and_do_not_depend_on_order():
    x = normalised(draw_counts(7))
    scale = detect_scale(x)
    assert json.loads(json.dumps(scale.to_dict())) == scale.to_dict()
    assert scale.name in SCALES
    order = np.random.default_rng(0).permutation(300)
    found, again = to_counts(x, scale), to_counts(x[:, order], scale)
    assert_equal(found.counts[:, order], again.counts)
    before = x.copy()
    to_counts(x, scale)
    assert_equal(x, before)


def test_pieces_are_put_together(monkeypatch):
    counts = draw_counts(8)
    x = normalised(counts)
    scale = detect_scale(x)
    whole = to_counts(x, scale)
    monkeypatch.setattr(_counts, "_PIECE", 500)
    found = to_counts(x, scale)
    assert_equal(found.counts, whole.counts)
    np.testing.assert_array_equal(found.exact, whole.exact)
    np.testing.assert_array_equal(found.library_size, whole.library_size)
    assert to_counts(x[:0], scale).counts.shape == (0, 300)


def test_multiples_are_as_sure_as_the_intervals():
    values, indptr = np.array([2.0, 3.0, 5.0, 2.0, 3.5, 5.0]), np.array([0, 3, 6])
    sharp = multiples(values - 1e-9, values + 1e-9, indptr)
    assert sharp.unique.tolist() == [True, True]
    assert sharp.number.tolist() == [2, 3, 5, 4, 7, 10]
    vague = multiples(values - 0.6, values + 0.6, indptr)
    assert vague.fits.all() and not vague.unique.any()


# real files


def test_pbmc68k_of_scanpy():
    scanpy = pytest.importorskip("scanpy")
    adata = scanpy.datasets.pbmc68k_reduced()
    x = sparse.csr_matrix(adata.raw.X)
    scale = detect_scale(x)
    assert (scale.name, scale.target_sum, scale.decimals) == ("ln_cp10k", 1e4, 3)
    found = to_counts(x, scale)
    assert found.exact.all()
    depth = adata.obs["n_counts"].to_numpy()[:, None]
    truth = np.rint(np.expm1(x.toarray().astype(float)) * depth / 1e4)
    assert_equal(found.counts, sparse.csr_matrix(truth.astype(np.float32)))
    np.testing.assert_allclose(found.library_size, depth[:, 0], rtol=1e-3)


@pytest.mark.parametrize("target", [1e4, 1e6])
def test_real_counts(target):
    counts = anndata.read_h5ad(real("pbmc3k.h5ad")).X[:400]
    assert detect_scale(counts).name == "counts"
    x = normalised(counts, target)
    found = to_counts(x, detect_scale(x))
    assert found.exact.all()
    assert_equal(found.counts, counts)


def text_matrix(name):
    path = real("formats", name, "exprMatrix.tsv.gz")
    table = pd.read_csv(path, sep="\t", index_col=0, nrows=5000)
    return sparse.csr_matrix(table.to_numpy(np.float32).T)


def test_estimated_counts_are_tagged_and_not_rounded():
    x = text_matrix("ucsc_quakeBrainGeo1")
    scale = detect_scale(x)
    assert (scale.name, scale.counts_available) == ("estimated_counts", False)
    with pytest.raises(ValueError, match="counts with fractions.*whole numbers"):
        to_counts(x, scale)


def test_a_few_genes_of_counts_per_million():
    x = text_matrix("ucsc_mini")
    scale = detect_scale(x)
    assert (scale.name, scale.target_sum) == ("cpm", 1e6)
    found = to_counts(x, scale)
    # 99 genes: most cells have too few of them to be sure
    assert 0 < found.exact.mean() < 0.3
    assert (np.diff(found.counts.indptr)[found.exact] > 0).sum() < 0.3 * x.shape[0]
