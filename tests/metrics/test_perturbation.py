import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi.metrics import evaluate_perturbation
from scgm_scvi.metrics._response import RESPONSE_METRICS

GENES = [f"gene{i}" for i in range(60)]
LAW = np.random.default_rng(0)
PROFILE = {t: LAW.gamma(1.5, 2.0, size=len(GENES)) for t in ("a", "b", "c")}
COMMON = LAW.normal(size=len(GENES)) * (LAW.random(len(GENES)) < 0.4)
# the response of a type is half its own
FOLD = {t: np.exp(COMMON + 0.5 * LAW.normal(size=len(GENES))) for t in ("a", "b", "c")}


def make_cells(seed, n=160, types=("a",), perturbed=False):
    rng = np.random.default_rng(seed)
    label = np.resize(types, n)
    mean = np.stack([PROFILE[t] * (FOLD[t] if perturbed else 1) for t in label])
    counts = rng.poisson(mean * rng.gamma(10, 0.1, size=(n, 1)))
    obs = pd.DataFrame({"type": pd.Categorical(label)}, index=[f"{seed}-{i}" for i in range(n)])
    return AnnData(
        sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES)
    )


def log_of(adata):
    x = adata.X.toarray().astype(float)
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


CONTROL, REAL = make_cells(1), make_cells(2, perturbed=True)
OTHERS = (make_cells(3, types=("b", "c")), make_cells(4, types=("b", "c"), perturbed=True))
REFERENCE = make_cells(7, types=("a", "b", "c"), perturbed=True)


def evaluate(predicted, real=REAL, control=CONTROL, **kwargs):
    arguments = {"n_top": 10, "n_pcs": 8, **kwargs}
    return evaluate_perturbation(predicted, real, control, **arguments)


def by_metric(table):
    return table.set_index("metric")


@pytest.fixture(scope="module")
def perfect():
    return evaluate(make_cells(5, perturbed=True), shift_from=OTHERS)


def test_a_perfect_prediction_scores_the_floor(perfect):
    assert list(perfect.columns) == [
        *("condition", "metric", "value", "floor", "control", "mean_shift", "n")
    ]
    assert tuple(perfect["metric"]) == RESPONSE_METRICS
    assert (perfect["condition"] == "all").all()
    assert (perfect["n"] == 64).all()  # half of what the PCA leaves
    assert perfect.notna().all(axis=None)
    table = by_metric(perfect)
    for column in ("value", "floor"):
        score = table[column]
        assert score[["r2_mean", "r2_mean_top", "pearson_delta", "de_logfc_pearson"]].min() > 0.9
        assert score["de_direction"] == 1
        assert score["de_overlap"] >= 0.8
        assert score["e_distance"] == pytest.approx(0, abs=0.1)
        assert score["mmd2"] == pytest.approx(0, abs=0.01)
        assert score["variance_ratio"] == pytest.approx(1, abs=0.1)
    assert table.loc["w2", "value"] == pytest.approx(table.loc["w2", "floor"], rel=0.05)


def test_baselines_are_in_their_places(perfect):
    """Control cells as they are know nothing of the change; other types know some."""
    table = by_metric(perfect)
    for name in ("r2_mean", "r2_mean_top", "pearson_delta", "de_direction", "de_logfc_pearson"):
        assert table.loc[name, "control"] < table.loc[name, "mean_shift"], name
        assert table.loc[name, "mean_shift"] <= table.loc[name, "floor"], name
    for name in ("e_distance", "mmd2", "w2"):
        assert table.loc[name, "control"] > table.loc[name, "mean_shift"], name
        assert table.loc[name, "mean_shift"] > table.loc[name, "floor"], name
    assert table.loc["pearson_delta", "control"] == pytest.approx(0, abs=0.4)
    # a shift leaves the spread as it was
    same = pytest.approx(table.loc["variance_ratio", "mean_shift"])
    assert table.loc["variance_ratio", "control"] == same


def test_predicting_no_change_scores_as_control():
    table = by_metric(evaluate(make_cells(6)))
    for name in ("r2_mean", "r2_mean_top", "e_distance", "mmd2", "w2"):
        assert table.loc[name, "value"] == pytest.approx(table.loc[name, "control"], rel=0.15)
    assert table["mean_shift"].isna().all()


def test_the_shift_is_that_of_the_others_means():
    """Made by hand from the control cells and predicted, it scores as the column does."""
    shifted = CONTROL.copy()
    shifted.X = log_of(CONTROL) + log_of(OTHERS[1]).mean(0) - log_of(OTHERS[0]).mean(0)
    assert shifted.X.min() < 0  # predicted logarithms may be negative
    table = by_metric(
        evaluate(
            shifted,
            shift_from=OTHERS,
            predicted_expression="log1p",
            pca_reference=REFERENCE,
        )
    )
    for name in ("r2_mean", "r2_mean_top", "pearson_delta", "w2", "variance_ratio"):
        assert table.loc[name, "value"] == pytest.approx(table.loc[name, "mean_shift"], abs=0.1)
        assert table.loc[name, "value"] != pytest.approx(table.loc[name, "floor"], abs=0.01)


def test_other_cells_are_for_the_baseline_alone(perfect):
    with_others = evaluate(REAL, shift_from=OTHERS, pca_reference=REFERENCE)
    without = evaluate(REAL, pca_reference=REFERENCE)
    columns = ["value", "floor", "control", "n"]
    pd.testing.assert_frame_equal(with_others[columns], without[columns])
    assert without["mean_shift"].isna().all()
    assert (with_others["n"] == 80).all()  # nothing is left aside for the PCA


def test_counts_and_their_logarithms_are_one_prediction():
    counts = make_cells(5, perturbed=True)
    logs = counts.copy()
    logs.X = sparse.csr_matrix(log_of(counts))
    pd.testing.assert_frame_equal(
        evaluate(counts), evaluate(logs, predicted_expression="log1p"), rtol=1e-10
    )


def test_means_repeated_have_no_variance():
    predicted = REAL.copy()
    predicted.X = np.tile(log_of(REAL).mean(0), (REAL.n_obs, 1))
    table = by_metric(evaluate(predicted, predicted_expression="log1p"))
    assert table.loc["variance_ratio", "value"] == pytest.approx(0, abs=1e-9)
    assert table.loc["r2_mean", "value"] > 0.95
    assert table.loc["w2", "value"] > 1.05 * table.loc["w2", "floor"]
    assert table.loc["mmd2", "value"] > 0.1


def test_groups_follow_all_cells():
    types = ("a", "b")
    control, real = make_cells(1, 240, types), make_cells(2, 240, types, perturbed=True)
    predicted = make_cells(5, 240, types, perturbed=True)
    spoilt = (predicted.obs["type"] == "b").to_numpy()
    x = predicted.X.toarray()
    x[spoilt] = make_cells(6, 240, types).X.toarray()[spoilt]  # no change of b
    predicted.X = x
    table = evaluate(predicted, real, control, condition_key="type", pca_reference=REFERENCE)
    assert list(table["condition"].unique()) == ["all", "a", "b"]
    assert list(table.index) == list(range(3 * len(RESPONSE_METRICS)))
    table = table.set_index(["condition", "metric"])
    assert table.loc["all", "n"].iloc[0] == 120
    assert (table.loc[["a", "b"], "n"] == 60).all()
    for metric in ("r2_mean", "r2_mean_top", "pearson_delta"):
        assert table.loc[("a", metric), "value"] > 0.9
        b = table.loc[("b", metric)]
        assert b["value"] < b["control"] + 0.2
        assert b["value"] < b["floor"] - 0.2


def test_the_only_group_is_the_whole():
    table = evaluate(make_cells(5, perturbed=True), condition_key="type", shift_from=OTHERS, seed=3)
    whole, part = (table[table["condition"] == name].iloc[:, 1:] for name in ("all", "a"))
    pd.testing.assert_frame_equal(whole, part.set_axis(whole.index))


def test_small_and_missing_groups_are_listed():
    real = make_cells(2, types=("a",) * 9 + ("b",), perturbed=True)
    predicted = make_cells(5, types=("a", "c"), perturbed=True)
    table = evaluate(predicted, real, condition_key="type").set_index(["condition", "metric"])
    assert list(table.index.unique("condition")) == ["all", "a", "b", "c"]
    columns = ["value", "floor", "control", "mean_shift"]
    assert table.loc[["b", "c"], columns].isna().all(axis=None)
    assert (table.loc[["b", "c"], "n"] == 0).all()
    assert table.loc["a", "value"].notna().all()


def test_sides_are_as_small_as_the_smallest():
    assert (evaluate(make_cells(5, n=30, perturbed=True))["n"] == 30).all()
    assert (evaluate(REAL, control=CONTROL[:50])["n"] == 20).all()
    assert (evaluate(REAL, n_max=25)["n"] == 25).all()
    assert evaluate(REAL, control=CONTROL[:20])["value"].isna().all()  # 8 a side


def test_few_detected_genes_leave_no_top():
    real, control = REAL.copy(), CONTROL.copy()
    for a in (real, control):
        a.X = a.X.toarray()
        a.X[:, 20:] = 0
    table = by_metric(evaluate(REAL, real, control, n_top=20))
    names = ["r2_mean_top", "de_overlap", "de_direction", "de_logfc_pearson"]
    assert table.loc[names, ["value", "floor", "control"]].isna().all(axis=None)


def test_genes_are_matched_by_name(perfect):
    predicted = make_cells(5, perturbed=True)
    order = np.random.default_rng(0).permutation(len(GENES))
    table = evaluate(predicted[:, order], shift_from=OTHERS)
    pd.testing.assert_frame_equal(table, perfect)


def test_same_seed_same_numbers(perfect):
    predicted = make_cells(5, perturbed=True)
    pd.testing.assert_frame_equal(evaluate(predicted, shift_from=OTHERS), perfect)
    assert not evaluate(predicted, shift_from=OTHERS, seed=1).equals(perfect)


def test_bad_input():
    with pytest.raises(
        KeyError, match="condition_key: 'typ' is not a column of predicted.obs. Did"
    ):
        evaluate(REAL, condition_key="typ")
    control = CONTROL.copy()
    control.obs["type"] = pd.Categorical(np.resize(["all"], 160))
    real = REAL.copy()
    real.obs["type"] = control.obs["type"].to_numpy()
    with pytest.raises(ValueError, match="'type' holds the value 'all'"):
        evaluate(REAL, real, condition_key="type")
    with pytest.raises(ValueError, match="predicted_expression is 'log'; it must be"):
        evaluate(REAL, predicted_expression="log")
    with pytest.raises(ValueError, match="n_top is 60, and 60 features are shared"):
        evaluate(REAL, n_top=60)
    with pytest.raises(ValueError, match="n_top is 0; it must be at least 1"):
        evaluate(REAL, n_top=0)
    with pytest.raises(ValueError, match="shift_from is AnnData; it must be a pair"):
        evaluate(REAL, shift_from=CONTROL)
    with pytest.raises(ValueError, match=r"shift_from\[1\] holds no cells"):
        evaluate(REAL, shift_from=(CONTROL, REAL[:0]))
    other = REAL.copy()
    other.var_names = [f"other{g}" for g in GENES]
    with pytest.raises(ValueError, match="share no var_names"):
        evaluate(other)


def test_values_that_are_not_what_they_are_said_to_be():
    logs = REAL.copy()
    logs.X = log_of(REAL)
    with pytest.warns(UserWarning, match="say so with predicted_expression='log1p'"):
        evaluate(logs)
    counts = REAL.copy()
    counts.X = counts.X * 10
    with pytest.raises(ValueError, match="at most 9.2: if these are counts, say so with"):
        evaluate(counts, predicted_expression="log1p")
    logs.X[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"predicted.X holds infinite or NaN values"):
        evaluate(logs, predicted_expression="log1p")
    with pytest.raises(ValueError, match=r"real.X holds negative, infinite or NaN values"):
        evaluate(REAL, real=logs)


def test_inputs_are_left_as_they_were():
    objects = [make_cells(5, n=320, perturbed=True)[::2], REAL.copy(), CONTROL.copy()]
    others = tuple(a.copy() for a in OTHERS)
    before = [a.copy() for a in (*objects, *others)]
    evaluate(*objects, shift_from=others, condition_key="type")
    assert objects[0].is_view
    for a, b in zip((*objects, *others), before, strict=True):
        assert (a.X != b.X).sum() == 0
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert not len(a.uns) and not len(a.obsm)
