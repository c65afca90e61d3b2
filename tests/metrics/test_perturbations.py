"""Scores of many perturbations: their ends, what must not move them, and what they say is missing."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from scgm_scvi.metrics import BASELINES, SCREEN_METRICS, evaluate_perturbations
from scgm_scvi.metrics._context import effect_p_value, smallest_adjusted
from scgm_scvi.metrics._scaled import scaled

GENES = [f"gene{i:02}" for i in range(40)]
LAW = np.random.default_rng(0)
BASE = LAW.normal(1.0, 0.7, size=len(GENES))
KINDS = [f"p{i}" for i in range(9)]
SHARED = LAW.normal(size=len(GENES)) * 0.7
VECTORS = {k: LAW.normal(size=3) for k in KINDS}
MAP = LAW.normal(size=(3, len(GENES))) * 0.4
EFFECT = {k: SHARED + VECTORS[k] @ MAP for k in KINDS} | {"none": 0 * SHARED, "ctrl": 0 * SHARED}


def make_cells(seed, kinds, n=60, lines=("x",)):
    rng = np.random.default_rng(seed)
    rows = [(k, c) for c in lines for k in kinds for _ in range(n)]
    rate = np.array([np.exp(BASE + EFFECT[k] * (1 + 0.3 * (c == "y"))) for k, c in rows])
    index = [f"{seed}-{i}" for i in range(len(rows))]
    obs = pd.DataFrame(rows, columns=["target", "line"], index=index)
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


TRAIN = make_cells(1, ["ctrl", *KINDS[:6]])
REAL = make_cells(22, [*KINDS[6:], "none"])
CONTROL = make_cells(3, ["ctrl"], n=120)
PREDICTED = make_cells(4, [*KINDS[6:], "none"])
SHARED_ARGUMENTS = {
    "perturbation_key": "target",
    "control_value": "ctrl",
    "n_top": 10,
    "n_pcs": 8,
    "train": TRAIN,
    "embeddings": VECTORS,
}


def evaluate(predicted=PREDICTED, real=REAL, control=CONTROL, **kwargs):
    return evaluate_perturbations(predicted, real, control, **{**SHARED_ARGUMENTS, **kwargs})


@pytest.fixture(scope="module")
def table():
    return evaluate()


def column(table, method, name="scaled", perturbation="all"):
    rows = table[(table["method"] == method) & (table["perturbation"] == perturbation)]
    return rows.set_index("metric")[name]


def test_the_ends_of_the_scale(table):
    """Another sample of the truth is a replicate, and the baseline is 0 to the digit."""
    assert list(table.columns) == [
        *("method", "context", "perturbation", "metric"),
        *("value", "replicate", "baseline", "scaled", "n", "note"),
    ]
    found = column(table, "predicted")
    assert found.to_numpy() == pytest.approx(1, abs=0.4)
    steady = ["r2_mean", "pearson_centered", "e_distance", "mmd2"]
    assert found[steady].to_numpy() == pytest.approx(1, abs=0.15)
    scored = column(table, "mean").drop("variance_ratio")
    assert (scored == 0).all()
    assert (column(table, "control")[["r2_mean", "pearson_delta", "e_distance"]] < 0).all()
    ridge = column(table, "ridge")[["r2_mean", "pearson_delta", "pearson_centered", "e_distance"]]
    assert ((ridge > 0.3) & (ridge < 1.1)).all()


def test_rows(table):
    per = [*KINDS[6:], "none"]
    methods = ["predicted", "control", "mean", "nearest", "ridge"]
    assert list(table["method"].unique()) == methods
    assert set(methods[1:]) < set(BASELINES)
    for method in methods:
        mine = table[table["method"] == method]
        names = [*KINDS[6:]] if method in ("nearest", "ridge") else per
        assert list(mine["perturbation"].unique()) == ["all", *sorted(names)]
        assert list(mine["metric"]) == list(SCREEN_METRICS) * (len(names) + 1)
    assert (table["context"] == "all").all()
    of_one = table[table["perturbation"] != "all"]
    assert (of_one["n"] == 30).all()
    whole = table[table["perturbation"] == "all"]
    for method, metric, value, n in zip(
        *(whole[c] for c in ("method", "metric", "value", "n")), strict=True
    ):
        rows = of_one[(of_one["method"] == method) & (of_one["metric"] == metric)]
        assert value == pytest.approx(rows["value"].mean()) and n == len(rows)


def test_no_effect_is_said_and_not_scaled(table):
    rows = table[table["perturbation"] == "none"]
    assert (rows["note"] == "no effect").all()
    assert rows["scaled"].isna().all() and rows["value"].notna().all()
    others = table[~table["perturbation"].isin(["none", "all"])]
    assert not (others["note"] == "no effect").any()


def test_nothing_but_names_matters(table):
    """Order of cells and genes, and control cells that were predicted, move nothing at all."""
    rng = np.random.default_rng(0)

    def shuffled(adata):
        return adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()

    both = AnnData(
        sparse.vstack([PREDICTED.X, CONTROL.X[:50] * 7]).tocsr(),
        obs=pd.concat([PREDICTED.obs, CONTROL.obs[:50]]),
        var=PREDICTED.var,
    )
    again = evaluate(shuffled(both), shuffled(REAL), shuffled(CONTROL), train=shuffled(TRAIN))
    pd.testing.assert_frame_equal(again, table)
    # real cells among the controls, and the other way round
    mixed = AnnData(
        sparse.vstack([REAL.X, CONTROL.X]).tocsr(),
        obs=pd.concat([REAL.obs, CONTROL.obs]),
        var=REAL.var,
    )
    pd.testing.assert_frame_equal(evaluate(real=mixed, control=mixed), table)


def test_other_perturbations_do_not_matter(table):
    """With a center from training cells, each perturbation is scored by itself."""
    few = evaluate(REAL, REAL[REAL.obs["target"] != "p7"])
    kept = table[table["perturbation"].isin(["p6", "p8"]) & (table["method"] != "predicted")]
    found = few[few["perturbation"].isin(["p6", "p8"]) & (few["method"] != "predicted")]
    pd.testing.assert_frame_equal(found.reset_index(drop=True), kept.reset_index(drop=True))


def test_baselines_of_means_by_brute_force(table):
    """Mean expression of a baseline's cells, from raw arrays."""

    def log(adata):
        x = adata.X.toarray().astype(float)
        return np.log1p(x / x.sum(1, keepdims=True) * 1e4)

    of = TRAIN.obs["target"].to_numpy()
    means = {k: log(TRAIN)[of == k].mean(0) for k in np.unique(of)}
    delta = np.mean([means[k] - means["ctrl"] for k in KINDS[:6]], axis=0)
    center = np.mean([means[k] for k in KINDS[:6]], axis=0)
    real = log(REAL)[(REAL.obs["target"] == "p6").to_numpy()].mean(0)
    cells = log(CONTROL).mean(0) + delta  # of all of them; halves scatter around it
    r2 = 1 - ((real - cells) ** 2).sum() / ((real - real.mean()) ** 2).sum()
    rows = column(table, "mean", "value", "p6")
    assert rows["r2_mean"] == pytest.approx(r2, abs=0.1)
    expected = np.corrcoef(real - log(CONTROL).mean(0), delta)[0, 1]
    assert rows["pearson_delta"] == pytest.approx(expected, abs=0.1)
    replicate = column(table, "mean", "replicate", "p6")
    assert replicate["pearson_centered"] > 0.8
    assert np.corrcoef(real - center, cells - center)[0, 1] < 0.4


def test_few_cells_and_missing_predictions_are_said():
    real = REAL[np.r_[0:60, 60:75, 120:180]].copy()  # 15 of p7
    predicted = PREDICTED[PREDICTED.obs["target"] == "p6"]
    table = evaluate(predicted, real)
    few = table[table["perturbation"] == "p7"]
    assert (few["note"] == "too few cells").all() and few["value"].isna().all()
    assert (few["n"] == 7).all()
    missing = table[(table["perturbation"] == "p8") & (table["method"] == "predicted")]
    assert (missing["note"] == "not predicted").all() and missing["value"].isna().all()
    assert missing[["replicate", "baseline"]].notna().all(axis=None)
    fine = table[table["perturbation"] == "p6"]
    assert fine["value"].notna().all()
    assert (column(table, "predicted", "n") == 1).all()
    assert (column(table, "ridge", "n") == 2).all()


def test_where_nothing_can_be_said_all_says_why():
    table = evaluate(None, REAL[:15], train=None, embeddings=None)
    assert list(table["perturbation"].unique()) == ["all", "p6"]
    assert (table["note"] == "too few cells").all()
    assert table["value"].isna().all() and table["scaled"].isna().all()


def test_contexts_are_scored_one_by_one():
    lines = {"context_key": "line", "embeddings": None}
    train = make_cells(1, ["ctrl", *KINDS[:6]], lines=("x", "y"))
    train = train[~((train.obs["line"] == "y") & (train.obs["target"] != "ctrl"))]
    real = make_cells(2, KINDS[:2], lines=("x", "y"))
    control = make_cells(3, ["ctrl"], n=120, lines=("x", "y"))
    table = evaluate({"a": real, "b": control}, real, control, train=train, **lines)
    assert set(table["context"]) == {"x", "y"}
    assert (table.loc[table["method"] == "b", "note"].iloc[-1]) == "not predicted"
    y = table[table["context"] == "y"]
    assert set(y["method"]) == {"a", "b", "control", "mean_across", "additive_across"}
    # in a context of controls 0 is what other contexts say
    zero = y[(y["method"] == "mean_across") & (y["perturbation"] == "all")]
    assert (zero["scaled"].dropna() == 0).all() and len(zero["scaled"].dropna()) > 4
    own = column(y, "additive_across")
    assert own["pearson_delta"] > 0.5


def test_without_training_cells():
    table = evaluate(train=None, embeddings=None)
    assert set(table["method"]) == {"predicted", "control"}
    assert (table["n"].loc[table["perturbation"] != "all"] == 24).all()  # a fifth fits the PCA
    assert (column(table, "control").drop("variance_ratio").fillna(0) == 0).all()
    assert column(table, "predicted")["pearson_delta"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_another_baseline_and_other_metrics():
    table = evaluate(None, baseline="nearest", metrics=["de_overlap", "w2"])
    assert list(table["metric"].unique()) == ["de_overlap", "w2"]
    assert (column(table, "nearest").dropna() == 0).all()
    assert column(table, "ridge")["w2"] > 0
    none = table[(table["perturbation"] == "none") & (table["method"] == "mean")]
    assert none["baseline"].isna().all()
    one = {"real": REAL[REAL.obs["target"] == "p6"], "train": None, "embeddings": None}
    forest = evaluate(None, metrics=["rf_auc"], **one)
    assert column(forest, "control", "value")["rf_auc"] > 0.9
    assert column(forest, "control", "replicate")["rf_auc"] == pytest.approx(0.5, abs=0.2)


def test_logarithms_are_the_same_prediction(table):
    logs = PREDICTED.copy()
    x = PREDICTED.X.toarray().astype(float)
    logs.X = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    pd.testing.assert_frame_equal(evaluate(logs, predicted_expression="log1p"), table)


def test_inputs_are_left_as_they_were():
    objects = [a.copy() for a in (PREDICTED, REAL, CONTROL, TRAIN)]
    evaluate(*objects[:3], train=objects[3])
    for found, before in zip(objects, (PREDICTED, REAL, CONTROL, TRAIN), strict=True):
        assert (found.X != before.X).nnz == 0
        pd.testing.assert_frame_equal(found.obs, before.obs)
        assert not len(found.uns) and not len(found.obsm)


def test_scaled_by_hand():
    assert scaled("r2_mean", 0.5, 0.9, 0.1) == pytest.approx(0.5)
    assert scaled("e_distance", 2.0, 1.0, 5.0) == pytest.approx(0.75)
    assert np.isnan(scaled("r2_mean", 0.5, 0.1, 0.9))
    assert np.isnan(scaled("e_distance", 0.5, 0.9, 0.1))
    assert scaled("variance_ratio", 2.0, 1.0, 4.0) == pytest.approx(0.5)
    assert scaled("variance_ratio", 0.5, 1.0, 4.0) == pytest.approx(0.5)
    assert scaled("rf_auc", 0.3, 0.5, 0.9) == pytest.approx(0.5)


def test_the_test_of_an_effect_has_its_level_and_power():
    rng = np.random.default_rng(0)
    p = [effect_p_value(*rng.normal(size=(2, 40, 4)), rng, n=99) for _ in range(200)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.045)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    x, y = rng.normal(size=(2, 40, 4))
    assert effect_p_value(x, y + 1, rng) == pytest.approx(0.005)


def test_one_gene_is_an_effect():
    """A target that goes down alone is none of the main components."""
    rng = np.random.default_rng(0)
    x, y = rng.poisson(3.0, size=(2, 60, 200)).astype(float)
    assert smallest_adjusted(x, y) > 0.05
    y[:, 7] = rng.poisson(0.3, size=60)
    p = stats.mannwhitneyu(x[:, 7], y[:, 7], method="asymptotic").pvalue
    assert smallest_adjusted(x, y) == pytest.approx(200 * p)
    assert smallest_adjusted(x[:, :1] * 0, y[:, :1] * 0) == 1

    real = REAL[REAL.obs["target"] == "none"].copy()
    counts = real.X.toarray()
    counts[:, 3] = 0
    real.X = sparse.csr_matrix(counts)
    assert (evaluate(None, real)["note"] != "no effect").all()


def test_bad_input():
    with pytest.raises(ValueError, match="metrics: 'r2_men' is none. Did you mean 'r2_mean'"):
        evaluate(metrics=["r2_men"])
    with pytest.raises(ValueError, match="baseline is 'rigde'; it must be one of .*Did you mean"):
        evaluate(baseline="rigde")
    with pytest.raises(ValueError, match="n_top is 40, and 40 features are shared"):
        evaluate(n_top=40)
    with pytest.raises(
        ValueError, match="control holds no cells whose obs\\['target'\\] is 'ctrl'"
    ):
        evaluate(control=REAL)
    with pytest.raises(ValueError, match="real holds control cells alone"):
        evaluate(real=CONTROL)
    with pytest.raises(ValueError, match="can't be called 'ridge'"):
        evaluate({"ridge": PREDICTED})
    with pytest.raises(ValueError, match="predicted_expression is 'log'"):
        evaluate(predicted_expression="log")
    with pytest.raises(ValueError, match="pds_cosine needs counts"):
        evaluate(predicted_expression="log1p", metrics=["pds_cosine"])
    with pytest.raises(KeyError, match="perturbation_key: 'goal' is not a column of predicted.obs"):
        evaluate(perturbation_key="goal")
    bad = PREDICTED.copy()
    bad.X = -bad.X
    with pytest.raises(ValueError, match="predicted.X holds negative"):
        evaluate(bad)
