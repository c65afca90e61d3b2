import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi.metrics import evaluate_generation

BENCH = Path(__file__).parents[2].parent / "shared" / "bench"
GENES = [f"gene{i}" for i in range(40)]
KEY = "cell_type"


def make_cells(seed, n=120, types=("a", "b", "c"), shift=1.0):
    """Poisson counts of cells of given types; ``shift`` distorts the genes' means."""
    law = np.random.default_rng(0)
    profiles = {t: law.gamma(1.0, 3.0, size=len(GENES)) for t in ("a", "b", "c")}
    distortion = shift ** law.normal(size=len(GENES))
    rng = np.random.default_rng(seed)
    label = np.resize(types, n)
    mean = np.stack([profiles[t] for t in label]) * rng.gamma(10, 0.1, size=(n, 1))
    counts = sparse.csr_matrix(rng.poisson(mean * distortion).astype(np.float32))
    obs = pd.DataFrame({KEY: pd.Categorical(label)}, index=[f"{seed}-{i}" for i in range(n)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


REAL, TRAIN, REFERENCE = make_cells(1), make_cells(2), make_cells(3)


def evaluate(generated, real=REAL, **kwargs):
    arguments = {"train": TRAIN, "pca_reference": REFERENCE, "condition_key": KEY, "n_pcs": 10}
    return evaluate_generation(generated, real, **{**arguments, **kwargs})


@pytest.fixture(scope="module")
def perfect():
    return evaluate(make_cells(4))


@pytest.fixture
def no_forest(monkeypatch):
    """Leave out the slow metric where a test asks about others."""
    monkeypatch.setattr("scgm_scvi.metrics._generation.classifier_auc", lambda x, y, seed: 0.5)


def test_perfect_generator_scores_the_floor(perfect):
    assert list(perfect.columns) == ["value", "floor", "train_floor", "n"]
    assert not perfect.isna().any(axis=None)
    assert (perfect["n"] == 60).all()
    for column in ("value", "floor", "train_floor"):
        score = perfect[column]
        assert score["rf_auc_pca"] == pytest.approx(0.5, abs=0.15)
        assert score["rf_auc_gene"] == pytest.approx(0.5, abs=0.15)
        assert score["w2"] == pytest.approx(perfect.loc["w2", "floor"], rel=0.1)
        assert score["label_w2"] == pytest.approx(perfect.loc["label_w2", "floor"], rel=0.1)
        assert score["mmd2"] == pytest.approx(0, abs=0.02)
        assert score[["lisi", "recall", "coverage", "precision"]].min() > 0.8
        assert score["depth_ks"] < 0.3
        assert score[["cond_acc", "tstr_f1"]].min() > 0.95
        assert score["nn_ratio"] == pytest.approx(1, abs=0.1)
        assert score["dup_frac"] == 0


def test_distorted_generator_does_not(perfect):
    table = evaluate(make_cells(4, shift=3.0))
    value, floor = table["value"], table["floor"]
    assert value[["rf_auc_pca", "rf_auc_gene"]].min() > 0.95
    for name in ("w2", "label_w2", "nn_ratio"):
        assert value[name] > 1.2 * floor[name]
    assert value["mmd2"] > 0.05
    assert value["depth_ks"] > floor["depth_ks"] + 0.1
    for name in ("lisi", "gcorr_pearson"):
        assert value[name] < floor[name] - 0.03
    for name in ("recall", "coverage", "precision", "density"):
        assert value[name] < floor[name] - 0.1
    # what real cells score does not depend on what was generated
    for column in ("floor", "train_floor"):
        pd.testing.assert_series_equal(table[column], perfect[column])


def test_same_seed_same_numbers(perfect):
    pd.testing.assert_frame_equal(evaluate(make_cells(4)), perfect)


@pytest.mark.usefixtures("no_forest")
def test_seed_draws_the_halves():
    first, second = (evaluate(make_cells(4), seed=seed) for seed in (0, 1))
    assert (first.loc["w2"] != second.loc["w2"])[["value", "floor", "train_floor"]].all()


@pytest.mark.usefixtures("no_forest")
def test_training_cells_handed_back_are_duplicates():
    table = evaluate(TRAIN)
    assert table.loc["dup_frac", "value"] == 1
    assert table.loc["nn_ratio", "value"] == pytest.approx(0, abs=1e-3)
    # as the floor, a training cell's neighbour is another training cell
    assert table.loc["dup_frac", "train_floor"] == 0
    assert table.loc["nn_ratio", "train_floor"] == pytest.approx(1, abs=0.1)
    # where they came from is all that tells them from real cells
    two_sample = table.index.drop(["dup_frac", "nn_ratio"])
    pd.testing.assert_series_equal(
        table.loc[two_sample, "value"], table.loc[two_sample, "train_floor"], check_names=False
    )


@pytest.mark.usefixtures("no_forest")
def test_real_cells_that_were_trained_on_set_no_scale_of_distance():
    table = evaluate(make_cells(4), real=TRAIN)
    assert table.loc["nn_ratio", ["value", "floor", "train_floor"]].isna().all()
    assert table.loc["dup_frac", "floor"] == 1


@pytest.mark.usefixtures("no_forest")
def test_generator_of_one_type_loses_recall():
    table = evaluate(make_cells(4, types=("a",)))
    value = table["value"]
    assert value[["recall", "coverage"]].max() < 0.5
    assert value["precision"] > 0.8
    assert value["cond_acc"] > 0.95
    assert np.isnan(value["tstr_f1"])  # one type trains no classifier
    assert value["label_w2"] == pytest.approx(table.loc["label_w2", "floor"], rel=0.15)


@pytest.mark.usefixtures("no_forest")
def test_generator_that_ignores_the_condition_is_found_out():
    generated = make_cells(4)
    generated.obs[KEY] = np.random.default_rng(0).permutation(generated.obs[KEY].astype(str))
    table = evaluate(generated)
    assert table.loc["w2", "value"] == pytest.approx(table.loc["w2", "floor"], rel=0.1)
    assert table.loc["cond_acc", "value"] < 0.5
    assert table.loc["tstr_f1", "value"] < 0.6
    assert table.loc["label_w2", "value"] > 1.2 * table.loc["label_w2", "floor"]


@pytest.mark.usefixtures("no_forest")
def test_without_training_cells_and_condition_there_are_fewer_metrics():
    table = evaluate(make_cells(4), train=None, condition_key=None)
    assert list(table.columns) == ["value", "floor", "n"]
    assert table.index.name == "metric"
    assert not {"nn_ratio", "dup_frac", "cond_acc", "label_w2", "tstr_f1"} & set(table.index)
    # without training cells there is no floor of a classifier trained on them
    table = evaluate(make_cells(4), train=None)
    assert np.isnan(table.loc["tstr_f1", "floor"])
    assert table.loc["tstr_f1", "value"] > 0.95
    assert "cond_acc" not in table.index


@pytest.mark.usefixtures("no_forest")
def test_genes_are_matched_by_name():
    generated = make_cells(4)
    order = np.random.default_rng(0).permutation(len(GENES))
    extra = AnnData(
        np.ones((generated.n_obs, 1), dtype=np.float32),
        obs=generated.obs[[]],
        var=pd.DataFrame(index=["extra"]),
    )
    other = ad.concat([generated[:, order], extra], axis=1, merge="first")
    pd.testing.assert_frame_equal(evaluate(other), evaluate(generated))


@pytest.mark.usefixtures("no_forest")
def test_sides_are_at_most_n_max_cells():
    table = evaluate(make_cells(4), n_max=40)
    assert (table["n"] == 40).all()
    assert (evaluate(make_cells(4, n=90))["n"] == 45).all()


@pytest.mark.parametrize("missing", ["generated", "real", "train"])
def test_missing_condition_key(missing):
    objects = {"generated": make_cells(4), "real": REAL, "train": TRAIN}
    objects[missing] = objects[missing].copy()
    del objects[missing].obs[KEY]
    with pytest.raises(KeyError, match=f"condition_key: 'cell_type' is not a column of {missing}"):
        evaluate(**objects)


def test_no_features_in_common():
    generated = make_cells(4)
    generated.var_names = [f"other{i}" for i in range(len(GENES))]
    with pytest.raises(ValueError, match="share no var_names"):
        evaluate(generated)


@pytest.mark.parametrize(("n_generated", "n_real"), [(20, 120), (120, 20)])
def test_too_few_cells(n_generated, n_real):
    with pytest.raises(
        ValueError, match=f"{n_generated} generated and {n_real} real cells: at lea"
    ):
        evaluate(make_cells(4, n=n_generated), real=make_cells(1, n=n_real))


@pytest.mark.usefixtures("no_forest")
def test_inputs_are_left_as_they_were():
    whole = make_cells(4, n=240)
    objects = {"generated": whole[::2], "real": REAL.copy(), "train": TRAIN.copy()}
    objects["train"].X = objects["train"].X.astype(np.int64).toarray()  # dense integers do, too
    before = {name: a.copy() for name, a in objects.items()}
    evaluate(**objects)
    assert objects["generated"].is_view
    for name, a in objects.items():
        b = before[name]
        assert type(a.X) is type(objects[name].X)
        assert a.X.dtype == b.X.dtype
        assert (a.X != b.X).sum() == 0
        pd.testing.assert_frame_equal(a.obs, b.obs)
        pd.testing.assert_frame_equal(a.var, b.var)
        assert not len(a.uns) and not len(a.obsm) and not len(a.layers)


@pytest.mark.skipif(
    not (BENCH / "evaluate.py").is_file(),
    reason="the independent evaluator (shared/bench, beside the repository) is not here",
)
def test_agrees_with_the_independent_evaluator(tmp_path):
    """Written apart from this package, from the same definitions."""
    splits = {
        name: ad.read_h5ad(BENCH / "splits" / f"pbmc3k_{name}.h5ad")
        for name in ("train", "test", "ref")
    }
    # Genes that vary in every subset: the evaluator puts noise in place of a constant's
    # correlations, this package zeros.
    total = np.asarray(splits["train"].X.sum(axis=0)).ravel()
    genes = splits["train"].var_names[np.argsort(-total)[:50]]
    rows = {name: [] for name in splits}
    for group in ("B cells", "CD14+ Monocytes", "CD4 T cells"):
        for name, a in splits.items():
            rows[name].extend(np.flatnonzero(a.obs["group"] == group)[:60])
    cells = {name: a[np.sort(rows[name]), genes].copy() for name, a in splits.items()}
    parts = {
        "real": cells["test"][::2].copy(),
        "train": cells["train"][::2].copy(),
        "pca-ref": cells["ref"][::2].copy(),
        "gen": cells["ref"][1::2].copy(),
    }
    # not quite real: a tenth of the molecules lost
    molecules = parts["gen"].X.toarray().astype(int)
    lost = np.random.default_rng(0).binomial(molecules, 0.1)
    parts["gen"].X = sparse.csr_matrix((molecules - lost).astype(np.float32))
    command = [sys.executable, str(BENCH / "evaluate.py"), "--label-key", "group", "--seed", "7"]
    for name, a in parts.items():
        a.write_h5ad(tmp_path / f"{name}.h5ad")
        command += [f"--{name}", str(tmp_path / f"{name}.h5ad")]
    out = tmp_path / "out.json"
    subprocess.run(
        [*command, "--name", "value", "--pcs", "10", "--out", str(out)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    theirs = pd.DataFrame(json.loads(out.read_text()))
    ours = evaluate_generation(
        parts["gen"],
        parts["real"],
        train=parts["train"],
        pca_reference=parts["pca-ref"],
        condition_key="group",
        n_pcs=10,
        seed=7,
    )
    columns = ["value", "floor", "train_floor"]
    assert set(ours.index) <= set(theirs.index)
    expected = theirs.loc[ours.index, columns].astype(float)
    pd.testing.assert_frame_equal(
        ours[columns], expected, rtol=1e-7, atol=1e-9, check_names=False, check_column_type=False
    )
    assert (ours["n"] == theirs.loc["n_eval", "value"]).all()
