"""Classes of cells: probabilities that are ones, from the cells alone, and calibrated once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import QUIET, SMALL, make_adata
from scipy.special import logit

from scgm_scvi import SCGM
from scgm_scvi.model.prior import _class_evidence
from scgm_scvi.model.verbs import _classification

FAST = {"n_samples": 2, "n_levels": 3}


def classify(model, *args, **kwargs):
    return model.classify(*args, progress_bar=False, **{**FAST, **kwargs})


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A copy that was never asked to classify."""
    path = tmp_path_factory.mktemp("classification") / "model"
    before = model.fitted_.pop("classifier", None)
    model.save(path)
    if before is not None:
        model.fitted_["classifier"] = before
    return path


@pytest.fixture
def own(saved):
    """A model to change."""
    return SCGM.load(saved, make_adata())


@pytest.fixture(scope="module")
def types(model):
    return classify(model)


def exact(means):
    """A network whose denoiser is that of N(mean of the type, 1) in every coordinate."""

    def forward(self, x, noise, tokens, values):
        sigma = (4 * noise).exp()[:, None]
        total = (1 + sigma**2).sqrt()
        m = means.to(x)[tokens[:, 0]][:, None]
        denoised = m + (x * total - m) / total**2
        return (denoised - x / total) * total / sigma

    return forward


class TestProbabilities:
    def test_what_comes_back(self, model, types):
        assert isinstance(types, pd.DataFrame)
        pd.testing.assert_index_equal(types.index, model.adata.obs_names)
        known = model.adata.obs["cell_type"].astype("category").cat.categories
        assert list(types.columns) == list(known)
        np.testing.assert_allclose(types.sum(axis=1), 1)
        assert ((types >= 0) & (types <= 1)).all().all()

    def test_better_than_chance(self, model, types):
        """Seconds of training; the cells that are tested were held out."""
        truth = model.adata.obs["cell_type"].astype(str)
        held_out = model.validation_indices
        right = (types.idxmax(axis=1).to_numpy() == truth.to_numpy())[held_out].mean()
        assert right > truth.value_counts(normalize=True).max() + 0.15
        told = types.to_numpy()[held_out, types.columns.get_indexer(truth.iloc[held_out])]
        assert -np.log(told).mean() < 0.7 * np.log(10)  # and it knows how sure it is

    def test_nothing_is_read_out_of_noise(self, model):
        """Stimulation was drawn at random: probabilities stay near their frequencies."""
        told = classify(model, key="stimulation")
        assert list(told.columns) == ["IFNb", "control"]
        assert (told["IFNb"] - 0.5).abs().mean() < 0.2

    def test_key_is_the_labels_key_unless_named(self, model, types):
        pd.testing.assert_frame_equal(classify(model, key="cell_type"), types)

    def test_indices_and_order(self, model):
        rows = [600, 3, 5, 0]
        some = classify(model, indices=rows)
        assert list(some.index) == list(model.adata.obs_names[rows])
        pd.testing.assert_frame_equal(some, classify(model, make_adata()[rows]))
        mask = np.isin(np.arange(700), rows)
        assert list(classify(model, indices=mask).index) == list(model.adata.obs_names[mask])
        assert classify(model, indices=[]).shape == (0, 10)

    def test_seed(self, model):
        a, b, c = (classify(model, indices=range(30), seed=s) for s in (0, 0, 1))
        pd.testing.assert_frame_equal(a, b)
        assert np.abs(a - c).to_numpy().max() > 1e-6

    def test_prior(self, model):
        """Log-odds differ by those of the frequencies, and by nothing else."""
        train, uniform = (
            np.log(classify(model, indices=range(50), prior=p)) for p in ("train", "uniform")
        )
        tokens = model.fitted_["design"]["tokens"][:, 0]
        counts = np.bincount(tokens, minlength=11)[1:] + 1  # one more, so that none is 0
        difference = (train - uniform).to_numpy()
        difference = difference - difference[:, :1]
        want = np.log(counts) - np.log(counts[0])
        np.testing.assert_allclose(difference, np.tile(want, (50, 1)), atol=1e-6)

    def test_classes_of_known_latent(self, model, monkeypatch):
        """With stage two exact and stage one silent, they are those of Bayes' rule."""
        network = type(model.module.denoiser.network)
        means = torch.linspace(-2, 2, 11)
        monkeypatch.setattr(network, "forward", exact(means))
        monkeypatch.setattr(model, "_classifier_weights", lambda *_: (1.0, 0.0))
        x = model.module.denoiser.standardize(model._encode_cells()[0][:40]).double().numpy()
        told = classify(model, indices=range(40), prior="uniform", n_samples=100, n_levels=5)
        got = np.log(told.to_numpy())

        def log_p(sigma):
            """Of posterior samples with noise of a level: on average that of their mean."""
            distance = (x[:, None] - means[1:, None].numpy()) ** 2
            return -distance.sum(axis=2) / (2 * (1 + sigma**2))

        want = log_p(_class_evidence._SIGMA_MIN) - log_p(_class_evidence._SIGMA_MAX)
        odds = lambda a: (a[:, :-1] - a[:, 1:]).ravel()
        slope, _ = np.polyfit(odds(want), odds(got), 1)
        assert slope == pytest.approx(1, abs=0.02)
        assert np.corrcoef(odds(want), odds(got))[0, 1] > 0.99


class TestLabelsAreNotLookedAt:
    @pytest.mark.parametrize("how", ["permuted", "missing", "never seen", "gone"])
    def test_the_column(self, model, how):
        adata = make_adata()[::9].copy()
        want = classify(model, adata)
        if how == "permuted":
            adata.obs["cell_type"] = adata.obs["cell_type"].to_numpy()[::-1]
        elif how == "missing":
            adata.obs["cell_type"] = np.nan
        elif how == "never seen":
            adata.obs["cell_type"] = "new type"
        else:
            del adata.obs["cell_type"]
        pd.testing.assert_frame_equal(classify(model, adata), want)

    def test_of_the_models_own_data(self, model, types):
        adata = make_adata()
        del adata.obs["cell_type"]
        pd.testing.assert_frame_equal(classify(model, adata), types)

    def test_other_conditions_are(self, model):
        adata = make_adata()[:60].copy()
        want = classify(model, adata)
        adata.obs["dose"] = 10 - adata.obs["dose"]
        assert np.abs(classify(model, adata) - want).to_numpy().max() > 1e-6
        del adata.obs["dose"]
        with pytest.raises(KeyError, match="'dose' is not a column"):
            classify(model, adata)

    def test_cells_stay_as_they_are(self, model):
        adata = make_adata()[:20].copy()
        obs, keys = adata.obs.copy(), (set(adata.uns), set(adata.obsm))
        classify(model, adata)
        pd.testing.assert_frame_equal(adata.obs, obs)
        assert (set(adata.uns), set(adata.obsm)) == keys


class TestCalibration:
    def test_weights_are_those_of_greatest_likelihood(self, own, monkeypatch):
        """They beat their neighbours on the cells they were fitted to."""
        classify(own)
        [(a, b)] = own.fitted_["classifier"]["weights"].values()
        rows, labels = own._held_out("cell_type", own.adata)
        assert set(rows) == set(own.validation_indices)

        def loss(weights):
            monkeypatch.setattr(own, "_classifier_weights", lambda *_: weights)
            told = classify(own, indices=rows).to_numpy()[np.arange(len(rows)), labels]
            prior = (np.log(weights) - np.log(_class_evidence.UNCALIBRATED)) ** 2
            return -np.log(told).sum() + prior.sum() / 2

        best = loss((a, b))
        for f in (0.8, 1.25):
            assert loss((f * a, b)) > best
            assert loss((a, f * b)) > best

    def test_known_weights_are_found(self):
        """Labels drawn with given weights: the fit finds these."""
        rng = np.random.default_rng(0)
        latent, features = rng.normal(size=(2, 4000, 5)) * [[[2.0]], [[20.0]]]
        prior = np.log([0.4, 0.3, 0.1, 0.1, 0.1])
        logits = 0.7 * latent + 0.11 * features + prior
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        a, b = _classification._fit(latent, features, prior, labels)
        assert a == pytest.approx(0.7, rel=0.1)
        assert b == pytest.approx(0.11, rel=0.1)

    def test_saved_and_restored(self, own, tmp_path):
        want = classify(own, indices=range(30))
        own.save(tmp_path / "model")
        loaded = SCGM.load(tmp_path / "model", adata=False)
        assert loaded.fitted_["classifier"] == own.fitted_["classifier"]
        # nor is there a warning: warnings are errors here
        got = classify(loaded, make_adata()[:30])
        np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_never_calibrated(self, own, saved):
        loaded = SCGM.load(saved, adata=False)
        with pytest.warns(UserWarning, match="not calibrated: 0 held-out cells.*and save") as seen:
            told = classify(loaded, make_adata()[:30])
        (warning,) = (w for w in seen if "not calibrated" in str(w.message))
        assert warning.filename == __file__  # where the user called
        np.testing.assert_allclose(told.sum(axis=1), 1)
        with pytest.warns(UserWarning, match="not calibrated"):  # each time
            classify(loaded, make_adata()[:3])
        assert "classifier" not in loaded.fitted_

    def test_numbers_of_their_own(self, own):
        """What was asked before changes no answer."""
        few, many = {"n_samples": 1, "n_levels": 1}, {"n_samples": 2, "n_levels": 12}
        first = classify(own, indices=range(30), **many)
        classify(own, indices=range(30), **few)
        assert set(own.fitted_["classifier"]["weights"]) == {
            ("cell_type", 2, 12),
            ("cell_type", 1, 1),
        }
        assert len(set(own.fitted_["classifier"]["weights"].values())) == 2
        del own.fitted_["classifier"]
        classify(own, indices=range(30), **few)
        pd.testing.assert_frame_equal(classify(own, indices=range(30), **many), first)

    def test_fitted_once(self, own, monkeypatch):
        fits = []
        fit = _classification._fit
        monkeypatch.setattr(_classification, "_fit", lambda *a: fits.append(1) or fit(*a))
        for _ in range(2):
            classify(own, indices=range(5))
        assert len(fits) == 1
        own.train_diffusion(max_steps=5, **QUIET)  # other networks, other weights
        classify(own, indices=range(5))
        assert len(fits) == 2

    def test_weights_of_other_networks_are_no_use_without_data(self, own, tmp_path):
        classify(own, indices=range(5))
        own.train_diffusion(max_steps=5, **QUIET)
        own.save(tmp_path / "model")
        loaded = SCGM.load(tmp_path / "model", adata=False)
        with pytest.warns(UserWarning, match="not calibrated"):
            classify(loaded, make_adata()[:5])

    def test_trained_on_all_cells(self, adata):
        SCGM.setup_anndata(adata, labels_key="cell_type")
        model = SCGM(adata, **SMALL)
        model.train(
            max_epochs=1, train_size=1.0, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET
        )
        with pytest.warns(UserWarning, match="not calibrated: 0 held-out cells"):
            told = classify(model, indices=range(5))
        assert np.isfinite(logit(told.to_numpy().clip(1e-12, 1 - 1e-12))).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"key": "celltype"}, KeyError, "no attribute 'celltype'. Did you mean 'cell_type'"),
        ({"key": "dose"}, KeyError, "no attribute 'dose'.*Known: 'cell_type', 'stimulation'"),
        ({"key": "donor"}, KeyError, "no attribute 'donor'.*Known: 'cell_type'"),
        ({"prior": "flat"}, ValueError, "prior is 'flat'; use 'train' or 'uniform'"),
        ({"n_samples": 0}, ValueError, "n_samples is 0"),
        ({"n_samples": 1.5}, ValueError, r"n_samples is 1\.5"),
        ({"n_levels": 0}, ValueError, "n_levels is 0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_requests(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        classify(model, **kwargs)


def test_before_stage_two_and_without_conditions(adata):
    SCGM.setup_anndata(adata)
    model = SCGM(adata, **SMALL)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        classify(model)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    with pytest.raises(KeyError, match="no attribute 'cell_type'.*Known: none"):
        classify(model)


def test_minified_data(adata):
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = (
        model.get_latent_representation(return_dist=True)
    )
    model.minify_adata()
    with pytest.raises(ValueError, match="minified.*adata=False"):
        classify(model)
