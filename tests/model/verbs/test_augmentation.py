"""Augmented data: real cells as they were, rare categories topped up, composition kept."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers import QUIET, SMALL, make_adata
from scipy import sparse

from scgm_scvi import SCGM

KEY = "cell_type"


def augment(model, *args, **kwargs):
    return model.augment(*args, **{"progress_bar": False, "seed": 0, "n_steps": 5, **kwargs})


def counts(obs):
    """Category to number of real and of generated cells."""
    table = pd.crosstab(obs[KEY].astype(object), obs["scgm_generated"])
    table = table.reindex(columns=[False, True], fill_value=0)
    return {k: tuple(row) for k, row in zip(table.index, table.to_numpy().tolist(), strict=True)}


@pytest.fixture(scope="module")
def balanced(model):
    return augment(model)


def test_every_category_grows_to_the_largest(model, balanced):
    present = model.adata.obs[KEY].value_counts()
    largest = present.max()
    assert counts(balanced.obs) == {k: (v, largest - v) for k, v in present.items()}
    assert (balanced.obs[KEY].value_counts() == largest).all()
    record = balanced.uns["scgm"]["augment"]
    assert record["key"] == KEY  # the labels_key, as none was named
    assert dict(zip(record["categories"], record["n_real"], strict=True)) == dict(present)
    assert sum(record["n_generated"]) == balanced.obs["scgm_generated"].sum()
    assert {"model", "sampler", "seed"} <= set(balanced.uns["scgm"])


def test_real_cells_come_first_and_unchanged(model, balanced):
    real, n = model.adata, model.adata.n_obs
    assert balanced.obs["scgm_generated"].to_numpy().tolist() == [False] * n + [True] * (
        balanced.n_obs - n
    )
    assert isinstance(balanced.X, sparse.csr_matrix)
    assert balanced.X.dtype == np.float32
    assert (balanced.X[:n] != real.X).nnz == 0
    assert list(balanced.obs_names[:n]) == list(real.obs_names)
    np.testing.assert_allclose(
        balanced.obsm["X_scgm"][:n], model.get_latent_representation(), atol=1e-5
    )
    pd.testing.assert_frame_equal(balanced.var, real.var)
    for name in ("cell_type", "stimulation", "dose", "donor", "mito", "phase", "n_counts"):
        assert balanced.obs[name][:n].astype(object).equals(real.obs[name].astype(object)), name
    assert not [c for c in balanced.obs if c.startswith("_scvi")]


def test_generated_cells_are_those_of_generate(model, balanced):
    rows = balanced.obs["scgm_generated"].to_numpy()
    conditions = balanced.obs.loc[rows, ["cell_type", "stimulation", "dose", "donor", "plate"]]
    twin = model.generate(conditions=conditions, seed=0, n_steps=5, progress_bar=False)
    assert (twin.X != balanced.X[rows]).nnz == 0
    np.testing.assert_array_equal(twin.obsm["X_scgm"], balanced.obsm["X_scgm"][rows])
    np.testing.assert_array_equal(twin.obs["mito"], balanced.obs["mito"][rows].astype(np.float32))


def test_attributes_are_drawn_as_whole_cells_of_the_category(model, balanced):
    """Each generated cell's tuple of attributes is that of a real cell of its category."""
    names = [KEY, "stimulation", "dose", "donor", "plate"]
    obs = balanced.obs[names].assign(dose=balanced.obs["dose"].round(4)).astype(object)
    obs = obs.where(obs.notna(), "missing")
    tuples = pd.Series(list(obs.itertuples(index=False, name=None)), index=obs.index)
    generated = balanced.obs["scgm_generated"]
    assert set(tuples[generated]) <= set(tuples[~generated])
    # and they are drawn evenly: 227 draws of 13 cells leave none out
    of_type = obs[KEY] == "CD34+"
    assert set(tuples[generated & of_type]) == set(tuples[~generated & of_type])


def test_other_columns_are_missing(balanced):
    rows = balanced.obs["scgm_generated"]
    assert balanced.obs.loc[rows, ["phase", "n_counts"]].isna().all(axis=None)
    assert balanced.obs.loc[rows, [KEY, "donor", "plate", "mito"]].notna().all(axis=None)


def test_survives_disk_and_scanpy(balanced, tmp_path):
    balanced.write_h5ad(tmp_path / "cells.h5ad")
    back = sc.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.X != balanced.X).nnz == 0
    pd.testing.assert_frame_equal(back.obs, balanced.obs, check_names=False)
    assert list(back.uns["scgm"]["augment"]["categories"]) == list(
        balanced.uns["scgm"]["augment"]["categories"]
    )
    sc.pp.normalize_total(back)
    sc.pp.log1p(back)
    sc.tl.rank_genes_groups(back, KEY, n_genes=3)


def test_one_number_and_a_dict(model):
    present = model.adata.obs[KEY].value_counts()
    grown = counts(augment(model, None, KEY, 50).obs)
    assert grown == {k: (v, max(0, 50 - v)) for k, v in present.items()}
    grown = counts(augment(model, None, KEY, {"CD34+": 20, "Dendritic": np.int64(1)}).obs)
    assert grown == {k: (v, 7 * (k == "CD34+")) for k, v in present.items()}


def test_enough_cells_stay_as_they_are(model):
    same = augment(model, n_per_category=5)
    assert same.shape == model.adata.shape
    assert not same.obs["scgm_generated"].any()
    assert same.uns["scgm"]["augment"]["n_generated"] == [0] * 10
    assert same.obs["phase"].equals(model.adata.obs["phase"])


def snapshot(adata):
    return [list(x) for x in (adata.obs, adata.var, adata.obsm, adata.layers, adata.uns)]


def test_a_view_with_missing_labels_and_columns_of_its_own(model):
    whole = make_adata()
    whole.obs["flag"] = np.arange(700) % 2 == 0
    whole.obs["rank"] = np.arange(700)
    whole.obs["note"] = [f"cell {i}" for i in range(700)]
    whole.obs[KEY] = whole.obs[KEY].astype(object)  # strings
    whole.obs.iloc[:200, whole.obs.columns.get_loc(KEY)] = np.nan
    whole = ad.concat([whole[:, ::-1], whole[:, :1].copy()[:, []]], axis=1, merge="first")
    further = ad.AnnData(
        np.ones((700, 1), np.float32), obs=whole.obs[[]], var=pd.DataFrame(index=["no gene"])
    )
    whole = ad.concat([further, whole], axis=1, merge="first")
    view = whole[whole.obs["rank"] < 500]
    before, obs = snapshot(view), view.obs.copy()
    out = augment(model, view, KEY, 40)
    assert view.is_view
    assert snapshot(view) == before
    pd.testing.assert_frame_equal(view.obs, obs)
    assert list(out.var_names) == list(model.adata.var_names)
    assert (out.X[:500] != view[:, model.adata.var_names].X).nnz == 0
    np.testing.assert_allclose(
        out.obsm["X_scgm"][:500], model.get_latent_representation(indices=range(500)), atol=1e-5
    )
    assert out.obs[KEY].isna().to_numpy().tolist() == [True] * 200 + [False] * (out.n_obs - 200)
    present = view.obs[KEY].value_counts()
    assert counts(out.obs) == {k: (v, max(0, 40 - v)) for k, v in present.items()}
    assert out.obs["flag"].dtype == "boolean"
    assert out.obs["flag"][:500].tolist() == view.obs["flag"].tolist()
    assert out.obs["rank"][:500].tolist() == list(range(500))
    assert out.obs["note"][:500].tolist() == view.obs["note"].tolist()
    assert out.obs[["flag", "rank", "note"]][500:].isna().all(axis=None)


def test_what_is_not_in_the_data(model):
    """Only a dict adds a category that the data lack; it has no cells to take attributes from."""
    part = model.adata[model.adata.obs[KEY] != "CD34+"]
    assert "CD34+" not in set(augment(model, part, KEY, 10).obs[KEY])
    part = part.copy()
    part.obs[KEY] = part.obs[KEY].cat.remove_unused_categories().cat.as_ordered()
    out = augment(model, part, KEY, {"CD34+": 12})
    new = out.obs[out.obs["scgm_generated"]]
    assert len(new) == 12
    assert (new[KEY] == "CD34+").all()
    assert new[["stimulation", "dose"]].isna().all(axis=None)
    assert (new["donor"] == "d3").all()  # as generate draws it: from training cells
    # the order of the data's categories stays, and with it their colours
    assert list(out.obs[KEY].cat.categories) == [*part.obs[KEY].cat.categories, "CD34+"]
    assert out.obs[KEY].cat.ordered


def test_another_condition(model):
    out = augment(model, key="stimulation")
    assert out.obs["stimulation"].value_counts().nunique() == 1
    missing = model.adata.obs["stimulation"].isna().sum()
    assert out.obs["stimulation"].isna().sum() == missing > 0


def test_names_are_unique(model):
    part = make_adata()[:40].copy()
    part.obs_names = ["generated_0", *part.obs_names[1:]]
    out = augment(model, part, n_per_category=20)
    assert out.obs_names.is_unique
    assert list(out.obs_names[:40]) == list(part.obs_names)


def test_a_layer_and_dense_integers(model):
    adata = make_adata()
    adata.layers["raw"] = adata.X.toarray().astype(np.int64)
    adata.X = None
    SCGM.setup_anndata(adata, layer="raw", labels_key=KEY)
    layered = SCGM(adata, **SMALL)
    layered.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    for argument in (None, adata[:300]):
        out = augment(layered, argument, n_per_category=30)
        n = 700 if argument is None else 300
        np.testing.assert_array_equal(out.X[:n].toarray(), adata.layers["raw"][:n])


def test_seed(model):
    a, b, c = (augment(model, n_per_category=30, seed=s) for s in (1, 1, 2))
    assert (a.X != b.X).nnz == 0
    pd.testing.assert_frame_equal(a.obs, b.obs)
    assert not a.obs["dose"].equals(c.obs["dose"])
    fresh = [augment(model, n_per_category=10, seed=None).uns["scgm"]["seed"] for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_model_without_data(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match="loaded without data, so adata has to be given"):
        augment(loaded)
    out, same = augment(loaded, make_adata(), n_per_category=30), augment(model, n_per_category=30)
    assert (out.X != same.X).nnz == 0
    assert loaded.adata is None  # the cells were not taken over


def test_nothing_of_the_data_is_kept(model):
    stores = model._setup_adata_manager_store, model._per_instance_manager_store[model.id]
    before = [set(s) for s in stores]
    augment(model, make_adata(), n_per_category=10)
    assert [set(s) for s in stores] == before


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"key": "celltype"}, KeyError, "key: .*'celltype'.*Did you mean 'cell_type'.*'stimul"),
        ({"key": "donor"}, KeyError, "Known: 'cell_type', 'stimulation'"),
        ({"n_per_category": 0}, ValueError, "n_per_category is 0; it must be at least 1"),
        ({"n_per_category": -3}, ValueError, "n_per_category is -3"),
        ({"n_per_category": 2.5}, ValueError, r"n_per_category is 2\.5; it must be a whole number"),
        ({"n_per_category": {"CD34+": -1}}, ValueError, r"n_per_category\['CD34\+'\] is -1"),
        (
            {"n_per_category": {"CD34": 5}},
            ValueError,
            r"n_per_category: 'CD34' is not a known category of 'cell_type'. Did you mean 'CD34\+'\? Known: 'CD4",
        ),
        ({"out": "cells.h5ad"}, TypeError, "augment takes no 'out'.*'guidance_scale'"),
        ({"expression": "normalized"}, TypeError, "takes no 'expression'"),
        ({"samplr": "heun"}, TypeError, "Did you mean 'sampler'"),
        ({"sampler": "huen"}, ValueError, "Did you mean 'heun'"),
    ],
)
def test_bad_requests(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        augment(model, **kwargs)


def spoil(adata, how):
    if how == "augmented":
        adata.obs["scgm_generated"] = False
    elif how == "column":
        del adata.obs["donor"]
    elif how == "category":
        adata.obs[KEY] = adata.obs[KEY].cat.rename_categories({"CD34+": "stem"})
    elif how == "features":
        return adata[:, :700]
    elif how == "values":
        adata.X.data[0] = 0.5
    return adata


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ("augmented", ValueError, r"'scgm_generated' already.*~adata\.obs\['scgm_generated'\]"),
        ("column", KeyError, "batch_key: 'donor' is not a column"),
        ("category", ValueError, "'stem' is not a known category of 'cell_type'"),
        ("features", ValueError, "lacks 65 of the 765 features"),
        ("values", ValueError, r"adata\.X holds values that are not integers \(0\.5"),
    ],
)
def test_bad_data(model, how, error, match):
    with pytest.raises(error, match=match):
        augment(model, spoil(make_adata(), how))


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).augment()


def test_without_a_condition(adata):
    SCGM.setup_anndata(adata)
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    with pytest.raises(ValueError, match="no categorical condition to balance.*labels_key"):
        augment(model)
