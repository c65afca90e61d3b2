"""Importance weights are those of the prior that a model has."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from helpers import QUIET
from scipy import sparse
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from scvi.model import SCVI
from scvi.model.base import RNASeqMixin

from scgm_scvi import ATACSCGM, SCGM
from scgm_scvi.model.verbs._importance import _at
from scgm_scvi.module import OpenFeatures

N, GENES = 120, 15


def make_cells(normal: bool = False) -> AnnData:
    """Two types of cells of few genes and few counts, whose posteriors are wide."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 1.0, (2, GENES))
    types = np.arange(N) % 2
    x = rng.poisson(rates[types] * rng.gamma(4, 0.5, (N, 1))).astype(np.float32)
    x[:, 0] += 1
    adata = AnnData(sparse.csr_matrix(np.log1p(x) if normal else x))
    adata.obs["cell_type"] = np.array(["A", "B"])[types]
    adata.obs["size"] = x.sum(axis=1) / 10
    return adata


def make_model(likelihood="nb", epochs=100, **setup) -> SCGM:
    adata = make_cells(likelihood == "normal")
    scvi.settings.seed = 0
    SCGM.setup_anndata(adata, is_count_data=likelihood != "normal", **setup)
    model = SCGM(
        adata,
        n_latent=2,
        n_hidden=16,
        dispersion="gene",
        gene_likelihood=likelihood,
        n_components=4,
    )
    prior = model.module.prior.requires_grad_(False)  # else of two dimensions much like N(0, 1)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[2.0, 3.0], [3.0, 2.0], [2.0, 2.0], [3.0, 3.0]]))
    plan = {"lr": 1e-2}
    model.train(
        max_epochs=epochs, batch_size=30, diffusion=False, train_size=1.0, plan_kwargs=plan, **QUIET
    )
    return model


def weights_of(model, n_samples=200, mc=3000, rows=np.arange(10), **kwargs):
    """Samples of the posteriors, what they decode to, and their weights."""
    torch.manual_seed(0)
    tensors = next(iter(model._make_data_loader(adata=model.adata, indices=rows, batch_size=99)))
    with torch.inference_mode():
        inference, generative = model.module.forward(
            tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False
        )
    z, px = inference["z"], generative["px"]
    w = model.get_importance_weights(
        model.adata,
        rows,
        inference["qz"],
        px,
        z,
        n_mc_samples=mc,
        n_mc_samples_per_pass=min(mc, 500),
        **kwargs,
    )
    return z.reshape(-1, 2), px, w


def integrated(model, rows=np.arange(10)):
    """Mean share of each gene, and second moments of the latent, over the cells' true posteriors.

    By a sum over a grid.
    """
    line = torch.linspace(-8, 8, 161)
    grid = torch.cartesian_prod(line, line)
    x = torch.as_tensor(model.adata.X[rows].toarray())
    with torch.inference_mode():
        size = torch.zeros(len(grid), 1)
        px = model.module.generative(grid, size, torch.zeros(len(grid), 1))["px"]
        each = [_at(px, n[None], None).log_prob(c).sum(1) for c, n in zip(x, x.sum(1), strict=True)]
        log_p = torch.stack(each) + model.module.log_prior(grid)
    p = log_p.double().softmax(dim=1).mean(dim=0)
    return moments(p.numpy(), grid, px.get_normalized("scale"))


def moments(w, z, share):
    z, share = z.numpy().astype(float), share.reshape(-1, GENES).numpy().astype(float)
    return w @ share, np.einsum("n,ni,nj", w, z, z).ravel()


def n_effective(w):
    return 1 / np.square(w).sum()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_against_a_sum_over_a_grid(model, likelihood):
    model = model if likelihood == "nb" else make_model(likelihood)
    z, px, w = weights_of(model)
    assert w.sum() == pytest.approx(1)
    share = px.get_normalized("scale")
    (means, spread), (found, found_spread) = integrated(model), moments(w, z, share)
    np.testing.assert_allclose(found, means, rtol=0.05, atol=2e-3)
    np.testing.assert_allclose(found_spread, spread, rtol=0.06)
    # what scvi-tools takes for the prior would not do
    kept = model.module.log_prior
    model.module.log_prior = lambda z: torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    off = moments(weights_of(model)[2], z, share)[1]
    model.module.log_prior = kept
    assert np.abs(off - spread).max() > 5 * np.abs(found_spread - spread).max()


def test_more_samples_count(model, monkeypatch):
    own = n_effective(weights_of(model, n_samples=40)[2])
    monkeypatch.setattr(SCGM, "get_importance_weights", RNASeqMixin.get_importance_weights)
    assert own > 20 * n_effective(weights_of(model, n_samples=40)[2])


def test_cut_off(model):
    whole, cut = (weights_of(model, n_samples=10, truncation=t)[2] for t in (False, True))
    assert cut.sum() == pytest.approx(1)
    assert cut.max() <= whole.max() + 1e-9
    assert n_effective(cut) >= n_effective(whole)


def test_models_of_scvi_keep_their_weights():
    adata = make_cells()
    SCVI.setup_anndata(adata)
    scvi.settings.seed = 0
    theirs = SCVI(adata, n_latent=2, n_hidden=8)
    theirs.train(max_epochs=2, **QUIET)
    theirs.module.eval()
    ours = SCGM.from_scvi_model(theirs)
    found = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(weights_of(model, n_samples=5, mc=20)[2])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("sized", [False, True])
def test_every_likelihood(likelihood, sized):
    model = make_model(likelihood, epochs=1, **({"size_factor_key": "size"} if sized else {}))
    few = {"n_mc_samples": 4, "n_mc_samples_per_pass": 2, "n_samples_overall": 30}
    cells = model.get_normalized_expression(
        indices=list(range(12)), weights="importance", return_numpy=True, **few
    )
    assert cells.shape == (30, GENES)
    assert np.isfinite(cells).all()
    few["importance_weighting_kwargs"] = {
        k: few.pop(k) for k in ("n_mc_samples", "n_mc_samples_per_pass")
    }
    table = model.differential_expression(
        groupby="cell_type", weights="importance", silent=True, **few
    )
    assert len(table) == 2 * GENES
    assert np.isfinite(table["bayes_factor"]).all()


def test_a_distribution_at_another_size():
    size, own = torch.tensor([[2.0], [10.0]]), torch.tensor([[5.0], [4.0]])
    share = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    theta, logits = torch.ones(2, 2), torch.zeros(2, 2)
    nb = {"mu": share * own, "theta": theta, "scale": share}
    for px in (
        NegativeBinomial(**nb),
        ZeroInflatedNegativeBinomial(**nb, zi_logits=logits),
        Poisson(share * own),
    ):
        for factors in (None, own):
            found = _at(px, size, factors)
            mean = found.mu if isinstance(px, NegativeBinomial) else found.mean
            torch.testing.assert_close(mean, share * size)
    odds = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    px = OpenFeatures(odds * own / (1 + odds * own), odds.log())
    torch.testing.assert_close(_at(px, size, None).probs, odds * size / (1 + odds * size))
    torch.testing.assert_close(_at(px, own, None).probs, px.probs)


@pytest.mark.parametrize("likelihood", ["poisson", "nb", "bernoulli"])
def test_peaks(likelihood):
    adata = make_cells()
    ATACSCGM.setup_anndata(adata, labels_key="cell_type")
    model = ATACSCGM(adata, n_latent=2, n_hidden=8, peak_likelihood=likelihood)
    model.train(max_epochs=1, diffusion=False, **QUIET)
    few = {"n_mc_samples": 4, "n_mc_samples_per_pass": 2, "n_samples_overall": 30}
    found = model.get_normalized_accessibility(weights="importance", return_numpy=True, **few)
    assert found.shape == (30, GENES)
    assert ((found > 0) & (found < 1)).all()


def test_a_latent_after_a_softmax():
    adata = make_cells()
    SCVI.setup_anndata(adata)
    theirs = SCVI(adata, n_latent=2, n_hidden=8, latent_distribution="ln")
    theirs.train(max_epochs=1, **QUIET)
    with pytest.raises(ValueError, match='after a softmax.*weights="uniform"'):
        weights_of(SCGM.from_scvi_model(theirs), n_samples=2, mc=2)


def test_values_that_are_no_counts():
    model = make_model("normal", epochs=1)
    with pytest.raises(ValueError, match="'normal'. Use weights=\"uniform\""):
        model.get_normalized_expression(weights="importance", n_samples_overall=5)
    assert model.get_normalized_expression(n_samples=2).shape == model.adata.shape
