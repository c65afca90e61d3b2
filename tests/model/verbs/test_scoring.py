"""The denoising loss of a cell: its formula, its independence of other cells, what it tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import QUIET, SMALL, make_adata

from scgm_scvi import SCGM
from scgm_scvi.diffusion import lognormal_sigmas


@pytest.fixture(scope="module")
def loss(model):
    return model.denoising_loss()


def test_one_number_a_cell_below_that_of_a_network_that_knows_nothing(model, loss):
    assert loss.shape == (700,)
    assert loss.dtype == np.float64
    assert 0 < loss.mean() < 1
    # the same quantity that training reports, there on posterior samples
    assert loss.mean() < 1.1 * model.history["diffusion_loss_train"].iloc[-1, 0]


def standardized_states(model):
    mean, _, design = model._encode_cells()
    return model.module.denoiser.standardize(mean).double(), design


def test_closed_form_for_a_network_that_says_zero(model, monkeypatch):
    network = type(model.module.denoiser.network)
    monkeypatch.setattr(network, "forward", lambda self, x, *_: torch.zeros_like(x))
    x, _ = standardized_states(model)
    generator = torch.Generator().manual_seed(3)
    sigma = lognormal_sigmas(8, generator=generator).double()
    noise = torch.randn(8, 13, generator=generator).double()
    s, n = sigma[:, None, None], noise[:, None, :]
    want = ((s * x - n).square() / (1 + s**2)).mean(dim=(0, 2))
    got = model.denoising_loss(n_levels=8, seed=3)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_conditions_of_each_cell_reach_the_network(model, monkeypatch):
    _, design = standardized_states(model)
    seen = []
    network = type(model.module.denoiser.network)
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda self, *a: seen.append(a[2:]) or forward(self, *a)
    )
    model.denoising_loss(indices=[7, 3], n_levels=2)
    assert len(seen) == 2
    for tokens, values in seen:
        np.testing.assert_array_equal(tokens, design["tokens"][[7, 3]])
        np.testing.assert_array_equal(values, design["values"][[7, 3]])


def test_a_cell_scores_the_same_whatever_is_scored_with_it(model, loss):
    rows = np.array([600, 3, 5, 0])
    np.testing.assert_allclose(model.denoising_loss(indices=rows), loss[rows], rtol=1e-5)
    np.testing.assert_allclose(model.denoising_loss(batch_size=37), loss, rtol=1e-5)
    view = make_adata()[rows]
    columns = list(view.obs)
    np.testing.assert_allclose(model.denoising_loss(view), loss[rows], rtol=1e-5)
    assert view.is_view
    assert list(view.obs) == columns
    assert model.denoising_loss(indices=[]).shape == (0,)


def test_seed(model, loss):
    np.testing.assert_array_equal(model.denoising_loss(), loss)
    assert np.abs(model.denoising_loss(seed=1) - loss).max() > 1e-3
    # other draws of the noise, the same cells: typical ones stay typical
    first, second = (model.denoising_loss(n_levels=64, seed=s) for s in (0, 1))
    assert np.corrcoef(first, second)[0, 1] > 0.7


def test_more_levels_agree_better(model):
    def scatter(n_levels):
        return np.std([model.denoising_loss(n_levels=n_levels, seed=s) for s in range(8)], axis=0)

    assert scatter(64).mean() < scatter(4).mean() / 2


def test_wrong_labels_are_less_typical(model, loss):
    adata = make_adata()
    adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"])
    wrong = model.denoising_loss(adata)
    assert wrong.mean() > loss.mean() + 3 * (wrong - loss).std() / 700**0.5


def test_minified_data(adata):
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    before = model.denoising_loss()
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = (
        model.get_latent_representation(return_dist=True)
    )
    model.minify_adata()
    np.testing.assert_allclose(model.denoising_loss(), before, rtol=1e-4)
    with pytest.raises(ValueError, match="minified.*Load it with the data"):
        model.denoising_loss(make_adata())
    with pytest.raises(ValueError, match="no counts to augment"):
        model.augment()


@pytest.mark.parametrize("argument", ["n_levels", "batch_size"])
def test_bad_requests(model, argument):
    with pytest.raises(ValueError, match=f"{argument} is 0"):
        model.denoising_loss(**{argument: 0})


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).denoising_loss()
