"""Cells come to a model by one door: by name, checked, as they are now, and unchanged by it."""

from __future__ import annotations

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
import torch
from helpers import make_types, train_types
from scipy import sparse
from scvi import REGISTRY_KEYS

from scgm_scvi import SCGM
from scgm_scvi.model.data._reading import Reading


@pytest.fixture(scope="module")
def trained() -> SCGM:
    """Not to be changed."""
    model = train_types(make_types())
    model.classify(key="cell_type", progress_bar=False)  # calibrates it, whichever test comes first
    return model


@pytest.fixture
def model() -> SCGM:
    """To be changed."""
    return train_types(make_types(), steps=10)


@pytest.fixture
def query() -> ad.AnnData:
    return make_types(60, seed=1)


def seeded(verb, *args, **kwargs):
    """What a verb of scvi-tools answers, whose noise is torch's global one."""
    torch.manual_seed(0)
    np.random.seed(0)
    return verb(*args, **kwargs)


def copied(adata):
    """A deep copy, and what else of an object could be written to."""
    return adata.copy(), list(adata.uns), list(adata.obs), list(adata.obsm)


def unchanged(adata, before):
    old, uns, obs, obsm = before
    assert (uns, obs, obsm) == (list(adata.uns), list(adata.obs), list(adata.obsm))
    pd.testing.assert_frame_equal(old.obs, adata.obs)
    assert old.var_names.equals(adata.var_names)


class TestOtherCells:
    """What a query is, whatever container and order it comes in."""

    def test_features_in_another_order(self, trained, query):
        other = query[:, np.random.default_rng(0).permutation(40)].copy()
        before = copied(other)
        for name in ("get_latent_representation", "get_normalized_expression"):
            a, b = (seeded(getattr(trained, name), cells) for cells in (query, other))
            if isinstance(a, pd.DataFrame):
                assert a.columns.equals(trained.var_.index)
                np.testing.assert_allclose(a, b, rtol=1e-5)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        unchanged(other, before)

    def test_further_and_missing_features(self, trained, query):
        more = ad.concat(
            [
                ad.AnnData(
                    np.ones((60, 3), "float32"), query.obs[[]], pd.DataFrame(index=list("xyz"))
                ),
                query,
            ],
            axis="var",
            merge="first",
        )
        more.obs = query.obs.copy()
        expected = trained.get_latent_representation(query)
        np.testing.assert_allclose(trained.get_latent_representation(more), expected, atol=1e-6)
        with pytest.raises(ValueError, match=r"lacks 4 of the 40 features.*'gene0'"):
            trained.get_normalized_expression(query[:, 4:])

    def test_values_are_checked(self, trained, query):
        sc.pp.log1p(query)
        for getter in (trained.get_latent_representation, trained.get_normalized_expression):
            with pytest.raises(ValueError, match="not integers"):
                getter(query)

    @pytest.mark.parametrize(
        "kind", ["csr_array", "csc_array", "csc_matrix", "ndarray", "fortran", "int64", "view"]
    )
    def test_containers(self, trained, query, kind):
        dense = query.X.toarray()
        x = {
            "ndarray": dense,
            "fortran": np.asfortranarray(dense),
            "int64": dense.astype(np.int64),
            "view": query.X,
        }.get(kind)
        other = query.copy()
        other.X = getattr(sparse, kind)(query.X) if x is None else x
        other = other[::-1][::-1] if kind == "view" else other
        for verb in (
            trained.get_latent_representation,
            trained.ood_score,
            lambda a: trained.classify(a, progress_bar=False).to_numpy(),
            lambda a: trained.edit(a, {"cell_type": "B"}, seed=0, strength=0.5, copy=True).obsm[
                "X_scgm_edited"
            ],
        ):
            np.testing.assert_allclose(verb(other), verb(query), rtol=1e-4, atol=1e-5)

    def test_not_in_memory(self, trained, query, tmp_path):
        query.write_h5ad(tmp_path / "q.h5ad")
        lazy = ad.experimental.read_lazy(tmp_path / "q.h5ad")
        dask = query.copy()
        dask.X = pytest.importorskip("dask.array").from_array(query.X.toarray(), chunks=(20, 40))
        for adata, match in ((lazy, "lazily.*to_memory"), (dask, "dask.*to_memory")):
            for verb in (trained.get_latent_representation, trained.ood_score, trained.classify):
                with pytest.raises(ValueError, match=match):
                    verb(adata)
            with pytest.raises(ValueError, match=match):
                SCGM.setup_anndata(adata)

    def test_only_the_last_stand_in_is_kept(self, trained):
        store = trained._per_instance_manager_store[trained.id]
        for seed in range(3):
            trained.get_normalized_expression(make_types(20, seed=seed))
        assert len(store) <= 2

    def test_a_copy_of_the_model_s_data(self, trained):
        copy = trained.adata[:40].copy()
        before = copied(copy)
        np.testing.assert_allclose(
            trained.get_latent_representation(copy),
            trained.get_latent_representation()[:40],
            atol=1e-6,
        )
        unchanged(copy, before)

    def test_a_model_without_data_stays_so(self, trained, query, tmp_path):
        trained.save(tmp_path / "m")
        model = SCGM.load(tmp_path / "m", adata=False)
        before = copied(query)
        model.get_normalized_expression(query)
        assert model.adata is None
        unchanged(query, before)

    def test_loading_with_features_in_another_order(self, trained, query, tmp_path):
        trained.save(tmp_path / "m")
        with (
            pytest.warns(UserWarning, match="var_names"),
            pytest.raises(ValueError, match="another order.*get_var_names"),
        ):
            SCGM.load(tmp_path / "m", query[:, ::-1].copy())

    def test_other_data_in_place_of_the_model_s(self, model, query):
        model.adata = query
        assert model.adata is query
        assert len(model.get_latent_representation()) == 60
        with pytest.raises(ValueError, match="another order"):
            model.adata = make_types(60)[:, ::-1].copy()


class TestOwnCells:
    """The model's own AnnData is looked at again, not trusted for ever."""

    VERBS = {
        "log_likelihood": lambda m: m.log_likelihood(progress_bar=False),
        "denoising_loss": lambda m: m.denoising_loss(progress_bar=False),
        "classify": lambda m: m.classify(key="cell_type", progress_bar=False),
        "ood_score": lambda m: m.ood_score(progress_bar=False),
        "augment": lambda m: m.augment(progress_bar=False),
        "edit_curve": lambda m: m.edit_curve(None, {"cell_type": "B"}, progress_bar=False),
        "edit": lambda m: m.edit(m.adata, {"cell_type": "B"}, strength=0.5, copy=True),
        "enhance": lambda m: m.enhance(m.adata, copy=True),
        "get_latent_representation": lambda m: m.get_latent_representation(),
        "get_normalized_expression": lambda m: m.get_normalized_expression(),
        "get_elbo": lambda m: m.get_elbo(),
        "differential_expression": lambda m: m.differential_expression(groupby="cell_type"),
        "train": lambda m: m.train(max_epochs=1),
        "train_diffusion": lambda m: m.train_diffusion(max_steps=1),
    }

    @pytest.mark.parametrize("change", ["log", "genes_reordered", "genes_dropped", "cells_dropped"])
    def test_changed_in_place(self, trained, change):
        adata, before = trained.adata, trained.adata.copy()
        try:
            self.refused(trained, adata, change)
        finally:
            adata._init_as_actual(before)
        assert len(trained.get_latent_representation()) == 240

    def refused(self, model, adata, change):
        if change == "log":
            sc.pp.normalize_total(adata)
            sc.pp.log1p(adata)
            match = r"adata\.X holds other values.*logarithms.*layers\['counts'\]"
        elif change == "genes_reordered":
            adata._inplace_subset_var(np.arange(40)[::-1])
            match = "another order"
        elif change == "genes_dropped":
            sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=10, subset=True)
            match = "lacks 30 of 40 features"
        else:
            adata._inplace_subset_obs(np.arange(100))
            match = "has 100 cells, and had 240"
        for verb in self.VERBS.values():
            with pytest.raises(ValueError, match=match):
                verb(model)

    def test_values_permuted_under_the_same_names(self, model):
        model.adata.X = model.adata.X[:, ::-1]
        with pytest.raises(ValueError, match=r"adata\.X holds other values"):
            model.log_likelihood()

    def test_the_same_values_in_another_container(self, model):
        expected = model.get_latent_representation()
        x = model.adata.X
        for same in (x.toarray(), sparse.csc_matrix(x), sparse.csr_array(x), x.astype(np.float64)):
            model.adata.X = same
            np.testing.assert_allclose(model.get_latent_representation(), expected, atol=1e-5)

    def test_counts_in_a_layer_survive_normalisation(self):
        adata = make_types()
        adata.layers["counts"] = adata.X.copy()
        model = train_types(adata, layer="counts", steps=10)
        before = model.log_likelihood(progress_bar=False)
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        np.testing.assert_array_equal(model.log_likelihood(progress_bar=False), before)
        real = model.augment(n_per_category={"A": 130}, progress_bar=False)
        assert (real.X.data == real.X.data.round()).all()

    def test_log_normalised_data_that_are_scaled_later(self):
        adata = make_types()
        sc.pp.log1p(adata)
        SCGM.setup_anndata(adata, labels_key="cell_type", is_count_data=False)
        model = SCGM(adata, n_latent=4, n_hidden=8, gene_likelihood="normal")
        model.train(max_epochs=1, diffusion=False)
        sc.pp.scale(adata, zero_center=False)
        with pytest.raises(ValueError, match=r"adata\.X holds other values"):
            model.get_latent_representation()

    def test_a_copy_of_a_model_is_without_cells_that_were_changed(self, model, tmp_path):
        model.adata.X = model.adata.X[:, ::-1]
        with pytest.warns(UserWarning, match="without them: their counts were changed"):
            assert copy.deepcopy(model).adata is None
        with pytest.raises(ValueError, match=r"adata\.X holds other values"):
            model.save(tmp_path / "m", save_anndata=True)
        assert not (tmp_path / "m").exists()
        model.save(tmp_path / "m")
        assert SCGM.load(tmp_path / "m", adata=False).is_diffusion_trained

    def test_columns_are_read_as_they_are_now(self, model):
        before = model.log_likelihood(progress_bar=False)
        swapped = model.adata.obs["cell_type"].map({"A": "B", "B": "A"})
        model.adata.obs["cell_type"] = pd.Categorical(swapped)
        codes = model.adata.obsm["_scvi_scgm_conditions"].copy()
        query = model.adata.copy()
        now = model.log_likelihood(progress_bar=False)
        np.testing.assert_allclose(now, model.log_likelihood(query, progress_bar=False), rtol=1e-5)
        assert np.abs(now - before).mean() > 0
        np.testing.assert_array_equal(model.adata.obsm["_scvi_scgm_conditions"], codes)
        model.train_diffusion(max_steps=2)
        np.testing.assert_array_equal(model.adata.obsm["_scvi_scgm_conditions"], 3 - codes)

    def test_labels_that_the_model_does_not_know(self, model):
        latent = model.get_latent_representation()
        model.adata.obs["cell_type"] = model.adata.obs["cell_type"].astype(str).replace("A", "Z")
        np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)
        with pytest.raises(ValueError, match="'Z' is not a known category of 'cell_type'"):
            model.log_likelihood()
        with pytest.raises(ValueError, match="'Z' is not a known category of 'cell_type'"):
            model.train_diffusion(max_steps=2)

    def test_set_up_for_another_model_since(self, model):
        adata, expected = model.adata, model.log_likelihood(progress_bar=False)
        adata.obs["other"] = np.repeat(["x", "y", "z"], 80)
        scvi.model.SCVI.setup_anndata(adata, batch_key="other")
        np.testing.assert_array_equal(model.log_likelihood(progress_bar=False), expected)
        assert model.summary_stats.n_batch == 2
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2})
        assert set(np.unique(adata.obs["_scvi_batch"])) == {0, 1}

    def test_what_scvi_wrote_is_removed(self, model):
        expected = model.log_likelihood(progress_bar=False)
        adata = model.adata
        adata.obs = adata.obs[["cell_type", "donor"]]
        for key in [k for k in adata.obsm if k.startswith("_scvi")]:
            del adata.obsm[key]
        adata.uns.clear()
        np.testing.assert_allclose(model.log_likelihood(progress_bar=False), expected, rtol=1e-5)
        model.train_diffusion(max_steps=2)


class TestNuisances:
    """Batch, covariates and size factors are there, or refused, or not needed."""

    @pytest.mark.parametrize(
        ("column", "value", "keys", "match"),
        [
            ("donor", None, {"batch_key": "donor"}, "batch_key.*'donor'.*missing for 3 cells"),
            (
                "donor",
                None,
                {"categorical_covariate_keys": ["donor"]},
                "categorical_covariate_keys.*missing for 3 cells .'cell0', 'cell1', 'cell2'.",
            ),
            (
                "age",
                np.nan,
                {"continuous_covariate_keys": ["age"]},
                "continuous_covariate_keys.*'age'.*missing for 3 cells",
            ),
            (
                "size",
                np.nan,
                {"size_factor_key": "size"},
                "size_factor_key.*not above 0 for 3 cells",
            ),
            ("size", 0.0, {"size_factor_key": "size"}, "not above 0 for 3 cells.*the first is 0"),
            ("size", -1.0, {"size_factor_key": "size"}, "not above 0.*the first is -1"),
        ],
    )
    def test_refused_at_set_up(self, column, value, keys, match):
        adata = make_types()
        adata.obs["age"], adata.obs["size"] = 1.5, 2.0
        adata.obs.loc[adata.obs_names[:3], column] = value
        before = copied(adata)
        with pytest.raises(ValueError, match=match):
            SCGM.setup_anndata(adata, **keys)
        unchanged(adata, before)

    @pytest.mark.parametrize("kind", ["labels_key", "condition_keys", "continuous_condition_keys"])
    def test_conditions_without_a_value(self, kind):
        adata = make_types()
        adata.obs["nothing"] = np.nan
        column = "nothing" if kind == "labels_key" else ["nothing"]
        with pytest.raises(ValueError, match=rf"{kind}.*'nothing'.*missing for all 240 cells"):
            SCGM.setup_anndata(adata, **{kind: column})

    def test_nullable_columns(self):
        adata = make_types()
        adata.obs["dose"] = pd.array([1, None, 3, 4] * 60, dtype="Int64")
        adata.obs["treated"] = pd.array([True, None, False, True] * 60, dtype="boolean")
        adata.obs["count"] = pd.array([1, 2] * 120, dtype="UInt8")
        SCGM.setup_anndata(
            adata,
            condition_keys=["treated"],
            continuous_condition_keys=["dose"],
            continuous_covariate_keys=["count"],
        )
        model = SCGM(adata, n_latent=4, n_hidden=8)
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2})
        assert model.condition_spec.categorical["treated"].tolist() == [False, True]
        np.testing.assert_array_equal(adata.obsm["_scvi_scgm_conditions"][:4, 0], [2, 0, 1, 2])
        cells = model.generate(5, {"treated": True, "dose": 2})
        assert cells.obs["treated"].tolist() == [True] * 5

    @pytest.mark.parametrize("what", ["new", "missing", "absent"])
    def test_a_batch_that_the_model_does_not_know(self, trained, query, what):
        expected = trained.get_latent_representation(query)
        if what == "absent":
            del query.obs["donor"]
        else:
            query.obs["donor"] = "d9" if what == "new" else np.nan
        before = copied(query)
        np.testing.assert_allclose(trained.get_latent_representation(query), expected, atol=1e-6)
        known = trained.classify(query, progress_bar=False).idxmax(axis=1)
        assert (known == query.obs["cell_type"].astype(str)).mean() > 0.8
        assert len(trained.ood_score(query)) == 60
        assert np.isfinite(trained.enhance(query, copy=True).layers["scgm_enhanced"]).all()
        unchanged(query, before)
        kind, match = {
            "new": (ValueError, "'d9', which the model was not trained on.*load_query_data"),
            "missing": (ValueError, "missing for 60 cells"),
            "absent": (KeyError, "batch_key: 'donor' is not a column"),
        }[what]
        for verb in (trained.log_likelihood, trained.get_normalized_expression):
            with pytest.raises(kind, match=match):
                verb(query)

    def test_the_batch_that_fits_is_found(self):
        adata = make_types(400)
        x = adata.X.toarray()
        x[adata.obs["donor"] == "d1", :5] += 20  # what donors differ by
        adata.X = sparse.csr_matrix(x)
        model = train_types(adata, epochs=60)
        rows = {}
        with model._registered(adata[:100], Reading(any_nuisance=True)) as cells:
            rows["own"] = np.asarray(cells.obs["_scvi_batch"])
        blind = adata[:100].copy()
        del blind.obs["donor"]
        with model._registered(blind, Reading(any_nuisance=True)) as cells:
            assert (cells.obs["_scvi_batch"] == -1).all()
            (tensors,) = model._make_data_loader(adata=cells, batch_size=100)
            rows["found"] = model._with_nuisances(tensors)[REGISTRY_KEYS.BATCH_KEY].ravel().numpy()
        assert (rows["own"] == rows["found"]).mean() > 0.95

    def test_cells_without_labels(self, trained, query):
        unspecified = query.copy()
        unspecified.obs["cell_type"] = np.nan
        del query.obs["cell_type"]
        for verb in ("denoising_loss", "ood_score", "get_latent_representation"):
            np.testing.assert_allclose(
                getattr(trained, verb)(query), getattr(trained, verb)(unspecified), rtol=1e-5
            )
        with pytest.raises(KeyError, match="'cell_type' is not a column"):
            trained.log_likelihood(query)  # under which conditions?
        trained.log_likelihood(query, conditions={}, progress_bar=False)
        edited = trained.edit(query, {"cell_type": "B"}, strength=0.5, seed=0, copy=True)
        assert "cell_type" not in edited.obs
        trained.get_normalized_expression(query)
