import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from scgm_scvi.benchmark import GENERATORS
from scgm_scvi.benchmark._generators import gaussian_like

KEY = "type"
OTHERS = {k: g for k, g in GENERATORS.items() if k != "scgm"}  # that has tests of its own
SIMPLE = sorted(OTHERS.keys() - {"scvi"})
N_GENES = 80


def make_cells(n=400):
    """Counts of two types; the first two genes rise and fall together, as depth does for all."""
    rng = np.random.default_rng(0)
    label = rng.choice(["a", "b"], n, p=[0.7, 0.3])
    mean = np.where(label[:, None] == "a", rng.gamma(2, 2, N_GENES), rng.gamma(2, 2, N_GENES))
    mean = mean * rng.gamma(8, 1 / 8, (n, 1))
    mean[:, :2] = 8 * rng.gamma(2, 1 / 2, (n, 1))
    mean[:, -1] = 0
    return AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
        obs=pd.DataFrame(
            {KEY: pd.Categorical(label), "other": 1}, index=[f"c{i}" for i in range(n)]
        ),
        var=pd.DataFrame({"length": 1.0}, index=[f"gene{i}" for i in range(N_GENES)]),
    )


TRAIN = make_cells()
CONDITIONS = pd.DataFrame(
    {KEY: np.random.default_rng(1).permutation(["a"] * 1500 + ["b"] * 1200)},
    index=[f"new{i}" for i in range(2700)],
)


@pytest.fixture(scope="module")
def drawn():
    """Cells of every method by name, and the methods themselves."""
    families = [family(TRAIN, KEY, 0, quick=True) for family in OTHERS.values()]
    methods = {name: method for family in families for name, method in family.items()}
    return {name: method(CONDITIONS, 3) for name, method in methods.items()}, methods


DE_NOVO = ["Gaussian copula", "PCA Gaussian", "negative binomial", "scVI Gaussian per label"]
CEILING = "scVI posterior predictive"


def dense(cells, label=None):
    rows = slice(None) if label is None else (cells.obs[KEY] == label).to_numpy()
    return cells.X[rows].toarray()


def test_every_method_is_tested(drawn):
    assert sorted(drawn[0]) == sorted([*DE_NOVO, CEILING])


@pytest.mark.parametrize("name", [*DE_NOVO, CEILING])
def test_counts_of_the_conditions_asked_for(drawn, name):
    cells = drawn[0][name]
    expected = TRAIN.obs[[KEY]] if name == CEILING else CONDITIONS
    pd.testing.assert_frame_equal(cells.obs, expected)
    assert cells.shape == (len(expected), N_GENES)
    assert list(cells.var_names) == list(TRAIN.var_names)
    values = dense(cells)
    assert (values >= 0).all() and (values == np.rint(values)).all()
    assert values.any(axis=1).all()


@pytest.mark.parametrize("name", [*DE_NOVO, CEILING])
def test_same_seed_same_cells(drawn, name):
    cells, methods = drawn
    again, other = methods[name](CONDITIONS, 3), methods[name](CONDITIONS, 4)
    assert (again.X != cells[name].X).nnz == 0
    assert (other.X != cells[name].X).nnz > 0


@pytest.mark.parametrize("label", ["a", "b"])
@pytest.mark.parametrize("name", DE_NOVO)
def test_means_of_each_label(drawn, name, label):
    real, made = dense(TRAIN, label), dense(drawn[0][name], label)
    if name in ("Gaussian copula", "negative binomial"):
        error = real.std(axis=0) * np.sqrt(1 / len(made))
        assert (np.abs(made.mean(axis=0) - real.mean(axis=0)) <= 5 * error).all()
    other = dense(TRAIN, "ab".replace(label, ""))
    distance = [np.abs(np.log1p(made.mean(0)) - np.log1p(x.mean(0))).mean() for x in (real, other)]
    # log space bends means, and scVI is hardly trained
    assert distance[0] < 0.5 * distance[1]
    assert made.sum(axis=1).mean() == pytest.approx(real.sum(axis=1).mean(), rel=0.1)


def test_negative_binomial_has_each_genes_variance_and_no_correlation_but_depth(drawn):
    real, made = dense(TRAIN, "a"), dense(drawn[0]["negative binomial"], "a")
    ratio = made.var(axis=0)[:-1] / real.var(axis=0)[:-1]
    assert np.median(np.abs(np.log(ratio))) < 0.15
    assert np.abs(np.log(ratio)).max() < 0.6
    assert np.corrcoef(real[:, 0], real[:, 1])[0, 1] > 0.8
    assert np.corrcoef(made[:, 0], made[:, 1])[0, 1] < 0.4


@pytest.mark.parametrize("label", ["a", "b"])
def test_copula_has_the_training_values_and_their_correlations(drawn, label):
    real, made = dense(TRAIN, label), dense(drawn[0]["Gaussian copula"], label)
    for gene in range(N_GENES):
        assert set(made[:, gene]) <= set(real[:, gene])
        # two-sample test of the whole marginal
        assert stats.ks_2samp(made[:, gene], real[:, gene]).pvalue > 1e-4
    expected = stats.spearmanr(real[:, :2]).statistic
    assert stats.spearmanr(made[:, :2]).statistic == pytest.approx(0.9 * expected, abs=0.06)


def test_gaussian_has_the_means_and_the_shrunk_covariance():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(8, 4)) @ rng.normal(size=(4, 4)) + [0, 1, 2, 3]
    covariance = np.cov(data.T, bias=True)
    for shrinkage in (0.0, 0.4):
        draws = gaussian_like(data, 200_000, np.random.default_rng(1), shrinkage)
        expected = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
        np.testing.assert_allclose(draws.mean(axis=0), data.mean(axis=0), atol=0.03)
        np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.02 * covariance.max())


@pytest.mark.parametrize("name", SIMPLE)
def test_a_label_of_one_cell(name):
    few = TRAIN[:40].copy()
    few.obs[KEY] = ["rare", *["common"] * 39]
    (method,) = OTHERS[name](few, KEY, 0, quick=True).values()
    cells = method(pd.DataFrame({KEY: ["rare"] * 200}, index=map(str, range(200))), 0)
    expected = dense(few, "rare").sum()
    assert dense(cells).sum(axis=1).mean() == pytest.approx(expected, rel=0.1)
    if name == "gaussian_copula":
        assert (dense(cells) == dense(few, "rare")).all()


@pytest.mark.parametrize("name", SIMPLE)
def test_unknown_label(name):
    (method,) = OTHERS[name](TRAIN, KEY, 0, quick=True).values()
    with pytest.raises(
        ValueError, match=r"type: no training cell is \['c'\]; ask for \['a', 'b'\]"
    ):
        method(pd.DataFrame({KEY: ["a", "c"]}), 0)


def test_training_cells_are_left_as_they_were(drawn):
    fresh = make_cells()
    assert (TRAIN.X != fresh.X).nnz == 0
    pd.testing.assert_frame_equal(TRAIN.obs, fresh.obs)
    assert not TRAIN.uns and not TRAIN.obsm
