"""Denoised cells: the formulas, what is written, and that they are nearer to the truth."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import QUIET, SMALL, make_adata
from scipy import sparse, stats
from scipy.special import xlogy
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from scgm_scvi import SCGM
from scgm_scvi.model.prior import _posterior
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.prior._posterior import Posterior, at_depth, fit_posterior, zero_probability
from scgm_scvi.model.verbs._enhancement import rates_given_counts

KEY = "scgm_enhanced"


def enhance(model, adata, **kwargs):
    kwargs = {"seed": 0, "n_samples": 4, "n_fit_steps": 5, "progress_bar": False, **kwargs}
    return model.enhance(adata, **kwargs)


def enhanced(model, adata, **kwargs):
    return enhance(model, adata, copy=True, **kwargs).layers[KEY]


def cells_of(n) -> ad.AnnData:
    return make_adata()[:n].copy()


class TestRates:
    """Against sums over a fine grid of rates."""

    MU, THETA, PI = 3.0, 0.7, 0.4

    @pytest.mark.parametrize("x", [0, 1, 8])
    @pytest.mark.parametrize("pi", [0.0, 0.4])
    def test_negative_binomial_with_and_without_inflated_zeros(self, x, pi):
        rate = np.exp(np.linspace(-25, 5, 200_001))
        prior = stats.gamma(self.THETA, scale=self.MU / self.THETA).pdf(rate) * rate
        prior *= (1 - pi) / prior.sum()
        joint = prior * stats.poisson(rate).pmf(x)
        want = (joint * rate).sum() / (joint.sum() + pi * (x == 0))
        mu, theta = torch.tensor([[self.MU]]), torch.tensor([[self.THETA]])
        px = NegativeBinomial(mu=mu, theta=theta)
        if pi:
            logits = torch.logit(torch.tensor([[pi]]))
            px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits)
        got = rates_given_counts(px, torch.tensor([[float(x)]]))
        assert got.item() == pytest.approx(want, rel=1e-3)

    def test_the_rate_of_a_poisson_is_known(self):
        rate = torch.tensor([[2.0, 3.0]])
        assert (rates_given_counts(Poisson(rate), torch.tensor([[0.0, 9.0]])) == rate).all()

    @pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
    def test_probability_of_zero_and_depth(self, name):
        mu = torch.tensor([[0.01, 1.0, 20.0]])
        theta = torch.tensor([[0.5, 2.0, 1e4]])
        logits = torch.tensor([[-1.0, 0.0, 1.0]])
        px = {
            "nb": NegativeBinomial(mu=mu, theta=theta),
            "zinb": ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits),
            "poisson": Poisson(mu),
        }[name]
        zero = px.log_prob(torch.zeros_like(mu)).exp()
        torch.testing.assert_close(zero_probability(px), zero, rtol=1e-3, atol=1e-7)
        columns, depth = torch.tensor([2, 0]), torch.tensor([[3.0]])
        part = at_depth(px, depth, columns)
        assert type(part) is type(px)
        torch.testing.assert_close(part.mean, 3 * px.mean[:, columns])
        if name != "poisson":
            torch.testing.assert_close(part.theta, theta[:, columns])


class TestPosterior:
    """Where everything is Gaussian, the posterior is known."""

    def test_of_a_linear_gaussian_model(self, model, monkeypatch):
        tensors = next(iter(model._minibatches(cells_of(3))))
        start = fit_posterior(model.prior, tensors, 0, torch.Generator())
        scale = model.module.denoiser.scale[:-1]
        target, error = 1.5, 0.5  # an observation of each latent, and its standard deviation

        class Observed(torch.distributions.Normal):
            mean = torch.zeros(1)

        class Exact(LatentPrior):
            def denoiser(self, *_, **__):  # of N(0, 1)
                return lambda x, s: x / (1 + s**2)

        monkeypatch.setattr(_posterior, "_decoded_at_depth", lambda q, u, *_: (u, q.log_size))
        monkeypatch.setattr(
            _posterior,
            "log_likelihood",
            lambda u, x: -((u - target) ** 2).sum(dim=1) / (2 * error**2),
        )
        prior = Exact(model.module, model.condition_spec, model.prior.design)
        out = fit_posterior(prior, tensors, 400, torch.Generator().manual_seed(0))
        precision = 1 / error**2 + 1 / (1 + 0.2**2)
        want = target / error**2 / precision
        assert out.mean.shape == start.mean.shape == (3, len(scale))
        assert out.mean.mean().item() == pytest.approx(want, abs=0.05)
        assert (out.mean - want).abs().max() < 0.4
        assert out.std.median().item() == pytest.approx(precision**-0.5, rel=0.1)

    def test_no_steps_is_the_encoder(self, model):
        tensors = next(iter(model._minibatches(cells_of(4))))
        out = fit_posterior(model.prior, tensors, 0, torch.Generator())
        mean, variance = model.module.encode_state(tensors)
        torch.testing.assert_close(out.latents, mean[:, :-1].clone())
        scale = model.module.denoiser.scale[:-1]
        torch.testing.assert_close((out.std * scale) ** 2, variance[:, :-1].clone())

    def test_finds_a_cell_that_the_encoder_takes_for_another(self, model, monkeypatch):
        tensors = next(iter(model._minibatches(cells_of(60))))
        encode = model.module.encode_state

        def other(tensors):
            mean, variance = (s.clone() for s in encode(tensors))
            return torch.cat([mean[:, :-1].roll(7, dims=0), mean[:, -1:]], dim=1), variance

        def fit(n_fit_steps):
            q = fit_posterior(model.prior, tensors, n_fit_steps, torch.Generator().manual_seed(0))
            with torch.no_grad():
                px = q.decode(q.mean)
            return px.log_prob(tensors["X"]).sum(dim=1).mean().item()

        right = fit(0)
        monkeypatch.setattr(model.module, "encode_state", other)
        wrong = fit(0)
        assert wrong < right
        assert fit(40) > (wrong + right) / 2

    def test_a_cell_does_not_depend_on_its_company(self, model):
        draws = Posterior(model.prior, None, torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 1))
        a, b = (draws.draw(torch.Generator().manual_seed(s)) for s in (0, 0))
        assert (a == b).all()
        # without noise between them: the encoder's posterior, many samples
        both, one = (enhanced(model, cells_of(n), n_fit_steps=0, n_samples=400) for n in (2, 1))
        np.testing.assert_allclose(np.log1p(both[:1]), np.log1p(one), atol=0.4)

    def test_the_model_stays_as_it_is(self, model):
        before = {k: v.clone() for k, v in model.module.state_dict().items()}
        model.module.zero_grad()
        enhance(model, cells_of(3), copy=True)
        assert all(p.grad is None for p in model.module.parameters())
        for k, v in model.module.state_dict().items():
            assert torch.equal(v, before[k])


class TestWhatIsWritten:
    def test_in_place_beside_what_is_there(self, model, tmp_path):
        adata, before = cells_of(6), cells_of(6)
        assert enhance(model, adata) is None
        assert (adata.X != before.X).nnz == 0
        pd.testing.assert_frame_equal(adata.obs, before.obs)
        assert set(adata.layers) - set(before.layers) == {KEY}
        assert set(adata.obsm) - set(before.obsm) == {"X_" + KEY}
        assert set(adata.uns) - set(before.uns) == {KEY}
        layer = adata.layers[KEY]
        assert layer.dtype == np.float32
        assert (layer > 0).all()
        np.testing.assert_allclose(layer.sum(axis=1), 1e4, rtol=1e-4)
        assert adata.obsm["X_" + KEY].shape == (6, 12)
        uns = adata.uns[KEY]
        assert (uns["own_counts"], uns["n_samples"], uns["n_fit_steps"]) == (True, 4, 5)
        assert (uns["seed"], uns["class"]) == (0, "SCGM")
        adata.write_h5ad(tmp_path / "cells.h5ad")
        back = ad.read_h5ad(tmp_path / "cells.h5ad")
        np.testing.assert_array_equal(back.layers[KEY], layer)
        assert dict(back.uns[KEY]) == uns

    @pytest.mark.parametrize("view", [True, False])
    def test_a_copy(self, model, view):
        adata = make_adata()[:5] if view else cells_of(5)
        out = enhance(model, adata, copy=not view, key_added="x")
        assert adata.is_view == view
        assert "x" not in adata.layers
        assert "x" not in adata.uns
        assert set(out.layers) >= {"x"}
        assert out.obsm["X_x"].shape == (5, 12)
        assert (out.X != adata.X).nnz == 0

    def test_seed(self, model):
        a, b, c = (enhanced(model, cells_of(5), seed=s) for s in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 1e-3
        fresh = {
            enhance(model, cells_of(1), seed=None, copy=True).uns[KEY]["seed"] for _ in range(2)
        }
        assert len(fresh) == 2

    def test_genes_in_another_order(self, model):
        adata = cells_of(4)
        turned = adata[:, ::-1].copy()
        np.testing.assert_array_equal(enhanced(model, turned)[:, ::-1], enhanced(model, adata))

    def test_dense_counts(self, model):
        adata = cells_of(4)
        dense = adata.copy()
        dense.X = adata.X.toarray()
        np.testing.assert_array_equal(enhanced(model, dense), enhanced(model, adata))

    def test_conditions_may_be_missing(self, model):
        adata = cells_of(4)
        bare, empty = adata.copy(), adata.copy()
        bare.obs = bare.obs.drop(columns=["cell_type", "stimulation", "dose"])
        empty.obs[["cell_type", "stimulation", "dose"]] = np.nan
        np.testing.assert_array_equal(enhanced(model, bare), enhanced(model, empty))
        assert np.abs(enhanced(model, bare) - enhanced(model, adata)).max() > 1e-3

    def test_samples_are_averaged(self, model):
        """Of many samples the error is smaller, and no sample is scaled by another."""
        adata = cells_of(3)
        few, many, more = (
            np.log1p(enhanced(model, adata, n_samples=n, n_fit_steps=0, seed=n))
            for n in (1, 100, 300)
        )
        assert np.abs(many - more).mean() < np.abs(few - more).mean() / 3

    def test_decoder_alone(self, model):
        """One sample of the encoder's posterior, decoded by hand."""
        adata = cells_of(4)
        got = enhanced(model, adata, own_counts=False, n_samples=1, n_fit_steps=0, seed=3)
        tensors = next(iter(model._minibatches(adata)))
        generator = torch.Generator().manual_seed(3)
        q = fit_posterior(model.prior, tensors, 0, generator)
        denoiser = model.module.denoiser
        z = q.draw(generator) * denoiser.scale[:-1] + denoiser.shift[:-1]
        with torch.no_grad():
            px = model.module.decode_state(torch.cat([z, q.log_size], dim=1), tensors)
        want = px.mean / px.mean.sum(dim=1, keepdim=True) * 1e4
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4)
        whole = rates_given_counts(px, torch.as_tensor(adata.X.toarray()))
        whole = whole / whole.sum(dim=1, keepdim=True) * 1e4
        own = enhanced(model, adata, n_samples=1, n_fit_steps=0, seed=3)
        np.testing.assert_allclose(own, whole.numpy(), rtol=1e-4)


def test_predicts_the_other_half_of_a_cell(model):
    """Better than that half, than the decoder, and than the training cells' mean."""
    rng = np.random.default_rng(0)
    adata = make_adata()[::3].copy()
    x = adata.X.toarray().astype(int)
    half = rng.binomial(x, 0.5)
    known = (half.sum(axis=1) > 0) & ((x - half).sum(axis=1) > 0)
    adata, other = adata[known].copy(), (x - half)[known]
    adata.X = sparse.csr_matrix(half[known].astype(np.float32))

    def deviance(p):
        mean = p / p.sum(axis=1, keepdims=True) * other.sum(axis=1, keepdims=True)
        return 2 * (xlogy(other, other / np.maximum(mean, 1e-12)) - other + mean).mean()

    mean = np.asarray(make_adata().X.mean(axis=0)).ravel()[None]
    raw = half[known] / half[known].sum(axis=1, keepdims=True)
    scores = {
        "enhanced": deviance(enhanced(model, adata, n_fit_steps=20, n_samples=10)),
        "decoder": deviance(enhanced(model, adata, n_fit_steps=20, n_samples=10, own_counts=False)),
        "raw": min(deviance((1 - w) * raw + w * mean / mean.sum()) for w in (0.1, 0.4, 0.7, 1)),
    }
    assert scores["enhanced"] < scores["decoder"]
    assert scores["enhanced"] < scores["raw"]


@pytest.mark.parametrize("likelihood", ["zinb", "poisson", "normal"])
def test_other_likelihoods(likelihood):
    adata = make_adata()
    adata = adata[(adata.obs["cell_type"] == "CD19+ B").to_numpy()]
    adata = adata[:, np.ravel((adata.X > 0).sum(axis=0)) > 10]
    adata = adata[np.ravel(adata.X.sum(axis=1)) > 0].copy()
    if likelihood == "normal":
        adata.X = np.log1p(adata.X.toarray())
    SCGM.setup_anndata(adata, labels_key="cell_type", is_count_data=likelihood != "normal")
    model = SCGM(adata, gene_likelihood=likelihood, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    layer = enhanced(model, adata[:5])
    assert np.isfinite(layer).all()
    if likelihood == "normal":
        assert np.abs(layer.sum(axis=1) - 1e4).max() > 100
        with pytest.raises(ValueError, match="gene_likelihood='normal'; imputing needs counts"):
            model.impute(adata[:5, ::2])
    else:
        np.testing.assert_allclose(layer.sum(axis=1), 1e4, rtol=1e-4)
        out = model.impute(adata[:5, ::2], n_fit_steps=2, progress_bar=False)
        assert np.isfinite(out.X.data).all()
        assert (out.layers["upper"] >= out.layers["lower"]).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"n_samples": 0}, ValueError, "n_samples is 0"),
        ({"n_fit_steps": -1}, ValueError, "n_fit_steps is -1"),
        ({"batch_size": 1.5}, ValueError, r"batch_size is 1\.5"),
        ({"key_added": None}, TypeError, "key_added is None"),
    ],
)
def test_bad_requests(model, kwargs, error, match):
    adata = cells_of(3)
    with pytest.raises(error, match=match):
        enhance(model, adata, **kwargs)
    assert KEY not in adata.layers


def test_bad_cells(model):
    adata = cells_of(3)
    unknown = ad.concat([adata, adata[:, :2].copy()], axis=1, merge="first", index_unique="-")
    with pytest.raises(ValueError, match=r"does not know.*model.var_.index"):
        enhance(model, unknown)
    with pytest.raises(ValueError, match="lacks 1 of the"):
        enhance(model, adata[:, 1:].copy())
    adata.X = adata.X.multiply([[1], [0], [1]]).tocsr()
    with pytest.raises(ValueError, match="1 cells without any count"):
        enhance(model, adata)
    assert KEY not in adata.layers


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).enhance(adata)
