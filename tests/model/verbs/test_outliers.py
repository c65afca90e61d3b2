"""The out-of-distribution score: its formula, what it needs, and that it finds strangers."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
from helpers import QUIET, SMALL, make_adata
from sklearn.metrics import roc_auc_score

import scgm_scvi
from scgm_scvi import SCGM


@pytest.fixture
def fewer(monkeypatch):
    """A smaller reference, where only its existence matters."""
    monkeypatch.setattr("scgm_scvi.model.verbs._outliers._N_CELLS", 300)


@pytest.fixture(scope="module")
def score(model):
    return model.ood_score()


def test_one_number_a_cell_near_one_for_cells_that_the_model_knows(score):
    assert score.shape == (700,)
    assert score.dtype == np.float64
    assert 0.7 < np.median(score) < 1.5


def test_formula(model, score):
    reference = model.fitted_["outlier_reference"]
    x = make_adata().X.toarray()[:20].astype(float)
    expected = x.sum(axis=1, keepdims=True) * reference["share"]
    residuals = np.clip((x - expected) / np.sqrt(expected + expected**2 / 100), -10, 10)
    along = residuals @ reference["axes"]
    across = np.linalg.norm(residuals - along @ reference["axes"].T, axis=1)
    places, cells = np.column_stack([along, across]), reference["cells"].astype(float)
    distance = np.sqrt(((places[:, None] - cells[None]) ** 2).sum(axis=2))
    want = np.sort(distance, axis=1)[:, :50].mean(axis=1) / reference["unit"]
    np.testing.assert_allclose(score[:20], want, rtol=1e-4)


def test_reference_holds_generated_cells_with_the_conditions_of_training_cells(model, score):
    reference = model.fitted_["outlier_reference"]
    assert reference["cells"].shape == (5000, 31)
    axes = reference["axes"]
    np.testing.assert_allclose(axes.T @ axes, np.eye(30), atol=1e-4)
    # u is the median over generated cells of the very score, each cell itself left out
    first = reference["cells"][:500].astype(float)
    distance = np.linalg.norm(first[:, None] - reference["cells"][None], axis=2)
    own = np.sort(distance, axis=1)[:, 1:51].mean(axis=1) / reference["unit"]
    assert 0.95 < np.median(own) < 1.05
    wanted = model._conditions_of_training_cells(0)
    real = make_adata().obs
    for name in ("cell_type", "stimulation"):
        got, want = (
            t[name].astype(str).value_counts(normalize=True).sort_index()
            for t in (wanted, real.iloc[model.train_indices])
        )
        assert list(got.index) == list(want.index)
        np.testing.assert_allclose(got, want, atol=0.04)
    assert wanted["dose"].isna().mean() == pytest.approx(real["dose"].isna().mean(), abs=0.04)


def test_a_cell_scores_the_same_whatever_is_scored_with_it(model, score):
    rows = np.array([600, 3, 5, 0])
    np.testing.assert_allclose(model.ood_score(indices=rows), score[rows], rtol=1e-5)
    np.testing.assert_allclose(model.ood_score(batch_size=37), score, rtol=1e-5)
    assert model.ood_score(indices=[]).shape == (0,)


def test_reads_nothing_but_counts_and_writes_nothing(model, score):
    bare = make_adata()[::50, ::-1].copy()
    del bare.obs
    before = bare.copy()
    np.testing.assert_allclose(model.ood_score(bare), score[::50], rtol=1e-5)
    np.testing.assert_allclose(model.ood_score(bare[:3]), score[::50][:3], rtol=1e-5)
    bare.X = bare.X.toarray()
    np.testing.assert_allclose(model.ood_score(bare[:3]), score[::50][:3], rtol=1e-5)
    assert list(bare.obs) == list(before.obs) == []
    assert not bare.obsm
    assert bare.uns.keys() == before.uns.keys()


def test_other_cells_are_stranger_the_more_they_differ(model, score):
    rng = np.random.default_rng(0)
    adata = make_adata()
    x = adata.X.toarray()
    means = []
    for share in (0.0, 0.3, 1.0):  # of each cell's counts, moved to features at random
        moved = rng.binomial(x.astype(int), share)
        spread = np.stack(
            [rng.multinomial(m.sum(), np.full(x.shape[1], 1 / len(m))) for m in moved]
        )
        adata.X = (x - moved + spread).astype(np.float32)
        means.append(model.ood_score(adata).mean())
    assert means[0] < means[1] < means[2]
    assert means[2] > 1.5 * means[0]


def test_seed_and_cache(model, score, monkeypatch):
    np.testing.assert_array_equal(model.ood_score(), score)
    with monkeypatch.context() as m:
        m.setattr(model, "generate", lambda *a, **k: pytest.fail("generated again"))
        model.ood_score(indices=[0])
    first = model.fitted_["outlier_reference"]
    other = model.ood_score(seed=1)
    assert np.abs(other - score).max() > 1e-4
    assert np.corrcoef(other, score)[0, 1] > 0.95
    model.fitted_["outlier_reference"] = first


def test_saved_and_made_anew_when_the_model_is_trained_again(adata, tmp_path, fewer):
    SCGM.setup_anndata(adata)  # no conditions at all
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 20, **QUIET}, **QUIET)
    score = model.ood_score()
    model.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata=False)
    loaded.generate = None  # not needed
    np.testing.assert_allclose(loaded.ood_score(adata), score, rtol=1e-6)
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.ood_score()
    first = model.fitted_["outlier_reference"]
    model.train_diffusion(max_steps=20, seed=1, **QUIET)
    assert np.abs(model.ood_score() - score).max() > 1e-4
    assert model.fitted_["outlier_reference"]["model"] != first["model"]

    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = (
        model.get_latent_representation(return_dist=True)
    )
    model.minify_adata()
    with pytest.raises(ValueError, match="minified.*pass cells with counts"):
        model.ood_score()
    assert model.ood_score(make_adata()).shape == (700,)


def test_log_normalised_values(adata, fewer):
    adata.X = adata.X.astype(np.float32).log1p()
    SCGM.setup_anndata(adata, is_count_data=False)
    model = SCGM(adata, gene_likelihood="normal", **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 20, **QUIET}, **QUIET)
    score, reference = model.ood_score(), model.fitted_["outlier_reference"]
    assert score.shape == (700,)
    spread = reference["mean"] + 9 * reference["std"] * np.where(np.arange(765) % 2, 1, -1)
    strange = adata[:3].copy()
    strange.X = np.tile(spread, (3, 1)).astype(np.float32)
    assert model.ood_score(strange).min() > score.max()


@pytest.mark.slow
def test_a_type_left_out_of_training():
    adata = scgm_scvi.datasets.pbmc68k()
    kind = adata.obs["cell_type"] == "CD19+ B"
    held_out = np.random.default_rng(0).random(adata.n_obs) < 0.3
    train = adata[(~kind & ~held_out).to_numpy()].copy()
    scvi.settings.seed = 0
    SCGM.setup_anndata(train)
    model = SCGM(train, **SMALL)
    model.train(max_epochs=40, diffusion_kwargs={"max_steps": 500, **QUIET}, **QUIET)
    test = adata[(kind | held_out).to_numpy()]
    assert roc_auc_score(test.obs["cell_type"] == "CD19+ B", model.ood_score(test)) > 0.8


def test_bad_requests(model):
    with pytest.raises(ValueError, match="batch_size is 0"):
        model.ood_score(batch_size=0)
    with pytest.raises(ValueError, match="lacks 665 of the 765 features"):
        model.ood_score(make_adata()[:, :100])
    adata = make_adata()
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="not integers"):
        model.ood_score(adata)


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).ood_score()
