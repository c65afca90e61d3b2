"""Genes that were not measured: the formulas, what comes back, and that it is near the truth."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SMALL, make_adata
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from scgm_scvi import SCGM
from scgm_scvi.model.prior._posterior import fit_posterior, mean_log1p
from scgm_scvi.model.verbs._imputation import _n_inside, _predicted, narrowest_interval


def impute(model, adata, genes=None, **kwargs):
    kwargs = {"seed": 0, "n_fit_steps": 5, "progress_bar": False, **kwargs}
    return model.impute(adata, genes, **kwargs)


def panel_of(n, n_genes=500) -> ad.AnnData:
    return make_adata()[:n, :n_genes].copy()


class TestNarrowestInterval:
    @given(st.lists(st.integers(0, 6), min_size=3, max_size=12), st.data())
    def test_against_all_pairs(self, draws, data):
        k = data.draw(st.integers(1, len(draws)))
        low, high = narrowest_interval(torch.tensor(draws, dtype=torch.float32)[:, None], k)
        inside = sum(low.item() <= d <= high.item() for d in draws)
        assert inside >= k
        ends = sorted(set(draws))
        widths = [
            b - a for a in ends for b in ends if a <= b and sum(a <= d <= b for d in draws) >= k
        ]
        assert high - low == min(widths)

    def test_is_zero_where_most_draws_are(self):
        draws = torch.tensor([0.0] * 92 + [1.0] * 8)[:, None]
        assert [end.item() for end in narrowest_interval(draws, 92)] == [0, 0]
        assert [end.item() for end in narrowest_interval(draws, 93)] == [0, 1]

    @pytest.mark.parametrize("interval", [0.5, 0.9])
    def test_holds_the_probability_asked_for(self, interval):
        """Of a skewed density, whose narrowest interval begins at 0."""
        generator = torch.Generator().manual_seed(0)
        draws = -torch.rand(100, 5000, generator=generator).log()
        low, high = narrowest_interval(draws, _n_inside(interval, 100))
        covered = (-low).exp() - (-high).exp()
        # choosing the narrowest costs a little
        assert interval - 0.05 < covered.mean().item() < interval + 0.01
        assert high.median().item() == pytest.approx(-np.log(1 - interval), rel=0.1)


@pytest.mark.parametrize("mu", [0.02, 0.7, 6.0])
@pytest.mark.parametrize("theta", [0.4, 3.0, 1e3])
@pytest.mark.parametrize("factor", [2.0, 30.0])
def test_mean_log1p(mu, theta, factor):
    """Against the sum over counts."""
    x = np.arange(2000)
    pmf = stats.nbinom(theta, theta / (theta + mu)).pmf(x)
    want = (pmf * np.log1p(factor * x)).sum()
    px = NegativeBinomial(mu=torch.tensor([[mu]]), theta=torch.tensor([[theta]]))
    mean, counted = mean_log1p(px, torch.tensor([[factor]]))
    assert counted.item() == pytest.approx(1 - pmf[0], rel=1e-3)
    assert mean.item() == pytest.approx(want, rel=0.05)


def test_mean_log1p_of_other_counts():
    rate, logits = torch.tensor([[0.5, 4.0]]), torch.tensor([[0.3, -1.0]])
    theta = torch.tensor([[2.0, 2.0]])
    generator = np.random.default_rng(0)
    lam = generator.gamma(2, rate.numpy() / 2, (200_000, 2))
    x = generator.poisson(lam) * (generator.random((200_000, 2)) < torch.sigmoid(-logits).numpy())
    px = ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=logits)
    mean, counted = mean_log1p(px, torch.tensor([[5.0]]))
    np.testing.assert_allclose(counted[0], (x > 0).mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(mean[0], np.log1p(5 * x).mean(axis=0), rtol=0.05)
    x = generator.poisson(rate.numpy(), (200_000, 2))
    mean, counted = mean_log1p(Poisson(rate), torch.tensor([[5.0]]))
    np.testing.assert_allclose(counted[0], (x > 0).mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(mean[0], np.log1p(5 * x).mean(axis=0), rtol=0.03)


class TestWhatComesBack:
    def test_cells_by_missing_genes(self, model, tmp_path):
        panel = panel_of(6)
        before = panel.copy()
        out = impute(model, panel)
        assert out.shape == (6, model.adata.n_vars - 500)
        pd.testing.assert_frame_equal(out.obs, before.obs)
        pd.testing.assert_frame_equal(out.var, model.var_.iloc[500:])
        assert sparse.issparse(out.X)
        assert out.X.dtype == np.float32
        # newer anndata lists X there, as None
        assert set(out.layers) - {None} == {"normalized", "std", "lower", "upper"}
        assert (out.layers["lower"] <= out.layers["upper"]).all()
        assert (out.layers["lower"] >= 0).all()
        assert (out.layers["std"] >= 0).all()
        assert (out.layers["normalized"] > 0).all()
        assert out.obsm["X_scgm"].shape == (6, 12)
        uns = out.uns["scgm"]
        assert (uns["interval"], uns["n_measured"], uns["seed"]) == (0.9, 500, 0)
        assert (uns["n_samples"], uns["n_fit_steps"]) == (25, 5)
        # the panel is as it was
        assert (panel.X != before.X).nnz == 0
        pd.testing.assert_frame_equal(panel.obs, before.obs)
        assert panel.uns.keys() == before.uns.keys()
        assert panel.obsm.keys() == before.obsm.keys()
        out.write_h5ad(tmp_path / "cells.h5ad")
        back = ad.read_h5ad(tmp_path / "cells.h5ad")
        assert dict(back.uns["scgm"]) == uns
        np.testing.assert_array_equal(back.layers["upper"], out.layers["upper"])

    def test_genes_that_are_named(self, model):
        """In the order asked for; measured ones are not looked at."""
        panel = panel_of(5)
        names = model.var_.index
        genes = [names[600], names[3], names[550]]
        out = impute(model, panel, genes, n_samples=200)
        assert list(out.var_names) == genes
        assert out.uns["scgm"]["n_measured"] == 499
        other = panel.copy()
        x = other.X.toarray()
        x[:, 3] = 7
        other.X = x
        again = impute(model, other, genes, n_samples=200)
        np.testing.assert_array_equal(again.layers["normalized"], out.layers["normalized"])
        np.testing.assert_array_equal(again.X.toarray(), out.X.toarray())
        # the same as if it had not been there, and in whatever order
        without = impute(model, panel[:, panel.var_names != names[3]], genes[::-1], n_samples=200)
        turned = without[:, genes]
        np.testing.assert_array_equal(turned.layers["upper"], out.layers["upper"])
        np.testing.assert_array_equal(turned.X.toarray(), out.X.toarray())

    def test_other_genes_dense_counts_and_another_order(self, model):
        panel = panel_of(4)
        want = impute(model, panel)
        more = panel[:, :3].copy()
        more.var_names = ["x", "y", "z"]
        messy = ad.concat([more, panel[:, ::-1]], axis=1, merge="first")
        messy.X = messy.X.toarray()
        messy.obs = panel.obs
        np.testing.assert_array_equal(impute(model, messy).X.toarray(), want.X.toarray())

    def test_seed(self, model):
        a, b, c = (impute(model, panel_of(4), seed=s) for s in (0, 0, 1))
        for name in ("normalized", "std", "lower", "upper"):
            np.testing.assert_array_equal(a.layers[name], b.layers[name])
            assert np.abs(a.layers[name] - c.layers[name]).max() > 1e-4
        torch.manual_seed(5)
        want = torch.rand(1)
        torch.manual_seed(5)
        impute(model, panel_of(2), n_fit_steps=0)
        assert torch.rand(1) == want  # the global generator is given back

    def test_conditions_may_be_missing(self, model):
        panel = panel_of(4)
        bare, empty = panel.copy(), panel.copy()
        bare.obs = bare.obs.drop(columns=["cell_type", "stimulation", "dose"])
        empty.obs[["cell_type", "stimulation", "dose"]] = np.nan
        np.testing.assert_array_equal(
            impute(model, bare).X.toarray(), impute(model, empty).X.toarray()
        )

    def test_counts_in_a_layer(self, adata):
        adata.layers["counts"] = adata.X.copy()
        SCGM.setup_anndata(adata, layer="counts")
        model = SCGM(adata, **SMALL)
        quiet = {"enable_progress_bar": False}
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **quiet}, **quiet)
        panel = adata[:3, :300].copy()
        want = impute(model, panel)
        panel.X = panel.X * 0
        np.testing.assert_array_equal(impute(model, panel).X.toarray(), want.X.toarray())
        del panel.layers["counts"]
        with pytest.raises(KeyError, match="'counts' is not in adata.layers"):
            impute(model, panel)


class TestWhatItMeans:
    def test_depth_is_that_of_the_measured_genes(self, model, monkeypatch):
        """Draws have the mean of the decoder at the depth that the panel's counts ask for."""
        panel = panel_of(3)
        tensors = next(iter(model._minibatches(model._completed(panel, [])[0])))
        seen = torch.arange(500)
        unseen = torch.arange(500, model.adata.n_vars)
        q = fit_posterior(model.prior, tensors, 0, torch.Generator(), seen)
        q = replace(q, std=torch.zeros_like(q.std))  # one latent a cell
        torch.manual_seed(0)
        args = (torch.Generator(), seen, unseen, torch.arange(len(unseen)))
        mean, normalized, draws = _predicted(q, tensors, 500, *args)
        with torch.no_grad():
            px = replace(q, log_size=torch.zeros(3, 1)).decode(q.mean)
        p = px.mean / px.mean.sum(dim=1, keepdim=True)
        torch.testing.assert_close(normalized, 1e4 * p[:, unseen], rtol=1e-3, atol=1e-4)
        # more of the drawn totals lies within the expected one's noise than not
        drawn = torch.expm1(draws.double()).mean(dim=0) / 1e4
        share = drawn.sum(dim=1)
        torch.testing.assert_close(share, 1 - p[:, seen].sum(dim=1).double(), rtol=0.1, atol=0.01)
        expected = draws.mean(dim=0)
        keep = mean > 0.1
        assert keep.sum() > 20
        ratio = (mean[keep] / expected[keep]).median().item()
        assert ratio == pytest.approx(1, abs=0.1)

    def test_rare_genes_are_zero(self, model):
        out = impute(model, panel_of(50), n_samples=50)
        mean, std = out.X.toarray(), out.layers["std"]
        assert 0 < (mean == 0).mean() < 1
        assert std[mean == 0].max() < std[mean > 0].max()

    def test_wider_intervals_hold_narrower_ones(self, model):
        wide, narrow = (impute(model, panel_of(20), interval=i).layers for i in (0.9, 0.5))
        width = [np.abs(w["upper"] - w["lower"]) for w in (wide, narrow)]
        assert (width[0] >= width[1] - 1e-5).all()
        assert width[0].mean() > width[1].mean()

    def test_is_right_about_cells_of_its_own_kind(self, model):
        """Of cells that the model generates: nearer than the mean, with honest intervals."""
        adata = model.generate(
            300,
            {"donor": "d1", "plate": "p1"},
            seed=1,
            n_steps=10,
            progress_bar=False,
        )
        x = adata.X.toarray()
        true = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
        hidden = np.random.default_rng(0).random(adata.n_vars) < 0.3
        out = impute(model, adata[:, ~hidden], n_fit_steps=20, n_samples=10)
        assert list(out.var_names) == list(adata.var_names[hidden])
        true, mean = true[:, hidden], out.X.toarray()
        error = ((true - mean) ** 2).mean()
        assert error < ((true - true.mean(axis=0)) ** 2).mean()
        assert error == pytest.approx((out.layers["std"] ** 2).mean(), rel=0.1)
        assert mean.mean() == pytest.approx(true.mean(), rel=0.05)
        often = (true > 0).mean(axis=0) > 0.1
        inside = (true >= out.layers["lower"] - 1e-5) & (true <= out.layers["upper"] + 1e-5)
        assert 0.86 < inside[:, often].mean() < 0.94


@pytest.mark.parametrize(
    ("genes", "kwargs", "error", "match"),
    [
        ("CD3D", {}, TypeError, r"genes is the string 'CD3D'; pass a list"),
        (["CD3DD"], {}, KeyError, "does not know 'CD3DD'.* Did you mean 'CD3D'"),
        ([], {}, ValueError, "genes is empty"),
        (["CD3D", "CD3D"], {}, ValueError, "names 'CD3D' twice"),
        (None, {"interval": 1.0}, ValueError, r"interval is 1\.0"),
        (None, {"interval": 90}, ValueError, "interval is 90"),
        (None, {"interval": 0.999}, ValueError, "n_samples has to be at least"),
        (None, {"n_samples": 0}, ValueError, "n_samples is 0"),
        (None, {"n_fit_steps": -1}, ValueError, "n_fit_steps is -1"),
        (None, {"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_requests(model, genes, kwargs, error, match):
    with pytest.raises(error, match=match):
        impute(model, panel_of(3), genes, **kwargs)


def test_as_many_samples_as_an_interval_needs():
    assert _n_inside(0.999, 4 * 750) <= 4 * 750
    assert _n_inside(0.9, 100) == 92


def test_bad_panels(model):
    adata = make_adata()[:3].copy()
    with pytest.raises(ValueError, match="nothing is missing.*genes="):
        impute(model, adata)
    with pytest.raises(ValueError, match="none of the model's features"):
        impute(model, adata, list(adata.var_names))
    other = adata.copy()
    other.var_names = [f"x{i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="none of the model's features.*begin 'x0'"):
        impute(model, other)
    panel = adata[:, :100].copy()
    panel.X = panel.X.multiply([[1], [0], [1]]).tocsr()
    with pytest.raises(ValueError, match="1 cells without any count"):
        impute(model, panel)
    with pytest.raises(TypeError, match="adata is a str"):
        impute(model, "panel.h5ad")


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).impute(adata[:, :10])
