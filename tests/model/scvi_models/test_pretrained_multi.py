"""scvi models of genes and peaks that are trained already, with a diffusion prior."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, SILENT, make_mdata
from model.scvi_models import priors
from model.scvi_models.priors import DENOISER, WIDTH, batch_of
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.model import MULTIVI

from scgm_scvi import SCGM
from scgm_scvi._mudata import columns_stay
from scgm_scvi.model import DiffusionMULTIVI, pad_modalities
from scgm_scvi.module import FEATURE_KEYS

PLACES = {"rna_layer": "rna", "atac_layer": "atac"}
COVARIATES = {
    "batch_key": "donor",
    "categorical_covariate_keys": ["plate"],
    "continuous_covariate_keys": ["mito"],
    "modalities": {**PLACES, "batch_key": "rna"},
}
B = {"cell_type": "CD19+ B"}

pytestmark = [
    pytest.mark.usefixtures("mudata_as_of_0_4"),
    # of scvi's own model
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
    pytest.mark.filterwarnings("ignore:The method mod_names is deprecated"),
]


def make_cells(n_unpaired: int = 0) -> MuData:
    mdata = make_mdata(n_unpaired)
    if n_unpaired:
        mdata = pad_modalities(mdata)
    else:
        mdata.obs["cell_type"] = mdata["rna"].obs["cell_type"]
    rng = np.random.default_rng(0)
    mdata.obs["plate"] = rng.choice(["p1", "p2"], mdata.n_obs)
    mdata.obs["mito"] = rng.random(mdata.n_obs)
    for part in mdata.mod.values():
        part.layers["raw"] = part.X.copy()
    return mdata


def make_scvi(mdata, *, setup=None, epochs=1, **options):
    scvi.settings.seed = 0
    MULTIVI.setup_mudata(mdata, **{"modalities": PLACES, **(setup or {})})
    model = MULTIVI(mdata, **WIDTH, **options)
    training = {"early_stopping": False, "train_size": 0.8, "batch_size": 50, "lr": 1e-2}
    # without adversary, and almost without a prior: so few cells would tell the latent nothing
    training |= {"adversarial_mixing": False, "n_epochs_kl_warmup": 4000, "weight_decay": 0.0}
    model.train(max_epochs=epochs, **training, **QUIET)
    model.module.eval()
    return model


def with_prior(scvi_model, mdata=None, **kwargs):
    return priors.with_prior(scvi_model, mdata, **{"condition_keys": ["cell_type"], **kwargs})


def outputs(model):
    """What an scvi model says of its cells."""
    torch.manual_seed(0)
    np.random.seed(0)
    return [
        model.get_latent_representation(),
        model.get_normalized_expression(return_numpy=True),
        np.asarray(model.get_normalized_accessibility()),
    ]


@pytest.fixture(scope="module")
def trained():
    with columns_stay():
        return make_scvi(make_cells(), epochs=40, modality_penalty="None")


@pytest.fixture(scope="module")
def model(trained):
    """Not to be changed."""
    with columns_stay():
        said = outputs(trained)
        model = with_prior(trained, steps=400)
        for a, b, c in zip(said, outputs(trained), outputs(model), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
    return model


OPTIONS = [
    {},
    {"gene_likelihood": "nb", "modality_weights": "universal", "modality_penalty": "None"},
    {"gene_likelihood": "poisson", "region_factors": False},
    {"latent_distribution": "ln", "dropout_rate": 0.0},
    {"encode_covariates": True, "deeply_inject_covariates": True, "setup": COVARIATES},
    {"use_batch_norm": "both", "setup": {"rna_layer": "raw", "atac_layer": "raw"}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_states(options):
    """Encoding and decoding are scvi's, as its loss has them."""
    scvi_model = make_scvi(make_cells(), **options)
    model = with_prior(scvi_model)
    module, tensors = scvi_model.module, batch_of(scvi_model)
    with torch.inference_mode():
        inferred = module.inference(**module._get_inference_input(tensors))
        mean, variance = model.module.encode_state(batch_of(model))
        (latent, sizes), spread = model.module.split_state(mean), variance[:, :-2]
        torch.testing.assert_close(latent, inferred["qz_m"])
        torch.testing.assert_close(spread, inferred["qz_v"])
        torch.testing.assert_close(sizes[:, :1], inferred["libsize_expr"])
        torch.testing.assert_close(sizes[:, 1:].sigmoid(), inferred["libsize_acc"])
        assert (variance[:, -2:] == 0).all()
        asked = batch_of(model)
        x = model.module.features(asked)
        for key in (*FEATURE_KEYS, REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.INDICES_KEY):
            asked.pop(key, None)
        got = model.module.decode_state(mean, asked)
        at_mean = module.z_encoder_accessibility.z_transformation(inferred["qz_m"])
        decoded = module.generative(
            **module._get_generative_input(tensors, {**inferred, "z": at_mean})
        )
        losses = module.loss(tensors, inferred, decoded).reconstruction_loss
        for part, own, name in zip(got.parts, got.split(x), ("expr", "access"), strict=True):
            (want,) = [v for k, v in losses.items() if name in k]
            torch.testing.assert_close(-part.log_prob(own).sum(1), want, rtol=1e-4, atol=1e-3)
    cells = model.generate(6, seed=0, **SILENT)
    assert cells["rna"].X.sum() > 0
    assert set(np.unique(cells["atac"].X.data)) == {1.0}


def test_depths(model):
    module, tensors = model.module, batch_of(model)
    with torch.inference_mode():
        mean, _ = module.encode_state(tensors)
        latent, sizes = module.split_state(mean)
        depth = torch.rand(len(mean), 2) * 0.9 + 0.1
        scaled = torch.cat([latent, module.scaled_sizes(sizes, depth)], dim=1)
        now, before = (module.decode_state(s, tensors).parts for s in (scaled, mean))
    for i in range(2):
        torch.testing.assert_close(
            now[i].mean, depth[:, i : i + 1] * before[i].mean, atol=1e-5, rtol=1e-4
        )


def test_generated_cells_are_of_their_type(model):
    real = make_cells()
    types = ["Dendritic", "CD19+ B"]
    for kind in types:
        cells = model.generate(120, {"cell_type": kind}, seed=0, **SILENT)
        for part in ("rna", "atac"):
            made = np.asarray((cells[part].X > 0).mean(axis=0)).ravel()
            r = []
            for other in types:
                x = real[part].X[(real.obs["cell_type"] == other).to_numpy()]
                r.append(np.corrcoef(made, np.asarray((x > 0).mean(axis=0)).ravel())[0, 1])
            assert int(np.argmax(r)) == types.index(kind), (kind, part, r)


class TestVerbs:
    def test_edit_and_enhance(self, model):
        mdata = make_cells()[:40].copy()
        model.edit(mdata, B, strength=0.5, **SILENT)
        model.enhance(mdata, n_samples=2, n_fit_steps=2, seed=0, **SILENT)
        for key in ("rna", "atac"):
            assert "scgm_edited" in mdata[key].layers
            total = np.asarray(mdata[key].layers["scgm_enhanced"].sum(axis=1))
            np.testing.assert_allclose(total, 1e4, rtol=1e-3)

    def test_scores(self, model):
        mdata = make_cells()
        assert np.isfinite(model.log_likelihood(mdata[:20].copy(), **SILENT)).all()
        said = model.classify(mdata, "cell_type", n_samples=1, **SILENT).idxmax(axis=1)
        share = mdata.obs["cell_type"].value_counts(normalize=True).max()
        assert (said == mdata.obs["cell_type"]).mean() > share + 0.05  # of twelve, some much alike
        binary = make_cells()
        binary["atac"].X = (binary["atac"].X > 0).astype(np.float32)
        both = [model.ood_score(cells, seed=0, **SILENT) for cells in (mdata, binary)]
        np.testing.assert_array_equal(*both)

    def test_translate(self, model):
        mdata = make_cells()
        out = model.translate(mdata["rna"], to="atac", n_samples=1, seed=0, **SILENT)
        assert out.shape == mdata["atac"].shape
        assert set(np.unique(out.X.data)) == {1.0}
        kind = mdata.obs["cell_type"].value_counts().index[0]
        rows = (mdata.obs["cell_type"] == kind).to_numpy()
        made, seen = (
            np.asarray((x[rows] > 0).mean(axis=0)).ravel() for x in (out.X, mdata["atac"].X)
        )
        assert np.corrcoef(made, seen)[0, 1] > 0.7

    def test_augment(self, model):
        more = model.augment(make_cells(), "cell_type", {"CD34+": 100}, seed=0, **SILENT)
        assert (more.obs["cell_type"] == "CD34+").sum() == 100
        assert more["atac"].X.max() == 1


def test_cells_measured_in_one(trained):
    """Sizes that were not measured are filled in; scvi's encoder makes something of zeros."""
    mdata = make_cells(60)
    model = with_prior(make_scvi(mdata, epochs=5))
    tensors = batch_of(model)
    measured = model.module.measured(model.module.features(tensors))
    assert measured.all(dim=1).any()
    assert (measured.sum(dim=0) < len(measured)).all()
    mean, variance = model.module.encode_state(tensors)
    assert mean.isfinite().all()
    assert torch.equal(variance[:, -2:] == 0, measured)
    sizes = model.module.split_state(mean)[1]
    for j in range(2):
        known, filled = sizes[measured[:, j], j], sizes[~measured[:, j], j]
        assert (filled - known.mean()).abs().max() < 6 * known.std() + 0.1
    assert model.generate(4, B, **SILENT).n_obs == 4


@pytest.mark.parametrize("exported", [False, True])
def test_save_and_load(model, tmp_path, exported):
    again, path = {"seed": 1, **SILENT}, tmp_path / "model"
    want = model.generate(5, B, **again)
    if exported:
        model.export(path)
        loaded = [type(model).from_export(path), type(model).from_export(path, make_cells())]
    else:
        model.save(path)
        loaded = [SCGM.load(path, adata=cells) for cells in (False, make_cells())]
    for other in loaded:
        assert type(other) is DiffusionMULTIVI
        got = other.generate(5, B, **again)
        for key in ("rna", "atac"):
            np.testing.assert_array_equal(got[key].X.toarray(), want[key].X.toarray())
    assert loaded[0].adata is None


def test_without_data_whatever_the_setup(tmp_path):
    setup = {**COVARIATES, "rna_layer": "raw"}
    model = with_prior(make_scvi(make_cells(), setup=setup), continuous_condition_keys=["n_counts"])
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=False)
    a, b = (m.generate(5, seed=0, **SILENT)["atac"].X.toarray() for m in (model, loaded))
    np.testing.assert_array_equal(a, b)


def test_from_scratch():
    mdata = make_cells()
    DiffusionMULTIVI.setup_mudata(mdata, labels_key="cell_type")
    model = DiffusionMULTIVI(mdata, **WIDTH, **DENOISER)
    model.train(max_epochs=1, early_stopping=False, adversarial_mixing=False, **QUIET)
    model.train_diffusion(max_steps=5, **QUIET)
    assert model.generate(3, B, **SILENT).n_obs == 3


class TestErrors:
    """Each before anything is written."""

    def refuse(self, scvi_model, error, match, mdata=None, **kwargs):
        with pytest.raises(error, match=match):
            SCGM.from_scvi_model(scvi_model, mdata, **kwargs)

    def made(self, mdata, setup=None, **options):
        MULTIVI.setup_mudata(mdata, **{"modalities": PLACES, **(setup or {})})
        model = MULTIVI(mdata, **WIDTH, **options)
        model.is_trained_ = True
        return model

    def test_proteins(self):
        mdata = make_cells()
        protein = mdata["rna"][:, :4].copy()
        protein.var_names = [f"protein {i}" for i in range(4)]
        mdata = MuData({**mdata.mod, "protein": protein})
        places = {"modalities": {**PLACES, "protein_layer": "protein"}}
        self.refuse(self.made(mdata, places), ValueError, "has proteins")

    def test_weights_of_cells(self):
        model = self.made(make_cells(), modality_weights="cell")
        self.refuse(model, ValueError, "modality_weights='cell'")

    def test_one_modality(self):
        model = self.made(make_cells(), {"modalities": {"rna_layer": "rna"}})
        self.refuse(model, ValueError, "not one of genes and peaks")

    def test_size_factors(self):
        mdata = make_cells()
        mdata.obs["sf_rna"], mdata.obs["sf_atac"] = 1.0, 0.5
        model = self.made(mdata, {"size_factor_key": ["sf_rna", "sf_atac"]})
        self.refuse(model, ValueError, "size factors")

    def test_cells(self, trained):
        mdata = make_cells()
        self.refuse(trained, TypeError, "learns from a MuData", mdata["rna"])
        self.refuse(trained, KeyError, "no modality 'atac'", MuData({"rna": mdata["rna"]}))
        swapped = MuData({"rna": mdata["rna"][:, ::-1].copy(), "atac": mdata["atac"]})
        self.refuse(trained, ValueError, r"mdata\['rna'\] has features", swapped)
        self.refuse(trained, KeyError, "cell_typ", mdata, condition_keys=["cell_typ"])

    def test_batches(self):
        model = self.made(make_cells(), COVARIATES)
        other = make_cells()
        other["rna"].obs["donor"] = "d9"
        self.refuse(model, ValueError, r"mdata\.obs\['donor'\] holds 'd9'", other)
        assert not [c for c in other.obs if c.startswith("_scvi")]
