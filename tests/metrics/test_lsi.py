import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi.metrics import evaluate_generation
from scgm_scvi.metrics._lsi import LatentSemanticSpace

KEY = "cell_type"
N = 300
FEATURES = [f"f{i}" for i in range(N)]


def make_cells(seed, n=160, types=("a", "b"), gain=1.0):
    """Sparse counts of cells of two types; ``gain`` lets features be open more or less often."""
    law = np.random.default_rng(0)
    rates = {t: law.gamma(0.3, 0.5, N) for t in ("a", "b")}
    rng = np.random.default_rng(seed)
    label = np.resize(types, n)
    rate = np.stack([rates[t] for t in label]) * rng.gamma(10, 0.1, (n, 1))
    counts = sparse.csr_matrix(rng.poisson(gain * rate).astype(np.float32))
    obs = pd.DataFrame({KEY: pd.Categorical(label)}, index=[f"{seed}-{i}" for i in range(n)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=FEATURES))


REAL, TRAIN, REFERENCE = make_cells(1), make_cells(2), make_cells(3, n=500)


def evaluate(generated, real=REAL, **kwargs):
    arguments = {"train": TRAIN, "pca_reference": REFERENCE, "condition_key": KEY, "n_pcs": 5}
    table = evaluate_generation(generated, real, space="lsi", **{**arguments, **kwargs})
    return table.set_index("metric")


@pytest.fixture
def no_forest(monkeypatch):
    """Leave out the slow metric where a test asks about others."""
    monkeypatch.setattr("scgm_scvi.metrics._evaluator.classifier_auc", lambda x, y, seed: 0.5)


def fit(reference=REFERENCE, basis=TRAIN, n_components=5):
    return LatentSemanticSpace.fit(("one", reference), ("two", basis), FEATURES, n_components)


def test_components_are_those_of_tf_idf_less_the_first():
    counts = REFERENCE.X.toarray().astype(float)
    idf = np.log1p(len(counts) / np.maximum(counts.sum(axis=0), 1))
    tf_idf = np.log1p(counts / counts.sum(axis=1, keepdims=True) * idf * 1e4)
    _, _, right = np.linalg.svd(tf_idf, full_matrices=False)
    expected = tf_idf @ right[:6].T
    found = fit().cells(REFERENCE, KEY, "one")
    np.testing.assert_allclose(np.abs(found.pca), np.abs(expected[:, 1:]), atol=1e-6)
    # the one that is left out is the cells' depth
    depth = np.log(counts.sum(axis=1))
    follows = [abs(np.corrcoef(depth, column)[0, 1]) for column in expected.T]
    assert follows[0] > 0.9 > 2 * max(follows[1:])


def test_values_are_open_or_closed_of_the_most_variable(monkeypatch):
    monkeypatch.setattr("scgm_scvi.metrics._lsi._N_VARIABLE", 40)
    cells = fit().cells(REAL, KEY, "real")
    is_open = REAL.X.toarray() > 0
    share = (TRAIN.X.toarray() > 0).mean(axis=0)  # of training cells, not of the reference
    most = np.sort(np.argsort(-share * (1 - share), kind="stable")[:40])
    np.testing.assert_array_equal(cells.values, is_open[:, most])
    np.testing.assert_array_equal(cells.mean, is_open.mean(axis=0))
    np.testing.assert_array_equal(cells.depth, REAL.X.toarray().sum(axis=1))
    part = cells[np.array([5, 3])]
    np.testing.assert_array_equal(part.mean, is_open[[5, 3]].mean(axis=0))


@pytest.mark.slow
def test_perfect_generator_scores_the_floor():
    table = evaluate(make_cells(4))
    assert table[["value", "floor", "train_floor"]].notna().all(axis=None)
    for column in ("value", "floor", "train_floor"):
        score = table[column]
        assert score[["rf_auc_gene", "rf_auc_pca"]].to_numpy() == pytest.approx(0.5, abs=0.15)
        for name, margin in {"w2": 0.1, "label_w2": 0.1, "mean_pearson": 0.02}.items():
            assert score[name] == pytest.approx(table.loc[name, "floor"], rel=margin)
        assert score["mmd2"] == pytest.approx(0, abs=0.02)
        assert score["cond_acc"] > 0.9


@pytest.mark.slow
def test_distorted_generator_does_not():
    """Features that are open too often, and all alike."""
    generated = make_cells(4, gain=3.0)
    table = evaluate(generated)
    value, floor = table["value"], table["floor"]
    assert value["rf_auc_gene"] > 0.8
    assert value["depth_ks"] > floor["depth_ks"] + 0.3
    generated.X = generated.X[:, np.random.default_rng(0).permutation(N)]
    table = evaluate(generated)
    assert table.loc["mean_pearson", "value"] < 0.3 < 0.9 < floor["mean_pearson"]
    assert table.loc["mmd2", "value"] > 0.05


@pytest.mark.usefixtures("no_forest")
def test_generator_that_ignores_the_condition_is_found_out():
    generated = make_cells(4)
    generated.obs[KEY] = np.random.default_rng(0).permutation(generated.obs[KEY].astype(str))
    table = evaluate(generated)
    assert table.loc["cond_acc", "value"] < 0.65 < 0.9 < table.loc["cond_acc", "floor"]
    assert table.loc["label_w2", "value"] > 1.1 * table.loc["label_w2", "floor"]
    assert table.loc["mean_pearson", "ratio"] == pytest.approx(1, abs=0.02)


@pytest.mark.usefixtures("no_forest")
def test_correlation_asks_whether_features_are_open():
    """How many counts an open feature has is seen by depth and components alone."""
    once, thrice = make_cells(4), make_cells(4)
    thrice.X = thrice.X * 3
    once, thrice = evaluate(once)["value"], evaluate(thrice)["value"]
    for name in ("mean_pearson", "gcorr_pearson"):
        assert once[name] == thrice[name]
    assert thrice["depth_ks"] > once["depth_ks"] + 0.5
    assert thrice["w2"] == pytest.approx(once["w2"], rel=1e-6)  # shares of a cell's counts


@pytest.mark.usefixtures("no_forest")
def test_dense_counts_and_empty_ones():
    generated = make_cells(4)
    objects = {"generated": generated, "real": REAL.copy()}
    objects |= {"train": TRAIN.copy(), "pca_reference": REFERENCE.copy()}
    # a cell, and a feature that the reference and the training cells lack
    generated.X = sparse.diags_array(1.0 * (np.arange(generated.n_obs) > 0)) @ generated.X
    for name in ("train", "pca_reference"):
        objects[name].X = objects[name].X @ sparse.diags_array(1.0 * (np.arange(N) != 7))
    for a in objects.values():
        a.X = sparse.csr_matrix(a.X, dtype=np.float32)
    found = evaluate(**objects)
    assert found[["value", "floor", "train_floor"]].notna().all(axis=None)
    for a in objects.values():
        a.X = a.X.toarray().astype(np.int32)
    pd.testing.assert_frame_equal(found, evaluate(**objects))


@pytest.mark.usefixtures("no_forest")
def test_without_training_cells():
    table = evaluate(make_cells(4), train=None, pca_reference=None)
    assert table[["value", "floor"]].drop("tstr_f1").notna().all(axis=None)
    assert table["train_floor"].isna().all()


def test_refused():
    with pytest.raises(ValueError, match="space: 'tfidf' is not one of 'log' and 'lsi'"):
        evaluate_generation(make_cells(4), REAL, space="tfidf")
    generated = make_cells(4)
    generated.X.data[5] = np.nan
    with pytest.raises(ValueError, match="generated.X holds negative, infinite or NaN values"):
        evaluate(generated)
