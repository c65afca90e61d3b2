"""What the package can be given from outside: a class or a function, and an entry in a registry.

Likelihoods are in ``distributions/test_likelihoods.py``, kinds of conditions in
``model/requests/test_kinds.py``, sources of cells in ``atlas/test_sources.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, SMALL, make_types
from scvi.model import LinearSCVI
from scvi.module import LDVAE

from scgm_scvi import SCGM
from scgm_scvi.diffusion import (
    GRIDS,
    NOISE_PROCESSES,
    SAMPLERS,
    NoiseProcess,
    Sampler,
    SamplerOutput,
)
from scgm_scvi.metrics import TWO_SAMPLE_METRICS, evaluate_generation
from scgm_scvi.model import PRETRAINED, PretrainedMixin
from scgm_scvi.module import LabelsModuleMixin

DENOISER = SMALL["denoiser_kwargs"]
ASKED = {"progress_bar": False, "seed": 0}


class DiffusionLDVAE(LabelsModuleMixin, LDVAE):
    """A module of scvi-tools that this package does not know, and a denoiser."""


class DiffusionLinear(PretrainedMixin, LinearSCVI):
    """A model of scvi-tools that this package does not know."""

    _module_cls = DiffusionLDVAE


@pytest.fixture(scope="module")
def linear():
    scvi.settings.seed = 0
    adata = make_types()
    LinearSCVI.setup_anndata(adata, labels_key="cell_type")
    theirs = LinearSCVI(adata, n_latent=6)
    theirs.train(max_epochs=30, **QUIET)
    PRETRAINED[LinearSCVI] = DiffusionLinear
    model = SCGM.from_scvi_model(theirs, denoiser_kwargs=DENOISER)
    model.train_diffusion(max_steps=200, **QUIET)
    yield theirs, model
    del PRETRAINED[LinearSCVI]


def test_a_model_of_scvi_tools(linear, tmp_path):
    theirs, model = linear
    want = theirs.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), want)
    cells = model.generate(30, {"cell_type": "A"}, **ASKED)
    assert (cells.obs["cell_type"] == "A").all() and cells.X.sum() > 0
    out = model.edit(model.adata[:5].copy(), {"cell_type": "B"}, strength=0.5, copy=True, **ASKED)
    assert out.layers["scgm_edited"].shape == (5, 40)
    assert model.classify(model.adata[:5].copy(), **ASKED).shape == (5, 2)
    assert model.impute(model.adata[:5, 10:].copy(), n_fit_steps=2, **ASKED).n_vars == 10
    assert np.isfinite(model.get_loadings()).all().all()  # what LinearSCVI alone has
    model.save(tmp_path / "linear")
    again = DiffusionLinear.load(tmp_path / "linear", model.adata)
    same = again.generate(30, {"cell_type": "A"}, **ASKED)
    np.testing.assert_array_equal(same.obsm["X_scgm"], cells.obsm["X_scgm"])


def straight_down(denoise, x, sigmas, *, generator=None, callback=None):
    """The crudest sampler: one step from the first level to none."""
    return SamplerOutput(denoise(x, sigmas[0]).double(), 1)


def test_a_sampler(linear, monkeypatch):
    _, model = linear
    monkeypatch.setitem(SAMPLERS, "straight_down", Sampler(straight_down, default_steps=1))
    cells = model.generate(30, {"cell_type": "A"}, sampler="straight_down", **ASKED)
    assert cells.uns["scgm"]["sampler"] == "straight_down"
    again = model.generate(30, {"cell_type": "A"}, sampler="straight_down", **ASKED)
    usual = model.generate(30, {"cell_type": "A"}, **ASKED)
    np.testing.assert_array_equal(cells.obsm["X_scgm"], again.obsm["X_scgm"])
    assert np.abs(cells.obsm["X_scgm"] - usual.obsm["X_scgm"]).max() > 0.1


def test_a_grid(linear, monkeypatch):
    def halved(n_steps, sigma_min, sigma_max):
        return torch.cat([sigma_max * 0.5 ** torch.arange(n_steps).double(), torch.zeros(1)])

    _, model = linear
    monkeypatch.setitem(GRIDS, "halved", halved)
    cells = model.generate(
        30, {"cell_type": "A"}, sampling_kwargs={"grid": "halved"}, n_steps=12, **ASKED
    )
    assert cells.uns["scgm"]["grid"] == "halved"
    usual = model.generate(
        30, {"cell_type": "A"}, sampling_kwargs={"grid": "karras"}, n_steps=12, **ASKED
    )
    assert np.abs(cells.obsm["X_scgm"] - usual.obsm["X_scgm"]).max() > 0.01


def test_a_noise_process(monkeypatch):
    levels = []

    def drawn(n, *, generator=None, device=None):
        levels.append(n)
        u = torch.rand(n, generator=generator, device=device)
        return 0.01 * (80 / 0.01) ** u  # even in the logarithm

    usual = NOISE_PROCESSES["edm"]
    even = NoiseProcess(**{**vars(usual), "levels": drawn})
    monkeypatch.setitem(NOISE_PROCESSES, "even", even)
    scvi.settings.seed = 0
    adata = make_types(60)
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, n_latent=4, n_hidden=8, noise="even", denoiser_kwargs=DENOISER)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 3, **QUIET}, **QUIET)
    assert levels
    assert model.generate(3, {"cell_type": "A"}, **ASKED).n_obs == 3


def test_a_metric(monkeypatch):
    def depth_gap(x, y):
        return abs(np.median(x.depth) - np.median(y.depth))

    monkeypatch.setitem(TWO_SAMPLE_METRICS, "depth_gap", depth_gap)
    real, made = make_types(200, seed=1), make_types(200, seed=2)
    made.X = made.X * 2
    table = evaluate_generation(made, real, condition_key="cell_type")
    row = table[(table.metric == "depth_gap") & (table.condition == table.condition.iloc[0])]
    assert row["value"].item() > 10 * row["floor"].item()
