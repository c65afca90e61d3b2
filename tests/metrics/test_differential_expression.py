import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse, stats

from scgm_scvi.datasets import pbmc68k
from scgm_scvi.metrics import differential_expression, evaluate_generation
from scgm_scvi.metrics._differential_expression import DE_METRICS, Contrasts, _test
from scgm_scvi.metrics._space import Cells, log_normalize

KEY = "cell_type"
TYPES = ("a", "b", "c")
METRICS = list(DE_METRICS)


def make_cells(seed, n=240, *, gain=1.0, effect=1.0, types=TYPES, n_genes=100):
    """Poisson counts; a third of the genes differ between types, by ``effect`` times as much."""
    law = np.random.default_rng(0)
    base = law.gamma(2.0, 1.0, n_genes)
    fold = {t: law.normal(0, 1, n_genes) * (law.random(n_genes) < 1 / 3) for t in TYPES}
    rng = np.random.default_rng(seed)
    label = np.resize(types, n)
    rate = gain * base * np.exp(effect * np.stack([fold[t] for t in label]))
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame({KEY: pd.Categorical(label)}, index=[f"{seed}-{i}" for i in range(n)])
    return AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


REAL, TRAIN = make_cells(1), make_cells(2)


@pytest.fixture(autouse=True)
def no_forest(monkeypatch):
    """Leave out the slow metric: it is asked about elsewhere."""
    monkeypatch.setattr("scgm_scvi.metrics._evaluator.classifier_auc", lambda x, y, seed: 0.5)


def rows_of(generated, real=REAL, **kwargs):
    arguments = {"train": TRAIN, "condition_key": KEY, "n_pcs": 5}
    table = evaluate_generation(generated, real, **{**arguments, **kwargs})
    return table[table["metric"].isin(METRICS)].set_index(["condition", "metric"])


def evaluate(*args, **kwargs):
    return rows_of(*args, **kwargs).loc["all"]


def test_z_and_p_are_those_of_scanpy():
    adata = pbmc68k()
    adata.X = sparse.csr_matrix(adata.X)
    found = differential_expression(adata, KEY)
    log = adata.copy()
    log.X = log_normalize(adata.X.toarray().astype(np.float64))
    sc.tl.rank_genes_groups(log, KEY, method="wilcoxon", tie_correct=True)
    assert list(found["category"].unique()) == sorted(adata.obs[KEY].unique())
    for name, of_category in found.groupby("category"):
        theirs = sc.get.rank_genes_groups_df(log, name).set_index("names")
        ours = of_category.set_index("gene").loc[theirs.index]
        if (adata.obs[KEY] == name).sum() < 10:
            assert ours["z"].isna().all()
            continue
        np.testing.assert_allclose(ours["z"], theirs["scores"], rtol=1e-6, atol=1e-6)  # float32
        np.testing.assert_allclose(ours["p"], theirs["pvals"], rtol=1e-8)
        np.testing.assert_allclose(ours["p_adjusted"], theirs["pvals_adj"], rtol=1e-8)


def test_ties_are_those_of_scipy():
    """Few values, so that nearly all ranks are tied; and genes with one value only."""
    rng = np.random.default_rng(0)
    log = rng.integers(0, 3, (90, 12)).astype(float)
    log[:, 3] = 1.0
    label = rng.permutation(np.resize(np.array(["a", "b", "b"], dtype=object), 90))
    found = _test(log, label, ["a", "b"])
    for i, name in enumerate(["a", "b"]):
        theirs = stats.mannwhitneyu(
            *(log[label == name], log[label != name]), use_continuity=False, method="asymptotic"
        ).pvalue
        theirs[3] = 1  # scipy has none
        np.testing.assert_allclose(found.p[i], theirs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            found.p_adjusted[i], stats.false_discovery_control(theirs), atol=1e-12
        )
    np.testing.assert_allclose(found.z[0], -found.z[1], atol=1e-12)
    assert found.z[0, 3] == 0


def test_log_fold_change_is_that_of_mean_counts_per_10000():
    found = differential_expression(REAL, KEY).set_index(["category", "gene"])
    x = REAL.X.toarray().astype(np.float64)
    rate = x / x.sum(axis=1, keepdims=True) * 1e4
    is_b = (REAL.obs[KEY] == "b").to_numpy()
    expected = np.log2((rate[is_b].mean(axis=0) + 1) / (rate[~is_b].mean(axis=0) + 1))
    np.testing.assert_allclose(found.loc["b", "log2_fold_change"], expected)


def test_small_and_missing_categories():
    adata = REAL.copy()
    adata.obs[KEY] = adata.obs[KEY].cat.add_categories(["few", "none"])
    adata.obs.iloc[:9, 0] = "few"
    adata.obs.iloc[9:30, 0] = np.nan
    found = differential_expression(adata, KEY).set_index("category")
    assert list(found.index.unique()) == ["a", "b", "c", "few"]
    numbers = found.drop(columns="gene")
    assert numbers.loc["few"].isna().all(axis=None)
    assert numbers.drop("few").notna().all(axis=None)
    # cells without a category are among the rest
    named = adata.copy()
    named.obs[KEY] = named.obs[KEY].cat.add_categories("unknown").fillna("unknown")
    other = differential_expression(named, KEY).set_index("category").drop("unknown")
    pd.testing.assert_frame_equal(found, other)
    alone = differential_expression(REAL[REAL.obs[KEY] == "a"], KEY)
    assert alone[["z", "p", "p_adjusted", "log2_fold_change"]].isna().all(axis=None)
    with pytest.raises(KeyError, match="key: 'cell' is not a column of adata.obs"):
        differential_expression(adata, "cell")


def test_genes_beyond_a_block_are_tested_alike(monkeypatch):
    whole = differential_expression(REAL, KEY)
    monkeypatch.setattr("scgm_scvi.metrics._differential_expression._GENES_AT_ONCE", 17)
    pd.testing.assert_frame_equal(whole, differential_expression(REAL, KEY), rtol=1e-12)


def test_thirty_types_take_seconds():
    rng = np.random.default_rng(0)
    log = np.log1p(rng.poisson(0.2, (3000, 2000)) / rng.gamma(5, 400, (3000, 1)) * 1e4)
    label = rng.integers(0, 30, 3000).astype(str).astype(object)
    started = time.process_time()
    _test(log, label, [str(i) for i in range(30)])
    assert time.process_time() - started < 10


def test_perfect_generator_scores_the_floor():
    table = evaluate(make_cells(4))
    assert list(table.index) == METRICS
    assert table[["value", "floor", "train_floor", "ratio"]].notna().all(axis=None)
    assert (table["n"] == 120).all()
    for column in ("value", "floor", "train_floor"):
        assert table.loc["de_slope", column] == pytest.approx(1, abs=0.1)
        for name, margin in {"de_jaccard": 0.1, "de_nmae": 0.1, "de_n_ratio": 0.15}.items():
            assert table.loc[name, column] == pytest.approx(table.loc[name, "floor"], abs=margin)
    assert table.loc["de_n_ratio", "floor"] == 1


def test_damped_and_exaggerated_effects_are_found_out():
    damped, exact, strong = (evaluate(make_cells(4, effect=e))["value"] for e in (0.4, 1, 1.6))
    slopes = [t["de_slope"] for t in (damped, exact, strong)]
    assert slopes[0] < 0.6 < slopes[1] < 1.2 < slopes[2]
    for other in (damped, strong):
        assert other["de_nmae"] > exact["de_nmae"] + 0.2
    assert damped["de_n_ratio"] < exact["de_n_ratio"] - 0.2
    assert damped["de_jaccard"] < exact["de_jaccard"] - 0.2


def test_generator_that_ignores_the_condition_finds_nothing():
    generated = make_cells(4)
    generated.obs[KEY] = np.random.default_rng(0).permutation(generated.obs[KEY].astype(str))
    value = evaluate(generated)["value"]
    assert value["de_slope"] == pytest.approx(0, abs=0.1)
    assert value["de_jaccard"] < 0.1
    assert value["de_n_ratio"] < 0.1
    assert value["de_nmae"] == pytest.approx(1, abs=0.15)


def test_noise_in_the_real_half_shows_in_the_floor():
    """With shallower cells the slope of real on real falls, and a perfect generator's with it."""
    deep, shallow = (
        evaluate(make_cells(4, gain=g), make_cells(1, gain=g), train=None, n_max=90)
        for g in (3.0, 0.1)
    )
    assert shallow.loc["de_slope", "floor"] < deep.loc["de_slope", "floor"] - 0.1
    for table in (deep, shallow):
        assert table.loc["de_slope", "value"] == pytest.approx(
            table.loc["de_slope", "floor"], abs=0.12
        )
    assert deep["train_floor"].isna().all()


def test_numbers_by_hand():
    """One condition, of cells that are drawn alike whatever the seed: all there are."""
    real, other = make_cells(1, n=120), make_cells(4, n=120)
    half = np.arange(120) // 3 % 2
    cells = []
    for adata in (real, other):
        x = adata.X.toarray().astype(float)
        log = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
        cells.append(Cells(x.sum(axis=1), log, log, adata.obs[KEY].astype(str).to_numpy(object)))
    n, scores = Contrasts(cells[0], None, half, seed=0, n_max=2000).scores(cells[1])
    assert n == {"all": 60, "a": 20, "b": 20, "c": 20}
    tables = [
        differential_expression(real[half == r], KEY).set_index(["category", "gene"])
        for r in (0, 1)
    ]
    expected = dict.fromkeys(METRICS, 0.0)
    for ours, theirs in (tables, tables[::-1]):
        is_de, also = (t.loc["b", "p_adjusted"] < 0.05 for t in (ours, theirs))
        x, y = (t.loc["b", "log2_fold_change"][is_de] for t in (ours, theirs))
        expected["de_slope"] += stats.linregress(x, y).slope / 2
        expected["de_jaccard"] += (is_de & also).sum() / (is_de | also).sum() / 2
        expected["de_nmae"] += (y - x).abs().mean() / x.abs().mean() / 2
    expected["de_n_ratio"] = 1
    assert scores["floor"]["b"] == pytest.approx(expected)
    assert scores["train_floor"] == {}


def test_conditions_have_rows_of_their_own():
    generated = make_cells(4)
    spoilt = generated.X.toarray()
    of_a = (generated.obs[KEY] == "a").to_numpy()
    spoilt[of_a] = make_cells(4, effect=0.0).X.toarray()[of_a]
    generated.X = spoilt
    table = rows_of(generated, per_condition=True)
    assert list(table.index.unique("condition")) == ["all", "a", "b", "c"]
    assert (table.loc["a", "n"] == 40).all()
    slope = table.xs("de_slope", level="metric")
    assert slope["value"].idxmin() == "a"
    assert slope.loc["a", "value"] < 0.6 < 0.8 < slope.loc["a", "floor"]


def test_value_and_floor_are_of_as_many_cells():
    """With fewer cells of a type, of generated and of real ones, fewer genes are found."""
    tables = {}
    for seed in (4, 5):
        cells = make_cells(seed)
        few = cells[(cells.obs[KEY] != "a") | (np.arange(240) < 72)]  # 24 of type a
        tables["few", seed], tables["many", seed] = (
            rows_of(a, per_condition=True) for a in (few, cells)
        )
    few, many = tables["few", 4], tables["many", 4]
    assert (many.loc["a", "n"] == 40).all()
    assert (few.loc["a", "n"] == 12).all()
    assert (few.loc["all", "n"] == 92).all()
    assert few.loc[("a", "de_n_ratio"), "value"] == pytest.approx(1, abs=0.3)
    for name, other in (("few", few), ("many", many)):
        columns = ["floor", "train_floor"]
        pd.testing.assert_frame_equal(tables[name, 5][columns], other[columns])
    assert (few.loc["a", "floor"] != many.loc["a", "floor"]).any()


def test_sizes_add_up_to_n_max():
    table = rows_of(make_cells(4), per_condition=True, n_max=50)
    n = table["n"].groupby(level="condition").first()
    assert n["all"] == 50 == n[["a", "b", "c"]].sum()


def test_too_few_cells_have_no_numbers():
    real = make_cells(1, types=("a",) * 10 + ("b",) * 10 + ("c",))
    table = rows_of(make_cells(4), real, per_condition=True)
    columns = ["value", "floor", "train_floor"]
    assert table.loc["c", columns].isna().all(axis=None)
    assert table.loc["all", columns].notna().all(axis=None)
    one = rows_of(make_cells(4, types=("a",)), per_condition=True)
    assert one[columns].isna().all(axis=None)  # nothing to hold its genes against


def test_cells_and_genes_may_be_reordered():
    """Genes and all cells of a half are the same set in any order."""
    order = np.random.default_rng(0).permutation(REAL.n_vars)
    pd.testing.assert_frame_equal(
        evaluate(make_cells(4)[:, order]), evaluate(make_cells(4)), rtol=1e-12
    )


def test_floors_are_found_once(monkeypatch):
    calls = []

    def counted(log, label, categories):
        calls.append(len(log))
        return _test(log, label, categories)

    monkeypatch.setattr("scgm_scvi.metrics._differential_expression._test", counted)
    rows_of({"x": make_cells(4), "y": make_cells(5)}, per_condition=True)
    assert len(calls) == 2 + 2 + 2 * 2  # halves, training cells, methods


def test_peaks_and_data_without_conditions_have_none():
    cells = make_cells(4, gain=0.2)
    table = evaluate_generation(
        cells, make_cells(1, gain=0.2), condition_key=KEY, space="lsi", n_pcs=5
    )
    assert not set(METRICS) & set(table["metric"])
    table = evaluate_generation(cells, REAL, n_pcs=5)
    assert not set(METRICS) & set(table["metric"])


def test_cells_without_counts():
    empty = ad.concat([make_cells(4), make_cells(5)[:30]], index_unique="-")
    empty.X = empty.X.toarray()
    empty.X[240:] = 0
    assert evaluate(empty)[["value", "floor"]].notna().all(axis=None)
