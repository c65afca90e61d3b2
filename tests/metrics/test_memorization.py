import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from scgm_scvi.metrics import memorization_report

GENES = [f"gene{i}" for i in range(30)]
MEAN = np.random.default_rng(0).gamma(2.0, 3.0, size=len(GENES))


def make_cells(seed, n=100, donors=("d1", "d2"), mean=MEAN):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean * rng.gamma(10, 0.1, size=(n, 1)))
    obs = pd.DataFrame(
        {"donor": pd.Categorical(np.resize(donors, n))}, index=[f"{seed}-{i}" for i in range(n)]
    )
    return AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"gene{i}" for i in range(len(mean))]),
    )


TRAIN, HOLDOUT, REFERENCE = make_cells(1), make_cells(2, n=120), make_cells(3)


def report(generated, train=TRAIN, holdout=HOLDOUT, **kwargs):
    arguments = {"pca_reference": REFERENCE, "n_pcs": 8, **kwargs}
    return memorization_report(generated, train, holdout, **arguments)


class Loss:
    """A model whose loss is a column of ``obs``, or all that it is given."""

    def __init__(self, values):
        self.values = values

    def denoising_loss(self, adata):
        return self.values(adata)


def test_distances_are_those_of_brute_force():
    """Every metric from all pairwise distances, without sklearn's neighbours."""
    generated = make_cells(4, n=70)
    table = report(generated).set_index("metric")

    def log(a):
        x = a.X.toarray().astype(float)
        return np.log1p(x / x.sum(1, keepdims=True) * 1e4)

    pca = PCA(8, svd_solver="full").fit(log(REFERENCE))
    g, t, h = (pca.transform(log(a)) for a in (generated, TRAIN, HOLDOUT))

    def distances(x, y):
        return np.sort(np.linalg.norm(x[:, None] - y[None], axis=2), axis=1)

    to_train, floor = distances(g, t), distances(h, t)
    for name, statistic in (("median", np.median), ("p5", lambda d: np.quantile(d, 0.05))):
        expected = statistic(to_train[:, 0]) / statistic(floor[:, 0])
        assert table.loc[f"distance_ratio_{name}", "value"] == pytest.approx(expected)
        assert table.loc[f"distance_ratio_{name}", "floor"] == 1
        for column, d in (("value", to_train), ("floor", floor)):
            expected = statistic(d[:, 0] / d[:, 1])
            assert table.loc[f"nndr_{name}", column] == pytest.approx(expected)
    assert (table["n"] == 100).all()

    # as many held-out as training cells: nothing is drawn but the halves of the floor
    table = report(generated, holdout=HOLDOUT[:100]).set_index("metric")
    share = (to_train[:, 0] < distances(g, h[:100])[:, 0]).mean()
    assert table.loc["closer_to_train", "value"] == pytest.approx(share)


@pytest.mark.parametrize("with_reference", [False, True])
def test_cells_of_the_same_law_leak_nothing(with_reference):
    """Also where a PCA of many genes and few cells fits their noise: means are the ideals."""
    draws = []
    mean = np.ones(200)
    for seed in range(0, 60, 4):
        cells = [make_cells(100 + seed + i, n=60, mean=mean) for i in range(4)]
        reference = cells[3] if with_reference else None
        table = report(cells[2], *cells[:2], pca_reference=reference, seed=seed)
        draws.append(table.set_index("metric")[["value", "floor"]])
    draws = pd.concat(draws, keys=range(len(draws))).groupby("metric")
    mean, error = draws.mean(), draws.std() / 15**0.5
    for column in ("value", "floor"):
        assert error.loc["closer_to_train", column] < 0.04
        # in a PCA of the training cells alone it would be 0.03
        assert mean.loc["closer_to_train", column] == pytest.approx(0.5, abs=0.12)
    for name in ("distance_ratio_median", "distance_ratio_p5", "nndr_median", "nndr_p5"):
        tolerance = 4 * error.loc[name].max() + 0.01
        assert mean.loc[name, "value"] == pytest.approx(mean.loc[name, "floor"], abs=tolerance)
    assert (mean.loc[["dup_frac", "identical_frac"]] == 0).all(axis=None)


def test_training_cells_handed_back():
    table = report(TRAIN.copy()).set_index("metric")
    value = table["value"]
    assert value["closer_to_train"] == 1
    assert value[["dup_frac", "identical_frac"]].tolist() == [1, 1]
    for name in ("distance_ratio_median", "distance_ratio_p5", "nndr_median", "nndr_p5"):
        assert value[name] == pytest.approx(0, abs=1e-6)
    assert table.loc[["dup_frac", "identical_frac"], "floor"].tolist() == [0, 0]


def test_a_few_copies_show_in_the_tail():
    generated = make_cells(4)
    x = generated.X.toarray()
    x[:10] = TRAIN.X.toarray()[:10]
    generated.X = x
    table = report(generated).set_index("metric")
    assert table.loc["identical_frac", "value"] == 0.1
    assert table.loc["dup_frac", "value"] == 0.1
    assert table.loc["distance_ratio_p5", "value"] == pytest.approx(0, abs=1e-6)
    assert table.loc["distance_ratio_median", "value"] > 0.9


def test_identical_counts_are_more_than_the_same_place():
    """Twice the counts are at the same place in log CP10K, and other counts."""
    twice = TRAIN.copy()
    twice.X = twice.X * 2
    table = report(twice).set_index("metric")
    assert table.loc["dup_frac", "value"] == 1
    assert table.loc["identical_frac", "value"] == 0


def test_near_copies_raise_the_alarm_without_a_duplicate():
    near = TRAIN.copy()
    near.X = sparse.csr_matrix(
        np.random.default_rng(0).binomial(near.X.toarray().astype(int), 0.9).astype(np.float32)
    )
    table = report(near).set_index("metric")
    assert table.loc["closer_to_train", "value"] > 0.8
    assert table.loc["distance_ratio_median", "value"] < 0.7
    assert table.loc["nndr_median", "value"] < table.loc["nndr_median", "floor"] - 0.1
    assert table.loc["identical_frac", "value"] < 0.1


def test_donors_whose_cells_are_given_away_stand_out():
    generated = make_cells(4)
    x = generated.X.toarray()
    rows = np.flatnonzero(TRAIN.obs["donor"] == "d2")[:40]
    x[:40] = TRAIN.X.toarray()[rows]
    generated.X = x
    table = report(generated, donor_key="donor")
    assert list(table.columns) == ["donor", "metric", "value", "floor", "n"]
    assert list(table.index) == list(range(len(table)))
    assert list(table["donor"].unique()) == ["all", "d1", "d2"]
    pd.testing.assert_frame_equal(
        table[table["donor"] == "all"], report(generated), check_index_type=False
    )
    table = table.set_index(["donor", "metric"])
    assert (table.loc[["d1", "d2"], "n"] == 50).all()
    assert table.loc[("d1", "identical_frac"), "value"] == 0
    assert table.loc[("d2", "identical_frac"), "value"] == 0.4
    closer = table["value"].xs("closer_to_train", level="metric")
    assert closer["d2"] > closer["d1"] + 0.1


def test_a_donor_is_measured_as_if_alone():
    train = make_cells(1, donors=("d1", "d1", "d2"))
    table = report(make_cells(4), train, donor_key="donor")
    alone = report(make_cells(4), train[train.obs["donor"] == "d2"])
    part = table[table["donor"] == "d2"].set_index("metric").drop("closer_to_train")
    alone = alone.set_index("metric").drop("closer_to_train")  # drawn anew
    columns = ["value", "floor", "n"]
    pd.testing.assert_frame_equal(part[columns], alone[columns])


def test_small_and_missing_donors():
    train = make_cells(1, donors=("d1",) * 15 + ("few",))
    train.obs.iloc[0, 0] = np.nan
    table = report(make_cells(4), train, donor_key="donor")
    assert list(table["donor"].unique()) == ["all", "d1", "few"]
    few = table[table["donor"] == "few"]
    assert few[["value", "floor"]].isna().all(axis=None)
    assert (few["n"] == 6).all()
    assert (table.loc[table["donor"] == "d1", "n"] == 93).all()


def test_membership_is_the_area_under_the_curve():
    """As many pairs of a training and a held-out cell as the loss has in the right order."""
    rng = np.random.default_rng(0)
    train_loss, holdout_loss = rng.normal(-0.5, 1, 100).round(1), rng.normal(0, 1, 120).round(1)
    values = {100: train_loss, 120: holdout_loss}
    model = Loss(lambda adata: values[adata.n_obs])
    table = report(make_cells(4), model=model, donor_key="donor")
    table = table.set_index(["donor", "metric"])

    def share(members):
        lower = members[:, None] < holdout_loss[None]
        return (lower + 0.5 * (members[:, None] == holdout_loss[None])).mean()

    assert table.loc[("all", "membership_auc"), "value"] == pytest.approx(share(train_loss))
    assert table.loc[("all", "membership_auc"), "n"] == 100
    of_donor = train_loss[(TRAIN.obs["donor"] == "d2").to_numpy()]
    assert table.loc[("d2", "membership_auc"), "value"] == pytest.approx(share(of_donor))
    assert share(train_loss) > 0.55
    assert table.loc[("all", "membership_auc"), "floor"] == pytest.approx(0.5, abs=0.15)
    assert "membership_auc" not in report(make_cells(4))["metric"].to_numpy()


def test_a_model_that_knows_its_cells_is_found_out():
    names = set(TRAIN.obs_names)
    model = Loss(lambda adata: np.array([0.1 if n in names else 1.0 for n in adata.obs_names]))
    table = report(make_cells(4), model=model).set_index("metric")
    assert table.loc["membership_auc", "value"] == 1
    assert table.loc["membership_auc", "floor"] == 0.5


def test_same_seed_same_numbers():
    first, again, other = (report(make_cells(4), seed=s, donor_key="donor") for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_training_cells_as_held_out_set_no_scale():
    table = report(make_cells(4), holdout=TRAIN).set_index("metric")
    assert table.loc[["distance_ratio_median", "distance_ratio_p5"], "value"].isna().all()
    assert table.loc["identical_frac", "floor"] == 1
    assert table.loc["closer_to_train", "value"] == 0.5  # all are ties


def test_bad_input():
    generated = make_cells(4)
    with pytest.raises(
        KeyError, match=r"'doner' is not a column of train.obs. Did you mean 'donor'"
    ):
        report(generated, donor_key="doner")
    train = make_cells(1, donors=("all", "d2"))
    with pytest.raises(ValueError, match="'donor' holds the value 'all'.*rename it"):
        report(generated, train, donor_key="donor")
    with pytest.raises(ValueError, match="holdout holds 15 cells: at least 20 are needed"):
        report(generated, holdout=HOLDOUT[:15])
    with pytest.raises(ValueError, match="generated holds 3 cells: at least 10 are needed"):
        report(generated[:3])
    with pytest.raises(TypeError, match="model is str without a method denoising_loss"):
        report(generated, model="SCGM")
    with pytest.raises(ValueError, match=r"denoising_loss\(train\) has the shape \(3,\)"):
        report(generated, model=Loss(lambda adata: np.zeros(3)))
    with pytest.raises(ValueError, match="100 values not finite"):
        report(generated, model=Loss(lambda adata: np.full(adata.n_obs, np.nan)))
    negative = HOLDOUT.copy()
    negative.X = -negative.X
    with pytest.raises(ValueError, match="holdout.X holds negative"):
        report(generated, holdout=negative)
    other = generated.copy()
    other.var_names = [f"other{g}" for g in GENES]
    with pytest.raises(ValueError, match="share no var_names"):
        report(other)


def test_inputs_are_left_as_they_were():
    objects = [make_cells(4, n=200)[::2], TRAIN.copy(), HOLDOUT.copy()]
    before = [a.copy() for a in objects]
    memorization_report(*objects, donor_key="donor")
    assert objects[0].is_view
    for a, b in zip(objects, before, strict=True):
        assert (a.X != b.X).sum() == 0
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert not len(a.uns) and not len(a.obsm)
