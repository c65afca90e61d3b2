"""scvi models that are trained already, with a diffusion prior."""

from __future__ import annotations

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from helpers import QUIET, SILENT, make_adata
from model.scvi_models.priors import COVARIATES, DENOISER, KEYS, WIDTH, batch_of, with_prior
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.model import SCANVI, SCVI, LinearSCVI

from scgm_scvi import SCGM
from scgm_scvi.model import DiffusionSCANVI, DiffusionSCVI


def make_scvi(adata, *, kind=SCVI, setup=None, epochs=1, **options):
    """A model of scvi's; of 0 epochs, one that only says that it is trained, which is faster."""
    scvi.settings.seed = 0
    kind.setup_anndata(adata, **{**KEYS, **(setup or {})})
    model = kind(adata, **WIDTH, **options)
    if epochs:
        model.train(max_epochs=epochs, **QUIET)
    model.is_trained_, model.history_ = True, model.history_ or {}
    model.module.eval()
    return model


def make_unlabelled(adata):
    """The first cells' types are not known."""
    labels = adata.obs["cell_type"].astype(str)
    adata.obs["cell_type"] = labels.where(np.arange(adata.n_obs) > 60, "Unknown")
    return adata


def make_scanvi(adata, **options):
    setup = {"unlabeled_category": "Unknown", **options.pop("setup", {})}
    return make_scvi(make_unlabelled(adata), kind=SCANVI, setup=setup, **options)


def outputs(model):
    """What an scvi model says of its cells."""
    torch.manual_seed(0)
    np.random.seed(0)
    return [
        model.get_latent_representation(),
        model.get_normalized_expression(n_samples=2, return_numpy=True),
        np.asarray(model.get_elbo()),
    ]


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items() if "denoiser" not in k}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key


@pytest.fixture(scope="module")
def trained():
    """An scvi model, what it says of its cells, and a copy of the data, before and after."""
    adata = make_adata()
    model = make_scvi(adata, setup=COVARIATES, epochs=2)
    return model, outputs(model), weights(model), adata.copy()


@pytest.fixture(scope="module")
def model(trained):
    """Not to be changed."""
    further = {"condition_keys": ["stimulation"], "continuous_condition_keys": ["dose"]}
    return with_prior(trained[0], steps=60, **further)


@pytest.fixture(scope="module")
def semi():
    """Of SCANVI. Not to be changed."""
    scvi_model = make_scanvi(make_adata())
    return scvi_model, with_prior(scvi_model, steps=60, condition_keys=["stimulation"])


class TestNothingChanges:
    def test_the_scvi_model(self, trained, model):
        scvi_model, before, own, _ = trained
        model.generate(5, **SILENT)
        assert_same(own, weights(scvi_model))
        for a, b in zip(before, outputs(scvi_model), strict=True):
            np.testing.assert_array_equal(a, b)
        assert type(scvi_model) is SCVI
        assert not hasattr(scvi_model.module, "denoiser")

    def test_stage_one(self, trained, model):
        """To the bit: weights, running statistics, and what is said of the cells."""
        assert_same(trained[2], weights(model))
        for a, b in zip(trained[1], outputs(model), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_semisupervised_model(self, semi):
        scvi_model, model = semi
        assert_same(weights(scvi_model), weights(model))
        for a, b in zip(outputs(scvi_model), outputs(model), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(scvi_model.predict(), model.predict())

    def test_the_data(self, trained, model):
        before, after = trained[3], trained[0].adata
        new = [c for c in after.obs if c not in before.obs]
        new += [k for k in after.obsm if k not in before.obsm]
        new += [k for k in after.uns if k not in before.uns]
        assert all(name.startswith("_scvi_") for name in new)
        for column in before.obs:
            if not column.startswith("_scvi_"):
                pd.testing.assert_series_equal(before.obs[column], after.obs[column])
        assert (before.X != after.X).nnz == 0
        assert list(before.layers) == list(after.layers)
        pd.testing.assert_frame_equal(before.var, after.var)

    def test_weights_are_copies(self, adata):
        scvi_model = make_scvi(adata, epochs=0)
        model = SCGM.from_scvi_model(scvi_model, **DENOISER)
        before = weights(scvi_model)
        with torch.no_grad():
            for p in model.module.parameters():
                p.add_(1)
        assert_same(before, weights(scvi_model))

    def test_the_record_of_training(self, trained, model):
        np.testing.assert_array_equal(model.train_indices, trained[0].train_indices)
        np.testing.assert_array_equal(model.validation_indices, trained[0].validation_indices)
        assert model.history_["elbo_train"].equals(trained[0].history_["elbo_train"])
        assert {"elbo_train", "diffusion_loss_train"} <= set(model.history)
        assert model.is_trained


OPTIONS = [
    {"gene_likelihood": "nb"},
    {"gene_likelihood": "poisson"},
    {"gene_likelihood": "normal"},
    {"dispersion": "gene-batch"},
    {"dispersion": "gene-label"},
    {"dispersion": "gene-label", "gene_likelihood": "nb", "setup": {"labels_key": None}},
    {"dispersion": "gene-cell", "n_layers": 2},
    {"use_observed_lib_size": False},
    {"latent_distribution": "ln"},
    {"batch_representation": "embedding", "encode_covariates": True, "setup": COVARIATES},
    {"encode_covariates": True, "use_observed_lib_size": False, "setup": COVARIATES},
    {"use_batch_norm": "none", "use_layer_norm": "both", "setup": {"batch_key": None}},
    {"setup": {"size_factor_key": "size", "layer": "raw"}},
]


def check_codec(scvi_model, model):
    """Encoding and decoding are those of the scvi model, at the posterior's mean."""
    tensors, module = batch_of(scvi_model), scvi_model.module
    with torch.inference_mode():
        inferred = module.inference(**module._get_inference_input(tensors))
        qz, ql = inferred["qz"], inferred["ql"]
        log_size = inferred["library"] if ql is None else ql.loc
        sizes = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        mean, variance = model.module.encode_state(batch_of(model))
        np.testing.assert_array_equal(mean[:, :-1], qz.loc)
        torch.testing.assert_close(variance[:, :-1], qz.variance)
        torch.testing.assert_close(mean[:, -1:], log_size if sizes is None else sizes.log())
        if ql is not None:
            torch.testing.assert_close(variance[:, -1:], ql.variance)
        else:
            assert (variance[:, -1] == 0).all()
        # decoding knows no features, and of labels what the conditions say
        asked = batch_of(model)
        del asked[REGISTRY_KEYS.X_KEY], asked[REGISTRY_KEYS.LABELS_KEY]
        got = model.module.decode_state(mean, asked)
        z = module.z_encoder.z_transformation(qz.loc)
        inputs = module._get_generative_input(tensors, {"z": z, "library": log_size})
        want = module.generative(**inputs)["px"]
        assert type(got) is type(want)
        x = tensors[REGISTRY_KEYS.X_KEY]
        torch.testing.assert_close(got.log_prob(x), want.log_prob(x), rtol=1e-5, atol=1e-5)
    return mean


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(adata, options):
    adata.obs["size"] = adata.obs["n_counts"] / adata.obs["n_counts"].mean()
    adata.layers["raw"] = adata.X.copy()
    scvi_model = make_scvi(adata, **options)
    before = weights(scvi_model)
    model = with_prior(scvi_model)
    assert_same(before, weights(model))
    check_codec(scvi_model, model)
    cells = model.generate(8, seed=0, **SILENT)
    assert cells.shape == (8, 765)
    assert np.isfinite(cells.X.data).all()
    if options.get("gene_likelihood") != "normal":
        assert (cells.X.data == np.rint(cells.X.data)).all()
        assert cells.X.sum() > 0


@pytest.mark.parametrize(
    "options", [{}, {"dispersion": "gene-batch", "linear_classifier": True}], ids=str
)
def test_options_of_scanvi(adata, options):
    scvi_model = make_scanvi(adata, **options)
    model = with_prior(scvi_model)
    check_codec(scvi_model, model)
    assert model.generate(4, {"cell_type": "CD34+"}, **SILENT).n_obs == 4


class TestEvaluationMode:
    def test_encoding_and_decoding(self, model):
        module = copy.deepcopy(model.module)
        tensors = batch_of(model, 50)
        mean, _ = module.encode_state(tensors)
        want = module.decode_state(mean, tensors).mean
        before = {k: v.clone() for k, v in module.state_dict().items()}
        module.train()
        again, _ = module.encode_state(tensors)
        np.testing.assert_array_equal(again, mean)
        assert torch.equal(module.decode_state(mean, tensors).mean, want)
        assert module.training
        assert_same(before, dict(module.state_dict()))

    def test_training_stage_two(self, adata):
        """As where scvi's training was interrupted."""
        model = SCGM.from_scvi_model(make_scvi(adata, epochs=0), **DENOISER)
        before = weights(model)
        model.module.train()
        model.train_diffusion(max_steps=5, **QUIET)
        assert_same(before, weights(model))


class TestVerbs:
    """All that SCGM offers."""

    @pytest.fixture(params=["scvi", "scanvi"])
    def any_model(self, request, model, semi):
        return model if request.param == "scvi" else semi[1]

    def test_generate(self, any_model):
        cells = any_model.generate(20, {"cell_type": "CD34+"}, seed=0, **SILENT)
        assert (cells.obs["cell_type"] == "CD34+").all()
        assert (cells.obs["donor"] == "d3").all()  # as of all training cells of that type
        assert cells.obsm["X_scgm"].shape == (20, 5)
        assert list(cells.var_names) == list(any_model.adata.var_names)
        guided = any_model.generate(
            4, {"cell_type": "CD34+", "stimulation": "IFNb"}, guidance_scale=2.0, **SILENT
        )
        assert (guided.obs["stimulation"] == "IFNb").all()

    def test_edit(self, any_model):
        cells = make_adata()[100:110].copy()
        gene = cells.var_names[3]
        any_model.edit(
            cells, {"stimulation": "IFNb"}, genes={gene: "knockout"}, strength=0.5, seed=0, **SILENT
        )
        assert cells.layers["scgm_edited"][:, 3].sum() == 0
        curve = any_model.edit_curve(cells, {"cell_type": "CD34+"}, strengths=[0.0, 0.5], **SILENT)
        assert len(curve) == 2

    def test_scores(self, any_model):
        cells = make_adata()[100:130]
        assert np.isfinite(any_model.log_likelihood(cells, **SILENT)).all()
        assert np.isfinite(any_model.denoising_loss(cells, **SILENT)).all()
        given = any_model.log_likelihood(cells, conditions={"cell_type": "CD34+"}, **SILENT)
        assert np.isfinite(given).all()

    def test_classify(self, any_model):
        probabilities = any_model.classify(make_adata()[100:110], n_samples=1, n_levels=2, **SILENT)
        assert "Unknown" not in probabilities
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        cells = make_adata()[100:105].copy()
        del cells.obs["cell_type"]
        any_model.classify(cells, "cell_type", n_samples=1, n_levels=2, **SILENT)

    def test_interpolate(self, any_model):
        path = any_model.interpolate(
            make_adata()[100:103], {"cell_type": "CD34+"}, n_points=3, n_steps=5, **SILENT
        )
        assert path.n_obs == 9

    def test_enhance_and_impute(self, any_model):
        cells = make_adata()[100:110].copy()
        del cells.obs["cell_type"], cells.obs["stimulation"]
        any_model.enhance(cells, n_samples=2, n_fit_steps=2, **SILENT)
        assert np.isfinite(cells.layers["scgm_enhanced"]).all()
        panel = cells[:, :300].copy()
        missing = any_model.impute(panel, n_samples=25, n_fit_steps=2, **SILENT)
        assert missing.shape == (10, 465)

    def test_augment(self, any_model):
        out = any_model.augment(n_per_category={"CD34+": 40}, seed=0, **SILENT)
        assert (out.obs["cell_type"] == "CD34+").sum() == 40
        np.testing.assert_allclose(
            out.obsm["X_scgm"][:700], any_model.get_latent_representation(), atol=1e-5
        )

    def test_methods_of_scvi(self, any_model):
        assert np.isfinite(any_model.get_normalized_expression(indices=range(5))).all(axis=None)
        assert any_model.posterior_predictive_sample(indices=range(5)).shape == (5, 765)
        fresh = make_adata()[:20].copy()
        assert any_model.get_latent_representation(fresh).shape == (20, 5)


def test_ood_score(model):
    assert np.isfinite(model.ood_score(make_adata()[:10], **SILENT)).all()


def test_logistic_normal_latents_are_of_one_kind(adata):
    model = with_prior(make_scvi(adata, latent_distribution="ln"))
    out = model.augment(n_per_category={"CD34+": 30}, seed=0, **SILENT)
    real, made = out.obsm["X_scgm"][:700], out.obsm["X_scgm"][700:]
    assert np.abs(real.sum(axis=1) - 1).max() > 0.1  # no softmax
    assert np.abs(made.mean(axis=0) - real.mean(axis=0)).max() < 5 * real.std(axis=0).max()


class TestLabels:
    def test_the_unlabelled_category_is_unspecified(self, semi):
        scvi_model, model = semi
        assert "Unknown" not in model.condition_spec.categorical["cell_type"]
        tokens = model._encode_cells()[2]["tokens"][:, 0]
        unknown = (model.adata.obs["cell_type"] == "Unknown").to_numpy()
        assert (tokens[unknown] == 0).all()
        assert (tokens[~unknown] > 0).all()
        frame = pd.DataFrame({"cell_type": ["Unknown", "CD34+"] * 5})
        got = model.generate(conditions=frame, seed=0, **SILENT)
        want = model.generate(
            conditions=frame.replace({"Unknown": None}).astype(object), seed=0, **SILENT
        )
        assert (got.X != want.X).nnz == 0
        assert got.obs["cell_type"].isna().sum() == 5
        with pytest.raises(ValueError, match="'unknown' is not a known category"):
            model.generate(2, {"cell_type": "unknown"}, **SILENT)

    def test_missing_labels_of_other_cells(self, model, semi):
        cells = make_adata()[100:110].copy()
        want = model.log_likelihood(cells, conditions={"cell_type": None}, **SILENT)
        cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
        cells.obs.loc[cells.obs_names[:4], "cell_type"] = np.nan
        cells.obs[["stimulation", "dose"]] = None
        cells.obs["dose"] = cells.obs["dose"].astype(float)
        got = model.log_likelihood(cells, **SILENT)
        np.testing.assert_allclose(got[:4], want[:4], rtol=1e-3, atol=0.02)
        assert np.isfinite(semi[1].log_likelihood(cells, **SILENT)).all()

    def test_unknown_labels_are_refused(self, model):
        cells = make_adata()[100:110].copy()
        cells.obs["cell_type"] = "never seen"
        with pytest.raises(ValueError, match="'never seen' is not a known category of 'cell_type'"):
            model.log_likelihood(cells, **SILENT)

    @pytest.mark.parametrize("likelihood", ["zinb", "nb", "normal"])
    def test_dispersion_by_label_follows_the_conditions(self, adata, likelihood):
        """Not the labels of the minibatch; of an unspecified one, it is the labels' mean."""
        scvi_model = make_scvi(adata, epochs=0, dispersion="gene-label", gene_likelihood=likelihood)
        model = SCGM.from_scvi_model(scvi_model, **DENOISER)
        tensors = batch_of(model, 4)
        mean, _ = model.module.encode_state(tensors)
        categories = model.condition_spec.categorical["cell_type"]
        labels = list(scvi_model.get_state_registry(REGISTRY_KEYS.LABELS_KEY).categorical_mapping)
        log_theta = scvi_model.module.px_r.T
        for token in range(len(categories) + 1):
            asked = {**tensors, "scgm_conditions": torch.tensor([[token]] * 4)}
            px = model.module.decode_state(mean, asked)
            got = px.scale if likelihood == "normal" else px.theta
            want = log_theta.mean(dim=0)
            if token:
                want = log_theta[labels.index(categories[token - 1])]
            torch.testing.assert_close(got, want.exp().expand_as(got))
        mixed = {**tensors, "scgm_conditions": torch.tensor([[0], [1], [0], [2]])}
        px = model.module.decode_state(mean, mixed)
        alone = model.module.decode_state(mean[1:2], {k: v[1:2] for k, v in mixed.items()})
        torch.testing.assert_close(px.mean[1:2], alone.mean)

    def test_codes_of_labels_are_the_models(self, adata):
        """Also where data hold only some of them, in another order."""
        scvi_model = make_scvi(adata, epochs=0, dispersion="gene-label")
        some = make_adata()
        some = some[some.obs["cell_type"].isin(["CD34+", "CD19+ B", "Dendritic"])].copy()
        order = ["Dendritic", "CD34+", "CD19+ B"]
        some.obs["cell_type"] = pd.Categorical(some.obs["cell_type"], order)
        model = with_prior(scvi_model, some)
        assert list(model.condition_spec.categorical["cell_type"]) == order
        labels = scvi_model.get_state_registry(REGISTRY_KEYS.LABELS_KEY).categorical_mapping
        codes = model.module.label_codes
        assert codes[0] == -1
        assert [labels[c] for c in codes[1:]] == order
        assert model.module.n_labels == len(labels)

    def test_part_of_scanvis_cells(self, semi):
        some = make_adata()
        some = some[some.obs["cell_type"].isin(["CD34+", "CD19+ B"])].copy()
        model = with_prior(semi[0], some)
        assert model.module.n_labels == semi[0].module.n_labels
        assert len(model.labels_) == some.n_obs
        assert list(model.condition_spec.categorical["cell_type"]) == ["CD19+ B", "CD34+"]


class TestData:
    def test_other_cells(self, trained):
        some = make_adata()[:300].copy()
        model = with_prior(trained[0], some, condition_keys=["stimulation", "cell_type"])
        assert model.adata is some
        assert model.train_indices is None
        assert list(model.condition_spec.categorical) == ["cell_type", "stimulation"]
        assert model.generate(3, **SILENT).n_obs == 3

    @pytest.mark.parametrize("counts", [False, True])
    def test_minified(self, adata, counts):
        scvi_model = make_scvi(adata, epochs=0)
        before = scvi_model.get_latent_representation()
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = (
            scvi_model.get_latent_representation(return_dist=True)
        )
        kind = "latent_posterior_parameters" + "_with_counts" * counts
        scvi_model.minify_adata(kind)
        model = with_prior(scvi_model)
        assert model.minified_data_type == kind
        np.testing.assert_array_equal(model.get_latent_representation(), before)
        assert model.generate(3, {"cell_type": "CD34+"}, **SILENT).X.sum() > 0
        assert scvi_model.adata is model.adata
        np.testing.assert_array_equal(scvi_model.get_latent_representation(), before)
        with pytest.raises(ValueError, match="minified"):
            model.log_likelihood(make_adata()[:3], **SILENT)
        # the cells themselves may be given instead
        full = with_prior(scvi_model, make_adata())
        assert full.minified_data_type is None
        np.testing.assert_allclose(full.get_latent_representation(), before, atol=1e-5)

    def test_loaded_without_data(self, trained, tmp_path):
        trained[0].save(tmp_path / "scvi")
        loaded = SCVI.load(tmp_path / "scvi", adata=False)
        with pytest.raises(ValueError, match=r"loaded without data.*adata="):
            SCGM.from_scvi_model(loaded)
        model = with_prior(loaded, make_adata())
        np.testing.assert_array_equal(model.get_latent_representation(), trained[1][0])

    def test_a_query(self, trained, tmp_path):
        """A batch that came later has the last code, whatever its name."""
        query = make_adata()[:200].copy()
        query.obs["donor"] = "a new one"
        types = query.obs["cell_type"]
        query = query[types.isin(types.value_counts().index[:3])].copy()  # scvi warns of few cells
        both = SCVI.load_query_data(query, trained[0])
        both.module.train()
        both.train(max_epochs=1, **QUIET)
        want = both.adata_manager.get_state_registry(REGISTRY_KEYS.BATCH_KEY).categorical_mapping
        assert want[-1] == "a new one"
        model = with_prior(both)
        assert list(model.condition_spec.batch["donor"]) == list(want)
        assert (query.obs["_scvi_batch"] == 3).all()
        cells = model.generate(3, **SILENT)
        assert (cells.obs["donor"] == "a new one").all()

    @pytest.mark.filterwarnings("ignore:The value argument must be within the support")
    @pytest.mark.filterwarnings("ignore:.* does not contain unnormalized count data")
    def test_fractions(self, adata):
        """As after correction for ambient RNA, which scvi warns of and takes."""
        adata.X.data = adata.X.data * np.float32(0.9)
        model = with_prior(make_scvi(adata, epochs=0))
        assert model.generate(3, **SILENT).X.sum() > 0
        x = adata.X.toarray()
        x[6] = 0
        with pytest.raises(ValueError, match="1 of 700 cells have no finite latent"):
            empty = adata.copy()
            empty.X = sparse.csr_matrix(x)
            with_prior(make_scvi(adata, epochs=0), empty)

    def test_another_model_registers_the_cells_meanwhile(self, adata):
        scvi_model = make_scvi(adata, epochs=0)
        model = SCGM.from_scvi_model(scvi_model, **DENOISER)
        want = model._encode_cells()[2]["tokens"]
        SCVI.setup_anndata(adata, batch_key="plate", labels_key="donor")
        np.testing.assert_array_equal(model._encode_cells()[2]["tokens"], want)


class TestSaving:
    def test_save_and_load(self, model, trained, tmp_path):
        model.save(tmp_path / "model")
        want = model.generate(6, {"cell_type": "CD34+"}, seed=3, **SILENT)
        for kind in (SCGM, DiffusionSCVI):
            for adata in (make_adata(), False):
                loaded = kind.load(tmp_path / "model", adata)
                assert type(loaded) is DiffusionSCVI
                got = loaded.generate(6, {"cell_type": "CD34+"}, seed=3, **SILENT)
                assert (got.X != want.X).nnz == 0
                assert loaded.is_diffusion_trained
        loaded = SCGM.load(tmp_path / "model", make_adata())
        np.testing.assert_array_equal(loaded.get_latent_representation(), trained[1][0])
        loaded.save(tmp_path / "again")
        assert SCGM.load(tmp_path / "again", adata=False).is_diffusion_trained

    def test_scanvi(self, semi, tmp_path):
        semi[1].save(tmp_path / "model", save_anndata=True)
        want = semi[1].generate(6, {"cell_type": "CD34+"}, seed=3, **SILENT)
        for adata in (None, make_unlabelled(make_adata()), False):
            loaded = SCGM.load(tmp_path / "model", adata)
            assert type(loaded) is DiffusionSCANVI
            got = loaded.generate(6, {"cell_type": "CD34+"}, seed=3, **SILENT)
            assert (got.X != want.X).nnz == 0
        with pytest.raises(
            ValueError, match="holds a model of class .DiffusionSCANVI., not .DiffusionSCVI."
        ):
            DiffusionSCVI.load(tmp_path / "model", adata=False)

    def test_a_latent_library_size(self, adata, tmp_path):
        model = with_prior(make_scvi(adata, epochs=0, use_observed_lib_size=False))
        model.save(tmp_path / "model")
        want = model.generate(6, seed=3, **SILENT)
        got = SCGM.load(tmp_path / "model", make_adata()).generate(6, seed=3, **SILENT)
        assert (got.X != want.X).nnz == 0
        with pytest.raises(ValueError, match="use_observed_lib_size=False.*pass adata"):
            SCGM.load(tmp_path / "model", adata=False)

    def test_minify_afterwards(self, adata, tmp_path):
        model = with_prior(make_scvi(adata, epochs=0))
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(
            return_dist=True
        )
        model.minify_adata()
        model.save(tmp_path / "model", save_anndata=True)
        loaded = SCGM.load(tmp_path / "model")
        loaded.train_diffusion(max_steps=5, **QUIET)
        assert loaded.generate(3, **SILENT).n_obs == 3

    def test_query(self, model):
        query = make_adata()[:150].copy()
        query.obs["donor"] = "new"
        del query.obs["stimulation"]
        later = DiffusionSCVI.load_query_data(query, model)
        with pytest.raises(RuntimeError, match="stale"):
            later.generate(5)
        later.module.train()
        later.train(max_epochs=1, **QUIET)
        later.train_diffusion(max_steps=5, **QUIET)
        assert (later.generate(5, **SILENT).obs["donor"] == "new").all()

    def test_scgm_is_refused_as_before(self, trained, tmp_path):
        trained[0].save(tmp_path / "scvi")
        with pytest.raises(ValueError, match="holds a model of class .SCVI., not .SCGM."):
            SCGM.load(tmp_path / "scvi", adata=False)


@pytest.mark.parametrize("make", [make_scvi, make_scanvi])
def test_stage_one_may_be_trained_on(adata, make):
    model = with_prior(make(adata, epochs=0))
    model.module.train()  # as scvi does not
    model.train(max_epochs=1, **QUIET)
    assert not any(p.requires_grad for p in model.module.denoiser.parameters())
    assert not model.is_diffusion_trained
    with pytest.raises(RuntimeError, match="stale"):
        model.generate(3)
    model.train_diffusion(max_steps=5, **QUIET)
    assert model.generate(3, **SILENT).n_obs == 3


def test_from_scratch(adata):
    """Without an scvi model: stage one is scvi's own."""
    DiffusionSCANVI.setup_anndata(make_unlabelled(adata), **KEYS, unlabeled_category="Unknown")
    model = DiffusionSCANVI(adata, **WIDTH, **DENOISER)
    with pytest.raises(RuntimeError, match="Stage one is not trained"):
        model.train_diffusion()
    model.train(max_epochs=1, **QUIET)
    model.train_diffusion(max_steps=5, **QUIET)
    assert model.generate(3, **SILENT).n_obs == 3


class TestErrors:
    """Each before anything is written."""

    def refuse(self, scvi_model, error, match, adata=None, **kwargs):
        cells = scvi_model.adata if adata is None else adata
        before = (
            None
            if not isinstance(cells, ad.AnnData)
            else (list(cells.obs), list(cells.obsm), list(cells.uns))
        )
        with pytest.raises(error, match=match):
            SCGM.from_scvi_model(scvi_model, adata, **kwargs)
        if before is not None:
            assert before == (list(cells.obs), list(cells.obsm), list(cells.uns))

    def test_not_trained(self, adata):
        SCVI.setup_anndata(adata)
        self.refuse(SCVI(adata), RuntimeError, r"not trained.*train\(\)")

    def test_other_classes(self, adata, model):
        LinearSCVI.setup_anndata(adata)
        self.refuse(
            LinearSCVI(adata),
            TypeError,
            r"class 'LinearSCVI'.* to 'SCVI', 'SCANVI',.* of scvi\.model",
        )
        self.refuse(model, TypeError, "has a diffusion model already")
        with pytest.raises(TypeError, match="Pass a trained model, not its class"):
            SCGM.from_scvi_model(SCVI)

    def test_a_data_module(self, adata):
        scvi_model = make_scvi(adata, epochs=0)
        scvi_model.registry_["setup_method_name"] = "setup_datamodule"
        self.refuse(scvi_model, ValueError, "trained from a data module")

    def test_features(self, trained):
        adata = make_adata()
        self.refuse(trained[0], ValueError, "lacks 1 of the 765 features", adata[:, 1:].copy())
        swapped = adata[:, ::-1].copy()
        self.refuse(trained[0], ValueError, r"another order.*get_var_names\(\)", swapped)
        self.refuse(trained[0], ValueError, "view", adata[:100])

    def test_batches(self, trained):
        adata = make_adata()
        adata.obs["donor"] = "d9"
        self.refuse(
            trained[0],
            ValueError,
            r"obs\['donor'\] holds 'd9'.*Known: 'd1'.*load_query_data",
            adata,
        )
        adata = make_adata()
        adata.obs["plate"] = np.where(np.arange(700) < 5, None, "p1")
        self.refuse(trained[0], ValueError, r"obs\['plate'\] holds", adata)

    def test_labels(self, trained):
        adata = make_adata()
        adata.obs["cell_type"] = "a new one"
        self.refuse(trained[0], ValueError, r"obs\['cell_type'\] holds 'a new one'", adata)

    def test_conditions(self, trained):
        keys = {"condition_keys": ["stimulaton"]}
        self.refuse(trained[0], KeyError, "Did you mean 'stimulation'", **keys)
        self.refuse(trained[0], TypeError, "pass a list", condition_keys="stimulation")
        self.refuse(
            trained[0], ValueError, "both batch_key and condition_keys", condition_keys=["donor"]
        )

    def test_network_and_noise(self, trained):
        self.refuse(trained[0], ValueError, "noise process 'edn' is unknown", noise="edn")
        kwargs = {"denoiser_kwargs": {"width": 3}}
        self.refuse(trained[0], TypeError, "width", **kwargs)

    def test_minified_by_another_model(self, adata):
        scvi_model = make_scvi(adata, epochs=0)
        cells = make_adata()
        cells.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
        self.refuse(scvi_model, ValueError, "minified by a model of another class", cells)

    def test_scanvi_without_unlabelled_category(self, adata):
        with pytest.raises(ValueError, match="needs a labels_key, and the unlabeled_category"):
            DiffusionSCANVI.setup_anndata(adata, labels_key="cell_type")

    def test_weights_that_do_not_fit(self, adata):
        scvi_model = make_scvi(adata, epochs=0)
        scvi_model.init_params_["non_kwargs"]["n_hidden"] = 17
        with pytest.raises(ValueError, match="weights don't fit"):
            SCGM.from_scvi_model(scvi_model)
