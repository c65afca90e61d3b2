"""scvi models of chromatin accessibility that are trained already, with a diffusion prior."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from helpers import QUIET, SILENT
from model.scvi_models.priors import COVARIATES, DENOISER, KEYS, WIDTH, batch_of, with_prior
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.external import POISSONVI
from scvi.model import PEAKVI, LinearSCVI

from scgm_scvi import SCGM
from scgm_scvi.model import DiffusionPEAKVI, DiffusionPOISSONVI

N, PEAKS = 240, 150


def make_peaks() -> AnnData:
    """Fragments of three types of cells, of which each opens peaks of its own."""
    rng = np.random.default_rng(0)
    types = rng.choice(["B", "T", "NK"], N)
    rates = {t: rng.gamma(0.5, 0.8, PEAKS) for t in ("B", "T", "NK")}
    depth = rng.gamma(8, 1 / 8, N)
    x = rng.poisson(np.stack([rates[t] for t in types]) * depth[:, None])
    x[np.arange(N), rng.integers(PEAKS, size=N)] += 1  # no cell is empty
    adata = AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs_names = [f"cell {i}" for i in range(N)]
    adata.var_names = [f"chr1:{500 * i}-{500 * i + 400}" for i in range(PEAKS)]
    adata.obs["cell_type"] = pd.Categorical(types)
    adata.obs["donor"] = rng.choice(["d1", "d2"], N)
    adata.obs["plate"] = rng.choice(["p1", "p2"], N)
    adata.obs["mito"] = rng.random(N)
    adata.obs["size"] = depth
    adata.layers["raw"] = adata.X.copy()
    return adata


def make_scvi(kind, adata, *, setup=None, epochs=1, **options):
    scvi.settings.seed = 0
    kind.setup_anndata(adata, **{**KEYS, **(setup or {})})
    model = kind(adata, **WIDTH, **options)
    model.train(
        max_epochs=epochs, lr=1e-2, batch_size=40, early_stopping=False, train_size=0.8, **QUIET
    )
    model.module.eval()
    return model


def outputs(model):
    """What an scvi model says of its cells."""
    torch.manual_seed(0)
    np.random.seed(0)
    return [
        model.get_latent_representation(),
        np.asarray(model.get_normalized_accessibility()),
        np.asarray(model.get_elbo()) if isinstance(model, POISSONVI) else model.module.n_latent,
    ]


@pytest.fixture(scope="module", params=[PEAKVI, POISSONVI])
def both(request):
    """An scvi model, and ours of it. Not to be changed."""
    scvi_model = make_scvi(request.param, make_peaks(), setup=COVARIATES, epochs=40)
    said = outputs(scvi_model)
    model = with_prior(scvi_model, steps=400)
    for a, b in zip(said, outputs(scvi_model), strict=True):
        np.testing.assert_array_equal(a, b)
    return scvi_model, model


@pytest.fixture
def model(both):
    return both[1]


PEAKVI_OPTIONS = [
    {},
    {"model_depth": False},
    {"region_factors": False},
    {"latent_distribution": "ln", "dropout_rate": 0.0},
    {"encode_covariates": True, "deeply_inject_covariates": True, "setup": COVARIATES},
    {"use_batch_norm": "both", "use_layer_norm": "none", "setup": {"batch_key": None}},
    {"n_layers_encoder": 1, "n_layers_decoder": 1, "setup": {"layer": "raw", "labels_key": None}},
]


@pytest.mark.parametrize("options", PEAKVI_OPTIONS, ids=str)
def test_states_of_peakvi(options):
    """Encoding and decoding are scvi's: of p, d and f, as its loss has them."""
    scvi_model = make_scvi(PEAKVI, make_peaks(), **options)
    model = with_prior(scvi_model)
    module, tensors = scvi_model.module, batch_of(scvi_model)
    with torch.inference_mode():
        inferred = module.inference(**module._get_inference_input(tensors))
        mean, variance = model.module.encode_state(batch_of(model))
        torch.testing.assert_close(mean[:, :-1], inferred["qz"].loc)
        torch.testing.assert_close(variance[:, :-1], inferred["qz"].variance)
        assert (variance[:, -1] == 0).all()
        if module.model_depth:
            torch.testing.assert_close(mean[:, -1:].sigmoid(), inferred["d"])
        else:
            assert (mean[:, -1] == 0).all()
        asked = batch_of(model)
        x = asked.pop(REGISTRY_KEYS.X_KEY)
        del asked[REGISTRY_KEYS.LABELS_KEY]
        got = model.module.decode_state(mean, asked)
        at_mean = {**inferred, "z": module.z_encoder.z_transformation(inferred["qz"].loc)}
        p = module.generative(**module._get_generative_input(tensors, at_mean))["px"]
        f = 1 if module.region_factors is None else module.region_factors.sigmoid()
        want = module.get_reconstruction_loss(p, inferred["d"], f, x)
        torch.testing.assert_close(
            -got.log_prob((x > 0).float()).sum(1), want, rtol=1e-4, atol=1e-3
        )
    cells = model.generate(8, seed=0, **SILENT)
    assert cells.shape == (8, PEAKS)
    assert set(np.unique(cells.X.data)) == {1.0}


@pytest.mark.parametrize("both", [PEAKVI], indirect=True)
def test_depth_of_peakvi(both):
    module, tensors = both[1].module, batch_of(both[1])
    with torch.inference_mode():
        mean, _ = module.encode_state(tensors)
        latent, size = module.split_state(mean)
        depth = torch.linspace(0.2, 1.0, N)[:, None]
        scaled = torch.cat([latent, module.scaled_sizes(size, depth)], dim=1)
        now = module.decode_state(scaled, tensors).mean
        torch.testing.assert_close(now, depth * module.decode_state(mean, tensors).mean)
        full = module.scaled_sizes(size, 1e9 * depth)
    assert full.isfinite().all()
    assert (full.sigmoid() > 0.99).all()


POISSONVI_OPTIONS = [
    {},
    {"latent_distribution": "ln"},
    {"encode_covariates": True, "setup": COVARIATES},
    {"use_observed_lib_size": False, "setup": {"batch_key": None}},
    {"setup": {"size_factor_key": "size", "layer": "raw"}},
]


@pytest.mark.parametrize("options", POISSONVI_OPTIONS, ids=str)
def test_states_of_poissonvi(options):
    scvi_model = make_scvi(POISSONVI, make_peaks(), **options)
    model = with_prior(scvi_model)
    module, tensors = scvi_model.module, batch_of(scvi_model)
    with torch.inference_mode():
        inferred = module.inference(**module._get_inference_input(tensors))
        size = inferred["library"] if inferred["ql"] is None else inferred["ql"].loc
        if module.use_size_factor_key:
            size = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].log()
        mean, _ = model.module.encode_state(batch_of(model))
        torch.testing.assert_close(mean, torch.cat([inferred["qz"].loc, size], dim=1))
        at_mean = {"z": module.z_encoder.z_transformation(inferred["qz"].loc), "library": size}
        want = module.generative(**module._get_generative_input(tensors, at_mean))["px"].rate
        got = model.module.decode_state(mean, batch_of(model)).rate
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert model.generate(4, seed=0, **SILENT).X.sum() > 0


def test_what_scvi_says_stays(both):
    for a, b in zip(*map(outputs, both), strict=True):
        np.testing.assert_array_equal(a, b)


class TestVerbs:
    def test_generated_cells_are_of_their_type(self, model):
        real = make_peaks()
        seen = {
            t: np.asarray((real.X[(real.obs["cell_type"] == t).to_numpy()] > 0).mean(0)).ravel()
            for t in "BT"
        }
        for kind in "BT":
            cells = model.generate(150, {"cell_type": kind}, seed=0, **SILENT)
            made = np.asarray((cells.X > 0).mean(axis=0)).ravel()
            r = {t: np.corrcoef(made, seen[t])[0, 1] for t in "BT"}
            assert r[kind] > 0.85
            assert r[kind] > r["T" if kind == "B" else "B"] + 0.2
            assert made.mean() == pytest.approx(seen[kind].mean(), rel=0.25)
        normalized = model.generate(4, expression="normalized", **SILENT).X
        np.testing.assert_allclose(normalized.sum(axis=1), 1e4, rtol=1e-4)

    def test_edit(self, model):
        adata = make_peaks()[:30].copy()
        model.edit(adata, {"cell_type": "T"}, strength=0.5, **SILENT)
        assert "scgm_edited" in adata.layers
        peak = adata.var_names[3]
        out = model.edit(
            adata,
            genes={peak: "knockout"},
            strength=0.3,
            expression="normalized",
            copy=True,
            **SILENT,
        )
        assert out[:, peak].layers["scgm_edited"].max() < 0.01

    def test_enhance(self, both, model):
        adata = make_peaks()
        model.enhance(adata, n_samples=3, n_fit_steps=3, seed=0, **SILENT)
        got = adata.layers["scgm_enhanced"]
        np.testing.assert_allclose(got.sum(axis=1), 1e4, rtol=1e-3)
        for kind in ("B", "T"):
            of_kind = (adata.obs["cell_type"] == kind).to_numpy()
            seen = np.asarray((adata.X[of_kind] > 0).mean(axis=0)).ravel()
            assert np.corrcoef(got[of_kind].mean(axis=0), seen)[0, 1] > 0.8

    def test_impute(self, model):
        adata = make_peaks()
        panel = adata[:40, : PEAKS - 10].copy()
        out = model.impute(panel, n_samples=8, n_fit_steps=3, seed=0, **SILENT)
        assert out.shape == (40, 10)
        assert np.isfinite(out.X.data).all()
        assert (out.X.data >= 0).all()
        frequent = np.asarray((adata.X[:, -10:] > 0).mean(axis=0)).ravel()
        got = np.asarray(out.layers["normalized"].mean(axis=0)).ravel()
        assert np.corrcoef(got, frequent)[0, 1] > 0.7

    def test_scores(self, model):
        adata = make_peaks()
        own = model.log_likelihood(adata[:20], trace="exact", **SILENT)
        assert np.isfinite(own).all()
        probabilities = model.classify(adata, "cell_type", n_samples=1, **SILENT)
        assert (probabilities.idxmax(axis=1) == adata.obs["cell_type"]).mean() > 0.8
        few = {**SILENT, "seed": 0}
        strange = model.ood_score(adata, **few)
        assert np.isfinite(strange).all()
        assert np.median(strange) < 2

    def test_augment_and_interpolate(self, model):
        adata = make_peaks()
        more = model.augment(adata, "cell_type", {"NK": 100}, seed=0, **SILENT)
        assert (more.obs["cell_type"] == "NK").sum() == 100
        way = model.interpolate(
            {"cell_type": "B"}, {"cell_type": "T"}, n_points=3, n_cells=2, seed=0, **SILENT
        )
        assert way.n_obs == 6


@pytest.mark.parametrize("both", [PEAKVI], indirect=True)
def test_counts_of_other_cells_are_binarised(both):
    """What PEAKVI is asked about is whether there are counts."""
    model = both[1]
    adata = make_peaks()
    assert adata.X.max() > 1
    binary = adata.copy()
    binary.X = (binary.X > 0).astype(np.float32)
    np.testing.assert_array_equal(*(model.ood_score(a, seed=0, **SILENT) for a in (adata, binary)))


class TestSaving:
    @pytest.mark.parametrize("exported", [False, True])
    def test_with_and_without_data(self, both, tmp_path, exported):
        model, again = both[1], {"seed": 1, **SILENT}
        want = model.generate(5, {"cell_type": "B"}, **again)
        path = tmp_path / "model"
        if exported:
            model.export(path)
            loaded = [type(model).from_export(path), type(model).from_export(path, make_peaks())]
        else:
            model.save(path)
            loaded = [SCGM.load(path, adata=a) for a in (False, make_peaks())]
        for other in loaded:
            assert type(other) is type(model)
            got = other.generate(5, {"cell_type": "B"}, **again)
            np.testing.assert_array_equal(got.X.toarray(), want.X.toarray())
        assert loaded[0].adata is None
        np.testing.assert_array_equal(
            loaded[0].log_likelihood(make_peaks()[:9], **SILENT),
            loaded[1].log_likelihood(make_peaks()[:9], **SILENT),
        )

    @pytest.mark.parametrize("setup", [{"layer": "raw", **COVARIATES}, {"batch_key": None}])
    def test_without_data_whatever_the_setup(self, setup, tmp_path):
        further = {"size_factor_key": "size"} if "layer" in setup else {"labels_key": None}
        scvi_model = make_scvi(POISSONVI, make_peaks(), setup={**setup, **further})
        model = with_prior(scvi_model, condition_keys=["plate"] if "layer" not in setup else None)
        model.save(tmp_path / "model")
        loaded = SCGM.load(tmp_path / "model", adata=False)
        np.testing.assert_array_equal(
            *(m.generate(5, seed=0, **SILENT).X.toarray() for m in (model, loaded))
        )


@pytest.mark.parametrize("kind", [DiffusionPEAKVI, DiffusionPOISSONVI])
def test_from_scratch(kind):
    adata = make_peaks()
    kind.setup_anndata(adata, **KEYS)
    model = kind(adata, **WIDTH, **DENOISER)
    model.train(max_epochs=1, early_stopping=False, **QUIET)
    model.train_diffusion(max_steps=5, **QUIET)
    assert model.generate(3, {"cell_type": "B"}, **SILENT).n_obs == 3


def test_what_is_refused(both):
    cells = make_peaks()
    cells.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
    with pytest.raises(ValueError, match="minified by a model of another class"):
        SCGM.from_scvi_model(both[0], cells)
    adata = make_peaks()
    LinearSCVI.setup_anndata(adata)
    with pytest.raises(TypeError, match=r"class 'LinearSCVI'.*'PEAKVI'.*'POISSONVI'"):
        SCGM.from_scvi_model(LinearSCVI(adata))
