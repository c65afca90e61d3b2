"""The picture of genes: the statistics against a plain computation of them."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import sparse

from scgm_scvi.pl import gene_statistics

matplotlib.use("agg")

GENES = [f"gene{i}" for i in range(25)]
TINTS = {"real": "#b0b0b0", "generated": "#d1495b"}


def make_cells(seed, n=40):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.linspace(0.1, 6, len(GENES)), size=(n, len(GENES)))
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=GENES))


def statistics(adata):
    x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    scaled = x / x.sum(axis=1, keepdims=True) * 1e4
    return scaled.mean(axis=0), scaled.var(axis=0), (x == 0).mean(axis=0)


def points(ax):
    """Points of the panel's scatter by colour, sorted."""
    dots = ax.collections[0]
    xy, tint = np.asarray(dots.get_offsets()), [to_hex(c) for c in dots.get_facecolor()]
    tint = np.resize(tint, len(xy))
    return {t: xy[tint == t][np.lexsort(xy[tint == t].T)] for t in set(tint)}


def same(got, *columns):
    want = np.stack(columns, axis=1)
    np.testing.assert_allclose(got, want[np.lexsort(want.T)], rtol=1e-5)


def test_each_gene_is_where_its_statistics_are():
    real, generated = make_cells(0), make_cells(1, 60)[::2]
    figure = gene_statistics(real, generated)
    assert isinstance(figure, Figure)
    assert not plt.get_fignums()
    spread, dropout, means, zeros = figure.axes
    for adata, name in ((real, "real"), (generated, "generated")):
        mean, variance, zero = statistics(adata)
        same(points(spread)[TINTS[name]], mean, variance)
        same(points(dropout)[TINTS[name]], mean, zero)
    a, b = statistics(real), statistics(generated)
    same(points(means)[TINTS["generated"]], a[0], b[0])
    same(points(zeros)[TINTS["generated"]], a[2], b[2])
    assert means.texts[0].get_text() == f"r = {np.corrcoef(np.log(a[0]), np.log(b[0]))[0, 1]:.3f}"
    assert zeros.texts[0].get_text() == f"r = {np.corrcoef(a[2], b[2])[0, 1]:.3f}"


def test_axes_say_what_they_show():
    spread, dropout, means, zeros = gene_statistics(make_cells(0), make_cells(1)).axes
    assert (spread.get_xscale(), spread.get_yscale()) == ("log", "log")
    assert (dropout.get_xscale(), dropout.get_yscale()) == ("log", "linear")
    assert spread.get_xlabel() == dropout.get_xlabel() == "mean (counts per 10,000)"
    assert spread.get_ylabel() == "variance"
    assert dropout.get_ylabel() == "share of cells without a count"
    for ax in (means, zeros):
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("real", "generated")
        assert ax.get_xlim() == ax.get_ylim()  # the line of equality is the diagonal
        (line,) = ax.get_lines()
        assert line.get_xy1() == (0.5, 0.5)
        assert line.get_xy2() == (1, 1)
    legend = spread.get_legend()
    tints = [to_hex(h.get_facecolor()[0]) for h in legend.legend_handles]
    assert dict(zip([t.get_text() for t in legend.get_texts()], tints, strict=True)) == TINTS


def test_shared_genes_in_any_order_dense_or_sparse():
    real, generated = make_cells(0), make_cells(1)
    want = points(gene_statistics(real, generated).axes[2])[TINTS["generated"]]
    shuffled = generated[:, ::-1].copy()
    shuffled.X = shuffled.X.toarray()
    got = points(gene_statistics(real, shuffled).axes[2])[TINTS["generated"]]
    np.testing.assert_allclose(got, want)
    few = gene_statistics(real, generated[:, :10])
    assert len(points(few.axes[2])[TINTS["generated"]]) == 10


def test_genes_without_counts_stand_at_the_edge():
    real, generated = make_cells(0), make_cells(1)
    generated.X = sparse.csr_matrix(generated.X.toarray() * (np.arange(25) != 24))
    figure = gene_statistics(real, generated)
    mean = np.concatenate([statistics(a)[0] for a in (real, generated)])
    x, y = points(figure.axes[2])[TINTS["generated"]][0]  # the lowest
    assert x == pytest.approx(statistics(real)[0][24])
    assert y == pytest.approx(mean[mean > 0].min() / 2)
    assert figure.axes[2].get_ylim()[0] < y
    same(points(figure.axes[3])[TINTS["generated"]], statistics(real)[2], statistics(generated)[2])


def test_no_counts_at_all_and_empty_cells():
    empty = make_cells(1)
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.float32)
    figure = gene_statistics(empty, empty)
    assert not figure.axes[2].texts  # no correlation of constants
    figure.canvas.draw()


def test_arguments_are_left_as_they_were():
    real, generated = make_cells(0), make_cells(1)[::2]
    real.X.data[0] = 0  # an explicit zero is a zero
    before = real.X.copy(), generated.X.copy()
    gene_statistics(real, generated)
    assert generated.is_view
    for a, b in zip((real.X, generated.X), before, strict=True):
        assert a.nnz == b.nnz
        assert (a != b).nnz == 0


def test_bad_input():
    other = make_cells(1)
    other.var_names = [f"other{i}" for i in range(25)]
    with pytest.raises(ValueError, match="real, generated share no var_names"):
        gene_statistics(make_cells(0), other)
    scaled = make_cells(1)
    scaled.X.data[3] = -1
    with pytest.raises(ValueError, match=r"generated\.X holds negative"):
        gene_statistics(make_cells(0), scaled)
