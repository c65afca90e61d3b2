import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi.metrics import evaluate_perturbation, evaluate_perturbations
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
OTHERS = {
    "train_control": make_cells(3, types=("b", "c")),
    "train": make_cells(4, types=("b", "c"), perturbed=True),
}


def evaluate(predicted, real=REAL, control=CONTROL, **kwargs):
    arguments = {"n_top": 10, "n_pcs": 8, **kwargs}
    return evaluate_perturbation(predicted, real, control, **arguments)


def values(table, column="value", method="predicted"):
    return table[table["method"] == method].set_index("metric")[column]


@pytest.fixture(scope="module")
def perfect():
    return evaluate(make_cells(5, perturbed=True), **OTHERS)


def test_it_is_the_case_of_one_among_many():
    cells = {"predicted": make_cells(5, perturbed=True), "real": REAL, "control": CONTROL}
    for key, a in cells.items():
        cells[key] = a.copy()
        cells[key].obs["what"] = "control" if key == "control" else "drug"
    both = [a.copy() for a in OTHERS.values()]
    for a, name in zip(both, ("control", "drug"), strict=True):
        a.obs["what"] = name
    many = evaluate_perturbations(
        **cells,
        **{"perturbation_key": "what", "control_value": "control", "n_top": 10, "n_pcs": 8},
        train=ad.concat(both),
        metrics=RESPONSE_METRICS,
    )
    one = evaluate(cells["predicted"], **OTHERS)
    assert list(one.columns) == [c for c in many.columns if c != "perturbation"]
    same = many[many["perturbation"] == "drug"].set_index(["method", "metric"])
    same = same.loc[list(zip(one["method"], one["metric"], strict=True))]
    # halves are drawn by the name of a perturbation, which differs
    for method in ("control", "mean"):
        np.testing.assert_allclose(
            values(one, method=method)["pearson_delta"],
            same.loc[(method, "pearson_delta"), "value"],
            atol=0.15,
        )
    assert (one["n"].to_numpy() == same["n"].to_numpy()).all()


def test_a_perfect_prediction_scores_the_replicate(perfect):
    assert list(perfect["method"].unique()) == ["predicted", "control", "mean"]
    for column in ("value", "replicate"):
        score = values(perfect, column)
        assert list(score.index) == list(RESPONSE_METRICS)
        assert score[["r2_mean", "r2_mean_top", "pearson_delta", "de_logfc_pearson"]].min() > 0.9
        assert score["de_direction"] == 1
        assert score["de_overlap"] >= 0.8
        assert score["e_distance"] == pytest.approx(0, abs=0.1)
        assert score["mmd2"] == pytest.approx(0, abs=0.01)
        assert score["variance_ratio"] == pytest.approx(1, abs=0.1)
    assert (values(perfect, "n") == 80).all()  # halves; PCA is the training cells'
    assert values(perfect, "scaled")[["r2_mean", "e_distance", "w2"]].min() > 0.8


def test_baselines_are_in_their_places(perfect):
    """Control cells as they are know nothing of the change; other types know some."""
    control, shift = values(perfect, method="control"), values(perfect, method="mean")
    replicate = values(perfect, "replicate")
    for name in ("r2_mean", "r2_mean_top", "pearson_delta", "de_direction", "de_logfc_pearson"):
        assert control[name] < shift[name] <= replicate[name], name
    for name in ("e_distance", "mmd2", "w2"):
        assert control[name] > shift[name] > replicate[name], name
    assert shift["variance_ratio"] == pytest.approx(control["variance_ratio"], rel=0.1)
    np.testing.assert_array_equal(values(perfect, "baseline"), shift)  # 0 of the scale


def test_predicting_no_change_scores_as_control():
    table = evaluate(make_cells(6))
    for name in ("r2_mean", "r2_mean_top", "e_distance", "mmd2", "w2"):
        expected = values(table, method="control")[name]
        assert values(table)[name] == pytest.approx(expected, rel=0.15)
    assert list(table["method"].unique()) == ["predicted", "control"]


def test_the_shift_is_that_of_the_others_means():
    """Made by hand from the control cells and predicted, it scores as the baseline does."""
    shifted = CONTROL.copy()
    means = [log_of(OTHERS[k]).mean(0) for k in ("train", "train_control")]
    shifted.X = log_of(CONTROL) + means[0] - means[1]
    assert shifted.X.min() < 0  # predicted logarithms may be negative
    table = evaluate(shifted, **OTHERS, predicted_expression="log1p")
    for name in ("r2_mean", "r2_mean_top", "pearson_delta", "w2", "variance_ratio"):
        expected = values(table, method="mean")[name]
        assert values(table)[name] == pytest.approx(expected, abs=0.15)
        assert values(table)[name] != pytest.approx(values(table, "replicate")[name], abs=0.01)


def test_several_methods_by_name():
    table = evaluate({"good": make_cells(5, perturbed=True), "bad": make_cells(6)})
    assert values(table, method="good")["r2_mean"] > values(table, method="bad")["r2_mean"]


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
    table = evaluate(predicted, predicted_expression="log1p")
    assert values(table)["variance_ratio"] == pytest.approx(0, abs=1e-9)
    assert values(table)["r2_mean"] > 0.95
    assert values(table)["w2"] > 1.05 * values(table, "replicate")["w2"]
    assert values(table)["mmd2"] > 0.1


def test_contexts():
    types = ("a", "b")
    control, real = make_cells(1, 240, types), make_cells(2, 240, types, perturbed=True)
    predicted = make_cells(5, 240, types, perturbed=True)
    spoilt = (predicted.obs["type"] == "b").to_numpy()
    x = predicted.X.toarray()
    x[spoilt] = make_cells(6, 240, types).X.toarray()[spoilt]  # no change of b
    predicted.X = x
    table = evaluate(predicted, real, control, context_key="type", **OTHERS)
    assert list(table["context"].unique()) == ["a", "b"]
    a, b = (table[table["context"] == t] for t in types)
    # only other types were trained on, or b itself as well
    assert "mean_across" in set(a["method"]) and "mean" not in set(a["method"])
    assert {"mean", "mean_across"} <= set(b["method"])
    for metric in ("r2_mean", "r2_mean_top", "pearson_delta"):
        assert values(a)[metric] > 0.9
        assert values(b)[metric] < values(b, method="control")[metric] + 0.2
        assert values(b)[metric] < values(b, "replicate")[metric] - 0.2


def test_genes_are_matched_by_name(perfect):
    predicted = make_cells(5, perturbed=True)
    order = np.random.default_rng(0).permutation(len(GENES))
    pd.testing.assert_frame_equal(evaluate(predicted[:, order], **OTHERS), perfect)


def test_same_seed_same_numbers(perfect):
    predicted = make_cells(5, perturbed=True)
    pd.testing.assert_frame_equal(evaluate(predicted, **OTHERS), perfect)
    assert not evaluate(predicted, **OTHERS, seed=1).equals(perfect)


def test_bad_input():
    with pytest.raises(KeyError, match="context_key: 'typ' is not a column of predicted.obs. Did"):
        evaluate(REAL, context_key="typ")
    real = make_cells(2, types=("a", "b"), perturbed=True)
    with pytest.raises(ValueError, match=r"control holds no cells whose obs\['type'\] is 'b'"):
        evaluate(REAL, real, context_key="type")
    with pytest.raises(ValueError, match="train is given, and train_control is not"):
        evaluate(REAL, train=CONTROL)
    with pytest.raises(ValueError, match="train_control is given, and train is not"):
        evaluate(REAL, train_control=CONTROL)
    with pytest.raises(ValueError, match="train holds no cells"):
        evaluate(REAL, train=REAL[:0], train_control=CONTROL)
    with pytest.raises(ValueError, match="predicted_expression is 'log'; it must be"):
        evaluate(REAL, predicted_expression="log")
    for bad, said in (({}, "holds no method"), (None, "predicted is NoneType")):
        with pytest.raises((ValueError, TypeError), match=said):
            evaluate(bad)
    for place in ("real", "control"):
        with pytest.raises(ValueError, match=f"{place} holds no cells"):
            evaluate(REAL, **{place: REAL[:0]})
    some = REAL.copy()
    some.obs["type"] = [None, *["a"] * 159]
    with pytest.raises(ValueError, match="'type' is missing for 1 cells"):
        evaluate(REAL, some, context_key="type")
    with pytest.raises(ValueError, match="baseline is 'mean', which is made of training cells"):
        evaluate(REAL, baseline="mean")
    with pytest.raises(TypeError, match="nope"):
        evaluate(REAL, nope=1)
    other = REAL.copy()
    other.var_names = [f"other{g}" for g in GENES]
    with pytest.raises(ValueError, match="share no var_names"):
        evaluate(other)


def test_values_that_are_not_what_they_are_said_to_be():
    logs = REAL.copy()
    logs.X = log_of(REAL)
    with pytest.warns(UserWarning, match="predicted.*with predicted_expression='log1p'"):
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
    others = {k: a.copy() for k, a in OTHERS.items()}
    before = [a.copy() for a in (*objects, *others.values())]
    evaluate(*objects, **others, context_key="type")
    assert objects[0].is_view
    for a, b in zip((*objects, *others.values()), before, strict=True):
        assert (a.X != b.X).sum() == 0
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert not len(a.uns) and not len(a.obsm)
