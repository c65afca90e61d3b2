"""Sums over cells add up to what scanpy finds in the cells themselves."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from atlas_cells import make_cells, make_store
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import scgm_scvi
from scgm_scvi.atlas.store._statistics import Statistics
from scgm_scvi.atlas.store._variable_genes import normalized_dispersion, variable_genes


def statistics_of(adata, n=64):
    total = Statistics.zero(adata.var_names, np.ones(adata.n_vars, bool))
    for start in range(0, adata.n_obs, n):
        total.add_cells(adata.X[start : start + n])
    return total


@pytest.fixture(scope="module")
def real():
    adata = scgm_scvi.datasets.pbmc68k()
    x = sparse.csr_matrix(adata.X).astype(np.float64)  # scanpy's own sums are then exact too
    return AnnData(x, pd.DataFrame(index=adata.obs_names), pd.DataFrame(index=adata.var_names))


def with_scanpy(adata, **options):
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return sc.pp.highly_variable_genes(adata, inplace=False, **options)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
@pytest.mark.parametrize("n_top", [50, 300])
def test_the_genes_are_those_of_scanpy(real, flavor, n_top):
    table = with_scanpy(real, flavor=flavor, n_top_genes=n_top)
    own = normalized_dispersion(statistics_of(real), flavor)
    want = table["dispersions_norm"].to_numpy()
    np.testing.assert_allclose(own.to_numpy(), want, rtol=1e-6, atol=1e-8)
    genes = variable_genes([statistics_of(real)], n_top, flavor=flavor)
    assert list(genes) == list(real.var_names[table["highly_variable"]])
    # of parts, together: the same cells, the same genes
    parts = [statistics_of(real[i::3]) for i in range(3)]
    assert list(variable_genes(parts, n_top, flavor=flavor)) == list(genes)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "scran"])
def test_genes_that_are_silent_change_nothing(real, flavor):
    more = [f"silent{i}" for i in range(2 * real.n_vars)]
    x = sparse.hstack([real.X, sparse.csr_matrix((real.n_obs, len(more)))], format="csr")
    wide = AnnData(x, var=pd.DataFrame(index=[*real.var_names, *more]))
    want = list(variable_genes([statistics_of(real)], 100, flavor=flavor))
    for by_dataset in (False, True):
        options = {"flavor": flavor, "by_dataset": by_dataset}
        assert list(variable_genes([statistics_of(wide)], 100, **options)) == want
    once = sparse.csr_matrix(([40.0], ([0], [wide.n_vars - 1])), wide.shape)
    few = AnnData(sparse.csr_matrix(wide.X + once), var=wide.var)
    assert np.isfinite(normalized_dispersion(statistics_of(few), flavor)[more[-1]])
    assert np.isnan(normalized_dispersion(statistics_of(few), flavor, min_cells=2)[more[-1]])
    silent = statistics_of(wide[:, more])
    assert len(variable_genes([silent], 5, flavor=flavor)) == 0


@pytest.mark.slow
@given(
    counts=st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=12),
    cut=st.integers(0, 12),
)
def test_sums_add_up(counts, cut):
    x = np.array(counts, float)
    genes = pd.Index(list("abcd"))
    parts = [
        Statistics.zero(genes, np.ones(4, bool)).add_cells(sparse.csr_matrix(p))
        for p in (x[:cut], x[cut:])
        if len(p)
    ]
    total = Statistics.sum(parts)
    library = x.sum(1, keepdims=True)
    cp10k = x / np.where(library > 0, library, 1) * 1e4
    for scale, values in (("counts", x), ("cp10k", cp10k), ("log", np.log1p(cp10k))):
        moments = total.moments(scale)
        np.testing.assert_allclose(moments["mean"], values.mean(0), rtol=1e-9)
        size = (values**2).max() + 1
        np.testing.assert_allclose(moments["variance"], values.var(0, ddof=1), atol=1e-9 * size)
    np.testing.assert_array_equal(total.table["n_expressed"], (x > 0).sum(0))


@pytest.mark.slow
def test_the_store_takes_them_while_it_writes(tmp_path):
    a, b = make_cells(150, seed=1, unmeasured=10), make_cells(90, seed=2, unmeasured=10)
    store = make_store(tmp_path / "s", {"a": a, "b": b})
    masks = [x.varm["measured"][:, 0] for x in (a, b)]
    assert (masks[0] != masks[1]).any()
    total = store.statistics()
    np.testing.assert_array_equal(total.table["n_cells"], masks[0] * 150 + masks[1] * 90)
    # a gene that only one measured: its mean is that of the cells in which it was
    one = masks[0] & ~masks[1]
    want = a.X.toarray().astype(float).mean(0)[one]
    np.testing.assert_allclose(total.moments("counts")["mean"][one], want)
    assert total.moments("counts")["mean"][~masks[0] & ~masks[1]].isna().all()
    np.testing.assert_array_equal(store.measured(["b", "a"]).loc["a"], masks[0])
    pd.testing.assert_frame_equal(
        store.statistics("b").table.drop(columns="measured"),
        statistics_of(b).table.drop(columns=["measured"]).assign(n_cells=masks[1] * 90),
    )


def test_what_differs_only_between_datasets_does_not_count():
    rng = np.random.default_rng(0)
    genes = pd.Index([f"g{i}" for i in range(300)])
    mean = rng.gamma(2, 2, 300)
    datasets = []
    for level in (0, 8):  # g0 is a batch effect; g1 varies within both
        x = rng.poisson(np.tile(mean, (200, 1)))
        x[:, 0] = rng.poisson(level, 200)
        x[:, 1] = rng.poisson(20, 200) * (rng.random(200) < 0.2)
        datasets.append(
            statistics_of(
                AnnData(sparse.csr_matrix(x.astype(float)), var=pd.DataFrame(index=genes))
            )
        )
    pooled = variable_genes(datasets, 10)
    within = variable_genes(datasets, 10, by_dataset=True)
    assert "g0" in pooled
    assert "g0" not in within
    assert "g1" in within
    assert len(within) == 10


def test_a_gene_that_was_not_measured_is_no_zero():
    rng = np.random.default_rng(0)
    genes = pd.Index([f"g{i}" for i in range(200)])
    mean, datasets = rng.gamma(2, 1, 200), []
    for i in range(3):
        x = rng.poisson(mean, (150, 200))
        x[:, 7] = rng.poisson(12, 150) * (rng.random(150) < 0.2)
        measured = np.ones(200, bool)
        if i == 0:  # all three would see it vary, were it there
            x[:, 7], measured[7] = 0, False
        x = sparse.csr_matrix(x.astype(float))
        datasets.append(Statistics.zero(genes, measured).add_cells(x))
    assert normalized_dispersion(datasets[0]).isna()["g7"]
    assert "g7" in variable_genes(datasets, 3)
    assert "g7" in variable_genes(datasets, 3, by_dataset=True)


def test_errors():
    one = Statistics.zero(pd.Index(["a", "b"]))
    with pytest.raises(ValueError, match="one axis"):
        one + Statistics.zero(pd.Index(["b", "a"]))
    with pytest.raises(ValueError, match="no datasets"):
        variable_genes([], 10)
    with pytest.raises(ValueError, match="seurat_v3.*seurat, cell_ranger, scran"):
        normalized_dispersion(one, "seurat_v3")
    with pytest.raises(ValueError, match="scale is 'raw'"):
        one.moments("raw")
    with pytest.raises(ValueError, match="n_top is 0"):
        variable_genes([one], 0)


def test_scran_takes_variance_above_the_trend_not_rare_genes():
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.5, 30, 300)
    counts = rng.poisson(np.broadcast_to(mean, (2000, 300))).astype(float)
    marked = rng.choice(300, 20, replace=False)
    half = np.arange(2000) < 1000
    counts[:, marked] = rng.poisson(np.where(half[:, None], 0.3, 1.7) * mean[marked])
    counts[:, 0] = rng.random(2000) < 0.002  # rare: dispersions like it
    statistics = statistics_of(AnnData(sparse.csr_matrix(counts)))
    top = variable_genes([statistics], 20, flavor="scran")
    assert len(set(np.flatnonzero(statistics.table.index.isin(top))) & set(marked)) >= 18
    assert normalized_dispersion(statistics, "scran").iloc[0] < 0.01
