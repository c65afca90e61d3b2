"""The log-likelihood of cells: closed forms, whose conditions count, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import QUIET, SMALL, make_adata
from scipy.stats import norm

from scgm_scvi import SCGM


def score(model, *args, **kwargs):
    return model.log_likelihood(*args, progress_bar=False, **kwargs)


def states(model):
    """Means of the cells' states, in the units of the latent."""
    mean, _, _ = model._encode_cells()
    return mean.double().numpy()


@pytest.fixture
def gaussian(model, monkeypatch):
    """The exact denoiser of N(m, 0.3²) in standardised units; m grows with the type's token."""

    def forward(self, x, noise, tokens, values):
        sigma = (4 * noise).exp()[:, None]
        total = (1 + sigma**2).sqrt()
        m = 0.1 * tokens[:, :1]
        denoised = m + 0.09 / (0.09 + sigma**2) * (x * total - m)
        return (denoised - x / total) * total / sigma

    monkeypatch.setattr(type(model.module.denoiser.network), "forward", forward)


@pytest.fixture(scope="module")
def scores(model):
    return score(model)


class TestClosedForms:
    def test_standard_normal(self, model, monkeypatch):
        network = type(model.module.denoiser.network)
        monkeypatch.setattr(network, "forward", lambda self, x, *_: torch.zeros_like(x))
        shift, scale = (
            b.numpy() for b in (model.module.denoiser.shift, model.module.denoiser.scale)
        )
        z = states(model)
        want = norm.logpdf(z, shift, scale).sum(axis=1)
        got = score(model)
        assert got.shape == (700,)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got / 13, want / 13, atol=1e-3)

    def test_conditional_normal(self, model, gaussian):
        """With another mean for each type: that of the cell, or the one that is asked for."""
        denoiser = model.module.denoiser
        x = denoiser.standardize(torch.as_tensor(states(model)[:50])).double().numpy()
        log_scale = denoiser.scale.double().log().sum().item()
        tokens = model._encode_cells()[2]["tokens"][:50, 0]
        categories = model.condition_spec.categorical["cell_type"]
        for conditions, own in (
            (None, tokens),
            ({}, 0 * tokens),
            ({"cell_type": categories[6]}, 0 * tokens + 7),
        ):
            m = 0.1 * own[:, None]
            widening = ((0.09 + 80.0**2) / (0.09 + 0.002**2)) ** 0.5
            noise = m + (x - m) * widening  # where the flow ends, in what is taken for N(0, ...)
            want = (norm.logpdf(noise, 0, (1 + 80.0**2) ** 0.5) + np.log(widening)).sum(axis=1)
            got = score(model, indices=range(50), conditions=conditions, tolerance=1e-5)
            np.testing.assert_allclose(got + log_scale, want, atol=13e-3)

    def test_units_are_those_of_the_latent(self, model, gaussian, monkeypatch):
        """A latent that is twice as wide, by the denoiser's own account, is half as dense."""
        before = score(model, indices=range(20))
        denoiser = model.module.denoiser
        encode = model.module.encode_state
        scale = torch.linspace(0.5, 3.0, 13)
        monkeypatch.setattr(
            model.module,
            "encode_state",
            lambda tensors: tuple(
                denoiser.shift + (t - denoiser.shift) * scale for t in encode(tensors)
            ),
        )
        own = denoiser.scale.clone()
        try:
            denoiser.scale.mul_(scale)
            after = score(model, indices=range(20))
        finally:
            denoiser.scale.copy_(own)
        np.testing.assert_allclose(after, before - scale.log().sum().item(), atol=1e-3)


class TestCells:
    def test_indices_and_order(self, model):
        rows = np.array([600, 3, 5, 0])
        options = {"trace": "exact", "tolerance": 3e-4}
        got = score(model, indices=rows, **options)
        assert np.abs(got[:, None] - got)[np.triu_indices(4, 1)].min() > 0.1
        alone = [score(model, indices=[i], **options)[0] for i in rows]
        np.testing.assert_allclose(got, alone, atol=0.08)
        mask = np.isin(np.arange(700), rows)
        ordered = score(model, indices=mask, **options)
        np.testing.assert_allclose(ordered, got[np.argsort(rows)], atol=0.08)
        assert score(model, indices=[]).shape == (0,)

    def test_features_in_any_order(self, model):
        rows = np.array([600, 3, 5, 0])
        want = score(model, indices=rows)
        view = make_adata()[rows]
        columns = list(view.obs)
        np.testing.assert_array_equal(score(model, view), want)
        assert view.is_view
        assert list(view.obs) == columns
        more = make_adata()[rows].copy()
        more = more[:, np.random.default_rng(0).permutation(more.n_vars)]
        np.testing.assert_allclose(score(model, more), want, rtol=1e-5)
        other = make_adata()[rows, :100].copy()
        other.var_names = [f"other_{i}" for i in range(100)]
        wider = ad.concat([other, make_adata()[rows]], axis=1)
        wider.obs = make_adata()[rows].obs
        np.testing.assert_allclose(score(model, wider), want, rtol=1e-5)

    def test_a_batch_does_not_change_the_cells(self, model):
        options = {"indices": range(12), "trace": "exact", "tolerance": 3e-4}
        whole = score(model, **options)
        np.testing.assert_allclose(score(model, batch_size=5, **options), whole, atol=0.08)

    def test_typical_cells_are_likelier_than_noise(self, model, scores):
        adata = make_adata()
        rng = np.random.default_rng(0)
        x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
        adata.X = rng.permuted(x, axis=0).astype(np.float32)  # genes of different cells
        adata.X[:, 0] += 1  # no cell without counts
        strange = score(model, adata)
        assert strange.mean() < scores.mean()


class TestConditions:
    def test_own_and_unspecified(self, model, scores):
        own, none = scores[:100], score(model, indices=range(100), conditions={})
        assert np.abs(own - none).max() > 1e-2
        blank = make_adata().obs[["cell_type", "stimulation", "dose"]].iloc[:100].astype(object)
        blank[:] = None
        np.testing.assert_array_equal(score(model, indices=range(100), conditions=blank), none)
        adata = make_adata()[:100].copy()
        for column in blank:
            adata.obs[column] = np.nan
        np.testing.assert_array_equal(score(model, adata), none)

    def test_a_frame_has_a_row_a_cell(self, model):
        rows = np.array([600, 3, 5, 0, 17])
        frame = make_adata().obs[["cell_type", "stimulation", "dose"]].iloc[rows]
        own = score(model, indices=rows)
        # in batches: each takes its own rows
        for size in (512, 2):
            want = score(model, indices=rows, batch_size=size)
            got = score(model, indices=rows, conditions=frame, batch_size=size)
            np.testing.assert_array_equal(got, want)
        by_name = score(model, indices=rows, conditions=frame.iloc[::-1])
        np.testing.assert_array_equal(by_name, own)
        wrong = score(model, indices=rows, conditions=frame.iloc[::-1].reset_index(drop=True))
        assert np.abs(wrong - own).max() > 1e-3

    def test_nuisances_are_the_cells_own_unless_named(self, model):
        rows = np.flatnonzero(make_adata().obs["donor"] == "d1")[:10]
        none = score(model, indices=rows, conditions={})
        np.testing.assert_array_equal(score(model, indices=rows, conditions={"donor": "d1"}), none)
        other = score(model, indices=rows, conditions={"donor": "d2"})
        assert np.abs(other - none).max() > 1e-4

    def test_columns_are_needed_only_where_they_count(self, model):
        adata = make_adata()[:20].copy()
        want = score(model, adata, conditions={"cell_type": "CD34+"})
        adata.obs["cell_type"] = "never seen"
        np.testing.assert_array_equal(score(model, adata, conditions={"cell_type": "CD34+"}), want)
        with pytest.raises(ValueError, match="'never seen' is not a known category"):
            score(model, adata)
        del adata.obs["cell_type"], adata.obs["dose"]
        np.testing.assert_array_equal(score(model, adata, conditions={"cell_type": "CD34+"}), want)
        with pytest.raises(KeyError, match="'cell_type' is not a column"):
            score(model, adata)
        del adata.obs["donor"]  # no condition: nothing stands for it
        with pytest.raises(KeyError, match="'donor' is not a column"):
            score(model, adata, conditions={})

    def test_the_same_probes_under_every_condition(self, model):
        """So that the scatter of probes cancels where conditions are compared."""
        a, b = (
            np.stack(
                [
                    score(model, indices=range(40), conditions=c, seed=s, n_probes=1)
                    for s in range(6)
                ]
            )
            for c in ({"cell_type": "CD34+"}, {"cell_type": "CD19+ B"})
        )
        assert (a - b).std(axis=0).mean() < 0.5 * a.std(axis=0).mean()


class TestTrace:
    def test_probes_agree_with_the_exact_trace(self, model):
        exact = score(model, indices=range(60), trace="exact")
        few, many = (
            np.abs(score(model, indices=range(60), n_probes=n) - exact).mean() for n in (1, 64)
        )
        assert many < 0.1 * exact.std()
        assert many < few / 4

    def test_seed(self, model):
        a, b, c = (score(model, indices=range(20), seed=s) for s in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 1e-4


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"conditions": {"celltype": "CD34+"}}, KeyError, "'celltype'.*Did you mean 'cell_type'"),
        ({"conditions": {"cell_type": "CD34"}}, ValueError, "'CD34' is not a known category"),
        ({"conditions": {"cell_type": ["CD34+"] * 3}}, ValueError, "3 values for 5 cells"),
        ({"conditions": pd.DataFrame({"dose": [1.0, 2.0]})}, ValueError, "2 values for 5 cells"),
        ({"conditions": ["CD34+"]}, TypeError, "conditions is a list"),
        ({"trace": "full"}, ValueError, "trace is 'full'; use 'hutchinson' or 'exact'"),
        ({"n_probes": 0}, ValueError, "n_probes is 0"),
        ({"tolerance": 0}, ValueError, "tolerance is 0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_requests(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        score(model, indices=range(5), **kwargs)


def test_before_stage_two_and_stale_after_stage_one(adata):
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, **SMALL)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        score(model)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    assert np.isfinite(score(model, indices=range(5))).all()
    model.train(max_epochs=1, diffusion=False, **QUIET)
    with pytest.raises(RuntimeError, match="Stage two is stale"):
        score(model)


def test_without_data(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match="adata has to be given"):
        score(loaded)
    few = make_adata()[:5]
    np.testing.assert_array_equal(score(loaded, few), score(model, few))
