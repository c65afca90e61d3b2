"""What goes by position, or is trained on, is that of the cells at hand, or refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import BRIEF, QUIET, make_mdata, make_multi, make_types, train_types

from scgm_scvi import SCGM, MultiSCGM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, whose probabilities are not calibrated yet."""
    path = tmp_path_factory.mktemp("saved") / "model"
    train_types(make_types(400), epochs=3, steps=5).save(path, save_anndata=True)
    return path


def with_nuisances():
    adata = make_types()
    adata.obs["age"] = np.linspace(0, 1, 240)
    adata.obs["plate"] = ["p", "q"] * 120
    adata.obs["size"] = 1.0
    adata.obs["dose"] = 2.0
    return adata


@pytest.fixture(scope="module")
def steered():
    """A model that reads every kind of column; not to be changed."""
    return train_types(
        with_nuisances(),
        epochs=1,
        steps=2,
        categorical_covariate_keys=["plate"],
        continuous_covariate_keys=["age"],
        continuous_condition_keys=["dose"],
        size_factor_key="size",
    )


class TestHeldOutCells:
    """Rows that were held out are rows of the cells that the model was trained on."""

    @pytest.mark.parametrize("what", ["fewer", "reversed", "other"])
    @pytest.mark.parametrize("way", ["load", "adata"])
    def test_are_forgotten_with_other_cells(self, folder, what, way):
        own = SCGM.load(folder)
        cells = {
            "fewer": own.adata[:100].copy(),
            "reversed": own.adata[::-1].copy(),
            "other": make_types(400, seed=3),
        }[what]
        if way == "load":
            model = SCGM.load(folder, cells)
        else:
            model = SCGM.load(folder, adata=False)
            model.adata = cells
        assert model.validation_indices is None
        with pytest.warns(UserWarning, match="not calibrated: 0 held-out cells"):
            assert len(model.classify(progress_bar=False)) == cells.n_obs
        model.train_diffusion(max_steps=2, **QUIET)

    @pytest.mark.parametrize("way", ["load", "adata", "copy"])
    def test_are_known_of_the_same_cells(self, folder, way):
        own = SCGM.load(folder)
        cells = own.adata.copy()
        cells.obs_names = [f"new{i}" for i in range(400)]
        if way == "adata":
            model = SCGM.load(folder, adata=False)
            model.adata = cells
        else:
            model = SCGM.load(folder, cells if way == "load" else None)
        np.testing.assert_array_equal(model.validation_indices, own.validation_indices)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.classify(progress_bar=False)

    def test_are_read_as_this_model_was_set_up(self, folder):
        expected = SCGM.load(folder).classify(progress_bar=False)
        model = SCGM.load(folder)
        model.adata.obs["half"] = pd.Categorical(np.repeat(["x", "y"], 200))
        SCGM.setup_anndata(model.adata, condition_keys=["half"])
        before = model.adata.obsm["_scvi_scgm_conditions"].copy()
        pd.testing.assert_frame_equal(model.classify(progress_bar=False), expected, atol=1e-5)
        np.testing.assert_array_equal(model.adata.obsm["_scvi_scgm_conditions"], before)


class TestFolders:
    """What lies beside a saved model."""

    def test_cells_of_an_older_model(self, tmp_path):
        train_types(make_types(), epochs=1, steps=2).save(tmp_path / "m", save_anndata=True)
        newer = train_types(make_types(100, seed=2), epochs=1, steps=2)
        newer.save(tmp_path / "m", overwrite=True)
        with pytest.raises(ValueError, match="not those of the model there.*adata=False"):
            SCGM.load(tmp_path / "m")
        assert SCGM.load(tmp_path / "m", newer.adata).validation_indices is not None
        assert SCGM.load(tmp_path / "m", adata=False).adata is None
        newer.save(tmp_path / "m", overwrite=True, save_anndata=True)
        assert SCGM.load(tmp_path / "m").adata.n_obs == 100

    def test_cells_saved_before_further_training(self, folder, tmp_path):
        model = SCGM.load(folder)
        model.save(tmp_path / "m", save_anndata=True)
        model.train(**BRIEF)
        model.save(tmp_path / "m", overwrite=True)
        assert SCGM.load(tmp_path / "m").adata.n_obs == 400

    @pytest.mark.parametrize("adata", [True, "cells.h5ad", pd.DataFrame()])
    def test_no_cells(self, folder, adata):
        with pytest.raises(TypeError, match="adata is a .*; pass cells, as an AnnData, or adata=F"):
            SCGM.load(folder, adata)


class TestAnotherContainer:
    def test_an_anndata_for_a_model_of_mudata(self, tmp_path):
        mdata = make_mdata()
        model = make_multi(mdata, epochs=1, steps=2)
        model.save(tmp_path / "m")
        with pytest.raises(TypeError, match="AnnData, and .*set up with a MuData.*adata=False"):
            MultiSCGM.load(tmp_path / "m", mdata["rna"].copy())
        mdata["rna"].obs["cell_type"] = "CD34+"
        told = r"do not agree. Say which is meant: mdata\.obs\['cell_type'\] = mdata\['rna'\]"
        with pytest.raises(ValueError, match=told):
            model.get_latent_representation()
        mdata["rna"].X = mdata["rna"].X * 2
        with pytest.raises(ValueError, match=r"setup_mudata\(mdata, rna_layer='counts'\)"):
            model.get_latent_representation()


class TestQueries:
    @pytest.mark.parametrize("column", ["cell_type", "donor"])
    def test_categories_of_another_kind(self, folder, column):
        query = make_types(60, seed=1)
        query.obs[column] = 3
        match = rf"'{column}'\] holds 3, and the model's cat.*whole number.*those known are strings"
        with pytest.raises(ValueError, match=match):
            SCGM.load_query_data(query, SCGM.load(folder, adata=False))

    def test_encoders_that_read_the_batch(self):
        adata = make_types()
        SCGM.setup_anndata(adata, batch_key="donor", labels_key="cell_type")
        model = SCGM(adata, n_latent=4, n_hidden=8, encode_covariates=True)
        model.train(max_epochs=1, diffusion=False, **QUIET)
        adata = make_types(60, seed=1)
        adata.obs["donor"] = "d9"
        with pytest.raises(ValueError, match="unless the model was made with encode_covariates"):
            model.get_latent_representation(adata)


class TestColumnsChangedSince:
    """The model's own columns are trained on, and read, only if set-up would take them."""

    @pytest.mark.parametrize(
        ("column", "value", "match"),
        [
            ("donor", None, "batch_key.*'donor'.*missing for 240 cells"),
            ("donor", "d9", "batch_key.*'d9', which the model was not trained on"),
            ("plate", None, "categorical_covariate_keys.*'plate'.*missing for 240"),
            ("plate", "r", "'r', which the model was not trained on"),
            ("age", np.nan, "continuous_covariate_keys.*missing for 240 cells"),
            ("age", np.inf, "continuous_covariate_keys.*'age'.*infinite"),
            ("size", 0.0, "size_factor_key.*not above 0"),
            ("size", np.nan, "size_factor_key.*not above 0"),
            ("dose", True, "continuous_condition_keys.*booleans"),
            ("cell_type", "Z", "'Z' is not a known category"),
        ],
    )
    def test_are_refused_before_training(self, steered, column, value, match, tmp_path):
        adata, old = steered.adata, steered.adata.obs.copy()
        before = {k: v.clone() for k, v in steered.module.state_dict().items()}
        try:
            adata.obs[column] = value
            for verb in (
                lambda: steered.train(**BRIEF),
                lambda: steered.train_diffusion(max_steps=1, **QUIET),
                lambda: steered.log_likelihood(progress_bar=False),
                lambda: steered.get_normalized_expression(),
                lambda: steered.save(tmp_path / "m", save_anndata=True),
            ):
                with pytest.raises(ValueError, match=match):
                    verb()
        finally:
            adata.obs = old
        assert steered.is_trained_
        assert all(v.equal(before[k]) for k, v in steered.module.state_dict().items())

    @pytest.mark.parametrize("column", ["donor", "plate", "age", "size", "dose", "cell_type"])
    def test_are_gone(self, steered, column):
        adata, old = steered.adata, steered.adata.obs.copy()
        try:
            del adata.obs[column]
            with pytest.raises(KeyError, match=column):
                steered.train(**BRIEF)
        finally:
            adata.obs = old
        assert steered.is_trained_

    @pytest.mark.parametrize("column", ["donor", "plate", "age"])
    def test_latents_do_without(self, steered, column):
        adata, old = steered.adata, steered.adata.obs.copy()
        expected = steered.get_latent_representation()
        try:
            adata.obs[column] = np.nan if column == "age" else None
            np.testing.assert_allclose(steered.get_latent_representation(), expected, atol=1e-6)
        finally:
            adata.obs = old
