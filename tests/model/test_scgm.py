"""SCGM as an scvi-tools model: training, saving, and all that SCVI gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, SMALL, make_adata, make_model

import scgm_scvi
from scgm_scvi import SCGM


def test_latents_are_written(model):
    latent = model.adata.obsm["X_scgm"]
    assert latent.shape == (700, 12)
    assert latent.dtype == np.float32
    np.testing.assert_allclose(latent, model.get_latent_representation())


def test_history_of_both_stages(model):
    assert {"elbo_train", "elbo_validation", "diffusion_loss_train"} <= set(model.history)
    loss = model.history["diffusion_loss_train"].iloc[:, 0]
    assert loss.iloc[-1] < 1
    elbo = model.history["elbo_train"].iloc[:, 0].astype(float)
    assert elbo.iloc[-1] < elbo.iloc[0]


def test_report_follows_scvi_s_verbosity(adata, caplog):
    import logging

    logging.getLogger("scvi").propagate, before = True, logging.getLogger("scvi").propagate
    try:
        with caplog.at_level("INFO", logger="scvi"):
            make_model(adata, epochs=1, steps=2)
    finally:
        logging.getLogger("scvi").propagate = before
    assert "of 12 latent dimensions active" in caplog.text
    assert "held-out cells" in caplog.text


def test_diffusion_leaves_stage_one_as_it_was(adata):
    model = make_model(adata, epochs=2, steps=5)
    kept = model.train_indices, model.history_["elbo_train"].copy(), model.trainer
    weights = {k: v.clone() for k, v in model.module.state_dict().items()}
    model.train_diffusion(max_steps=10, **QUIET)
    assert model.train_indices is kept[0]
    assert model.trainer is kept[2]
    assert model.history_["elbo_train"].equals(kept[1])
    for k, v in model.module.state_dict().items():
        if not k.startswith("denoiser."):
            assert torch.equal(v, weights[k]), k
    assert not any(p.requires_grad for p in model.module.denoiser.parameters())


def elbo_of_validation_cells(model, seed=0):
    torch.manual_seed(seed)
    return -float(model.get_elbo(indices=model.validation_indices))


def test_last_epoch_is_kept(adata):
    model = make_model(adata, epochs=3, steps=5)
    curve = model.history_["elbo_validation"].iloc[:, 0].astype(float)
    assert len(curve) == 3
    assert model.fitted_["kept_epoch"] == 2
    # one posterior sample a cell: noisy, but of the same size
    assert elbo_of_validation_cells(model) == pytest.approx(curve.iloc[-1], rel=0.02)
    assert model.diagnose()["elbo_validation"] == curve.iloc[-1]


def test_early_stopping_needs_held_out_cells(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match="needs held-out cells.*train_size"):
        SCGM(adata, **SMALL).train(max_epochs=1, train_size=1.0, early_stopping=True, **QUIET)


def test_early_stopping_keeps_the_best_epoch(adata):
    SCGM.setup_anndata(adata, labels_key="cell_type")
    scvi.settings.seed = 0
    model = SCGM(adata, **SMALL)
    plan = {"plan_kwargs": {"lr": 0.3}}  # too fast: the curve goes up and down
    # no epoch is better by so much: it stops as soon as it may
    stopping = {"early_stopping_patience": 9, "early_stopping_min_delta": 1e6}
    model.train(max_epochs=40, early_stopping=True, diffusion=False, **plan, **stopping, **QUIET)
    curve = model.history_["elbo_validation"].iloc[:, 0].astype(float)
    allowed = curve[curve.index >= 40 // 4]
    assert len(curve) < 40
    assert model.fitted_["kept_epoch"] == allowed.idxmin()
    assert elbo_of_validation_cells(model) == pytest.approx(allowed.min(), rel=0.02)


def test_training_on_all_cells(adata):
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, **SMALL)
    settings = {"max_steps": 5, **QUIET}
    model.train(max_epochs=2, train_size=1.0, diffusion_kwargs=settings, **QUIET)
    assert len(model.train_indices) == 700
    assert "gap" not in model.diagnose()
    assert model.generate(3, progress_bar=False).n_obs == 3


def test_diagnosis(model):
    d = model.diagnose()
    assert 2 <= d["active_dimensions"] <= d["latent_dimensions"] == 12
    assert d["kl"] > 0
    assert d["gap"] == pytest.approx(d["elbo_validation"] / d["elbo_train"] - 1)
    SCGM.setup_anndata(a := make_adata())
    with pytest.raises(RuntimeError, match="not trained"):
        SCGM(a, **SMALL).diagnose()


def test_scvi_methods(model):
    normalized = model.get_normalized_expression(library_size=1e4, n_samples=2)
    np.testing.assert_allclose(normalized.sum(axis=1), 1e4, rtol=1e-3)
    assert model.get_normalized_expression(transform_batch="d1").shape == (700, 765)
    assert np.isfinite(float(model.get_elbo()))
    assert np.isfinite(float(model.get_marginal_ll(n_mc_samples=4)))
    assert np.isfinite(float(model.get_reconstruction_error()["reconstruction_loss"]))
    assert model.posterior_predictive_sample(indices=range(5)).shape == (5, 765)
    de = model.differential_expression(groupby="cell_type", group1="CD34+", silent=True)
    assert len(de) == 765
    assert model.get_likelihood_parameters(indices=range(5))["mean"].shape == (5, 765)


def test_marginal_likelihood_is_above_the_elbo(model):
    elbo = float(model.get_elbo())
    assert float(model.get_marginal_ll(n_mc_samples=50)) > elbo


def test_minified(adata):
    model = make_model(adata, epochs=2, steps=5)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = (
        model.get_latent_representation(return_dist=True)
    )
    model.minify_adata()
    assert model.adata.X.nnz == 0
    model.train_diffusion(max_steps=5, **QUIET)
    assert model.generate(5, progress_bar=False).n_vars == 765
    assert model.get_normalized_expression().shape == (700, 765)


@pytest.mark.parametrize("likelihood", ["zinb", "poisson", "normal"])
def test_other_likelihoods(adata, likelihood):
    if likelihood == "normal":
        adata.X.data = np.log1p(adata.X.data)
    SCGM.setup_anndata(adata, labels_key="cell_type", is_count_data=likelihood != "normal")
    model = SCGM(adata, gene_likelihood=likelihood, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    cells = model.generate(10, {"cell_type": "CD34+"}, seed=0, progress_bar=False)
    assert np.isfinite(cells.X.data).all()
    if likelihood != "normal":
        assert (cells.X.data == np.rint(cells.X.data)).all()


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_other_dispersions(adata, dispersion):
    SCGM.setup_anndata(adata, labels_key="cell_type", batch_key="donor")
    model = SCGM(adata, dispersion=dispersion, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    assert model.generate(3, seed=0, progress_bar=False).shape == (3, 765)


def test_size_factors(adata):
    adata.obs["size"] = adata.obs["n_counts"] / adata.obs["n_counts"].mean()
    SCGM.setup_anndata(adata, labels_key="cell_type", size_factor_key="size")
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    state, _ = model.module.encode_state(
        next(iter(model._make_data_loader(adata=adata, batch_size=700)))
    )
    np.testing.assert_allclose(state[:, -1].exp(), adata.obs["size"], rtol=1e-4)
    assert np.isfinite(model.generate(3, seed=0, progress_bar=False).X.data).all()


def test_without_any_condition(adata):
    SCGM.setup_anndata(adata)
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    cells = model.generate(4, seed=0, progress_bar=False)
    assert list(cells.obs.columns) == []


def test_load_gives_the_same_cells_in_a_fresh_process(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    cells = model.generate(
        20, {"cell_type": "CD34+"}, guidance_scale=1.5, seed=5, progress_bar=False
    )
    script = (
        "import sys, scgm_scvi, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "m = scgm_scvi.SCGM.load(sys.argv[1] + '/model')\n"
        "c = m.generate(20, {'cell_type': 'CD34+'}, guidance_scale=1.5, seed=5,"
        " progress_bar=False)\n"
        "c.write_h5ad(sys.argv[1] + '/cells.h5ad')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
    import anndata as ad

    loaded = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (loaded.X != cells.X).nnz == 0
    np.testing.assert_array_equal(loaded.obsm["X_scgm"], cells.obsm["X_scgm"])
    assert loaded.uns["scgm"]["model"] == cells.uns["scgm"]["model"]


def test_training_data_survive_disk(model, tmp_path):
    import anndata as ad

    model.adata.write_h5ad(tmp_path / "adata.h5ad")
    back = ad.read_h5ad(tmp_path / "adata.h5ad")
    np.testing.assert_array_equal(back.obsm["X_scgm"], model.adata.obsm["X_scgm"])
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=back)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.adata.obsm["X_scgm"], rtol=1e-5, atol=1e-6
    )


def test_diffusion_on_other_data_uses_all_of_them(model, tmp_path):
    """The split of stage one is of stage one's cells."""
    model.save(tmp_path / "model")
    other = make_adata()[:300].copy()
    loaded = SCGM.load(tmp_path / "model", adata=other)
    train, validation = loaded._stage_one_split(300)
    assert len(train) == 300
    assert len(validation) == 0


def test_load_without_data_can_generate(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=False)
    cells = loaded.generate(5, {"cell_type": "CD34+"}, seed=5, progress_bar=False)
    assert list(cells.var_names) == list(model.adata.var_names)


def test_load_refuses_another_class_and_another_version(model, tmp_path):
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "model.pt"
    saved = torch.load(path, weights_only=False)
    broken = dict(saved, model_state_dict=dict(saved["model_state_dict"]))
    broken["model_state_dict"].pop("prior.means")
    broken["attr_dict"] = dict(saved["attr_dict"], scgm_version_="9.0.0")
    torch.save(broken, path)
    with pytest.raises(RuntimeError, match=r"saved by scgm_scvi 9\.0\.0.*this is "):
        SCGM.load(tmp_path / "model", adata=make_adata())


def test_query_with_a_new_batch_and_a_new_type(tmp_path):
    adata = make_adata()
    query = adata[:150].copy()
    reference = make_model(adata, epochs=2, steps=5)
    query.obs["donor"] = "new"
    query.obs["cell_type"] = query.obs["cell_type"].astype(str)
    query.obs.iloc[:60, query.obs.columns.get_loc("cell_type")] = "novel"
    del query.obs["stimulation"]  # unspecified throughout
    model = SCGM.load_query_data(query, reference)
    assert model.condition_spec.categorical["cell_type"][-1] == "novel"
    old = reference.module.denoiser.network.conditions.tables[0].weight
    new = model.module.denoiser.network.conditions.tables[0].weight
    torch.testing.assert_close(new[: len(old)], old)  # the null token and old types stay put
    with pytest.raises(RuntimeError, match="not fine-tuned yet"):
        model.generate(5)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    cells = model.generate(5, {"cell_type": "novel"}, seed=0, progress_bar=False)
    assert (cells.obs["donor"] == "new").all()


def test_bigger_model_runs_in_one_line():
    adata = scgm_scvi.datasets.pbmc68k()
    SCGM.setup_anndata(adata, labels_key="cell_type")
    assert SCGM(adata).module.n_latent == 256
