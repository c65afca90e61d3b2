import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgm_scvi.benchmark import split_cells


def make_cells(n=400, n_genes=60):
    rng = np.random.default_rng(0)
    label = rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1])
    rate = rng.gamma(2, 1, n_genes) * np.where((label == "a")[:, None], rng.gamma(2, 1, n_genes), 1)
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame({"type": pd.Categorical(label)}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def test_parts_are_disjoint_and_of_each_type_in_proportion():
    adata = make_cells()
    split = split_cells(adata, "type", n_top_genes=60)
    parts = [split.train, split.test, split.reference]
    names = [n for p in parts for n in p.obs_names]
    assert sorted(names) == sorted(adata.obs_names)
    total = adata.obs["type"].value_counts()
    for part, share in zip(parts, (0.5, 0.3, 0.2), strict=True):
        assert (np.abs(part.obs["type"].value_counts() - share * total) <= 2).all()
    assert split.notes == ()
    one = split.test.obs_names[3]
    assert (split.test[one].X != adata[one].X).nnz == 0


def test_the_seed_decides():
    names = [tuple(split_cells(make_cells(), "type", seed=s).test.obs_names) for s in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_genes_are_those_that_vary_most_among_training_cells():
    adata = make_cells(2000)
    adata.X = adata.X.toarray()
    adata.X[:, 3] = np.where(adata.obs["type"] == "a", 8, 0)
    split = split_cells(adata, "type", n_top_genes=6)
    assert "g3" in split.train.var_names
    for part in (split.train, split.test, split.reference):
        assert list(part.var_names) == [n for n in adata.var_names if n in set(part.var_names)]
        assert part.n_vars == 6
    assert split.notes[0] == "The 6 most variable genes of the training cells of 60."


def test_cells_without_a_count_in_the_genes_that_vary_are_left_out():
    adata = make_cells(2000)
    adata.X = np.where(np.arange(60) < 2, 0, 3) + np.zeros((2000, 1))
    adata.X[::2, 0] = adata.X[::4, 1] = 30
    split = split_cells(adata, "type", n_top_genes=2)
    assert set(split.train.var_names) == {"g0", "g1"}
    assert split.notes[1] == "Left out: 1000 cells without a count in these genes."
    assert split.train.X.sum(axis=1).min() > 0


def test_counts_of_a_layer_and_notes_of_what_is_left_out():
    adata = make_cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    adata.obs.loc["c0", "type"] = np.nan
    counts = adata.layers["counts"].tolil()
    counts[1] = 0
    adata.layers["counts"] = counts.tocsr()
    before = adata.copy()
    split = split_cells(adata, "type", layer="counts")
    assert split.notes == (
        "Left out: 1 cells without a type.",
        "Left out: 1 cells without a count.",
    )
    assert not {"c0", "c1"} & {n for p in (split.train, split.test) for n in p.obs_names}
    assert (split.train.X.data % 1 == 0).all()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0


def test_many_cells_are_drawn_in_proportion_and_a_rare_type_is_trained_on():
    adata = make_cells(1000)
    adata.obs["type"] = adata.obs["type"].cat.add_categories(["rare"])
    adata.obs.iloc[:2, 0] = "rare"
    split = split_cells(adata, "type", max_cells=500)
    assert 495 <= sum(p.n_obs for p in (split.train, split.test, split.reference)) <= 505
    assert "rare" in set(split.train.obs["type"])
    assert "rare" not in set(split.test.obs["type"])
    assert any("only trained on: 'rare'" in n for n in split.notes)


@pytest.mark.parametrize(
    ("change", "arguments", "error", "said"),
    [
        (None, {"labels_key": "typ"}, KeyError, "Did you mean 'type'"),
        (None, {"layer": "raw"}, KeyError, "'raw' is not a layer"),
        (lambda a: a.X.data.__imul__(np.float32(0.3)), {}, ValueError, "which is no count"),
        (lambda a: a.X.data.__setitem__(0, np.nan), {}, ValueError, "nan, which is no count"),
        (lambda a: a.obs.__setitem__("type", "a"), {}, ValueError, "at least two types"),
        (None, {"n_top_genes": 0}, ValueError, "n_top_genes is 0"),
        (None, {"max_cells": 60}, ValueError, "at least about 290 cells"),
        (lambda a: a.obs.__setitem__("type", ["all", "b"] * 200), {}, ValueError, "value 'all'"),
        (lambda a: a.X.data.__imul__(0), {}, ValueError, "No cell has both a type and a count"),
    ],
)
def test_refused(change, arguments, error, said):
    adata = make_cells()
    if change:
        change(adata)
    with pytest.raises(error, match=said):
        split_cells(adata, **{"labels_key": "type", **arguments})
