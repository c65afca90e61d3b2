"""Every metric against numpy and scipy on raw arrays."""

import warnings

import numpy as np
import ot
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from scgm_scvi.metrics._response import (
    RESPONSE_METRICS,
    SCORES,
    Response,
    differential_scores,
)
from scgm_scvi.metrics._scaled import scaled
from scgm_scvi.metrics._space import Cells

N_GENES = 25


def make(rng, n, shift=0.0):
    """Log expression with zeros, and components, that need not be those of any PCA."""
    log = np.maximum(rng.normal(size=(n, N_GENES)) + np.linspace(-1, 2, N_GENES), 0)
    log[:, ::3] += shift
    return Cells(np.zeros(n), log, log[:, :4] + rng.normal(size=(n, 4)), np.full(n, ""))


def welch(x, y):
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss")  # of features that hardly vary
        t = stats.ttest_ind(x, y, equal_var=False).statistic
    return np.nan_to_num(t)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_differential_scores_are_welchs(seed):
    rng = np.random.default_rng(seed)
    x, y = make(rng, 30).values, make(rng, 20, shift=0.5).values
    assume(all((z[:, 1:].std(axis=0) > 1e-6).all() for z in (x, y)))
    x[:, 0] = y[:, 0] = 0
    scores = differential_scores(x, y)
    assert scores == pytest.approx(welch(x, y), rel=1e-5, abs=1e-5)
    assert scores[0] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_metrics_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    real, control, cells = make(rng, 40, 1.5), make(rng, 35), make(rng, 40, 1.2)
    n_top, bandwidth2 = 6, 2.0
    found = Response(real, control, bandwidth2, n_top).score(cells)
    assert tuple(found) == RESPONSE_METRICS

    x, c, y = real.values, control.values, cells.values
    # what does not vary within a group has any t statistic that rounding gives it
    assume(all((z.std(axis=0) > 1e-6).all() for z in (x, c, y)))
    residual, total = x.mean(0) - y.mean(0), x.mean(0) - x.mean(0).mean()
    expected = {"r2_mean": 1 - (residual**2).sum() / (total**2).sum()}
    delta, predicted_delta = x.mean(0) - c.mean(0), y.mean(0) - c.mean(0)
    expected["pearson_delta"] = np.corrcoef(delta, predicted_delta)[0, 1]
    order = [
        sorted(range(N_GENES), key=lambda g, t=welch(z, c): -abs(t[g]))[:n_top] for z in (x, y)
    ]
    top = order[0]
    total = x.mean(0)[top] - x.mean(0)[top].mean()
    expected["r2_mean_top"] = 1 - (residual[top] ** 2).sum() / (total**2).sum()
    expected["de_overlap"] = len(set(order[0]) & set(order[1])) / n_top
    expected["de_direction"] = np.mean([delta[g] * predicted_delta[g] > 0 for g in top])
    expected["de_logfc_pearson"] = np.corrcoef(delta[top], predicted_delta[top])[0, 1]
    p, q = real.pca, cells.pca
    between, within = cdist(p, q), [cdist(z, z)[~np.eye(len(z), dtype=bool)] for z in (p, q)]
    expected["e_distance"] = 2 * between.mean() - within[0].mean() - within[1].mean()

    def kernel(d):
        return np.exp(-(d**2) / (2 * bandwidth2)).mean()

    expected["mmd2"] = kernel(within[0]) + kernel(within[1]) - 2 * kernel(between)
    expected["w2"] = np.sqrt(ot.emd2([], [], between**2))
    expected["variance_ratio"] = np.trace(np.cov(y.T)) / np.trace(np.cov(x.T))
    for name in RESPONSE_METRICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name


def test_r2_is_not_the_square_of_a_correlation():
    rng = np.random.default_rng(0)
    real, control = make(rng, 40, 1.0), make(rng, 40)
    doubled = Cells(real.depth, 2 * real.values, real.pca, real.label)
    response = Response(real, control, 1.0, 5)
    assert response.score(real)["r2_mean"] == 1
    assert response.score(doubled)["r2_mean"] < 0.5


def test_genes_that_are_hardly_seen_are_not_called_different():
    """A trifle added to each cell is an infinite t for a gene without a count."""
    rng = np.random.default_rng(0)
    real, control, cells = make(rng, 60, 1.5), make(rng, 60), make(rng, 60, 1.5)
    for c in (real, control, cells):
        c.values[:, 1::3] = 0
    cells.values[:, 1::3] = 1e-6
    response = Response(real, control, 1.0, 5)
    assert response.score(cells)["de_overlap"] >= 0.6
    assert not (np.array(response.top) % 3 == 1).any()
    # where no more are left than are to be called, there is no answer
    few = Response(real, control, 1.0, 17).score(cells)
    names = ["r2_mean_top", "de_overlap", "de_direction", "de_logfc_pearson"]
    assert np.isnan([few[name] for name in names]).all()
    assert not np.isnan([few[name] for name in RESPONSE_METRICS if name not in names]).any()


def test_no_change_has_no_correlation():
    rng = np.random.default_rng(0)
    real, control = make(rng, 40, 1.0), make(rng, 40)
    found = Response(real, control, 1.0, 5).score(control)
    assert np.isnan(found["pearson_delta"])
    assert found["de_direction"] == 0


def coverage_of(x, y):
    real, predicted = (Cells(np.zeros(len(v)), v, v, np.full(len(v), "")) for v in (x, y))
    return SCORES["interval_coverage"](Response(real, real, 1.0, 1), predicted, y.mean(axis=0))


def test_interval_coverage_is_the_nominal_one_of_a_perfect_prediction_ties_or_not():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(2, 2000, 20))
    counts = rng.poisson(0.3, size=(2, 2000, 20)).astype(float)  # three quarters are zero
    for x, y in (smooth, counts):
        assert coverage_of(x, y) == pytest.approx(0.9, abs=0.01)
    # against the definition, with the part of a tie drawn at random
    x, y = counts[0][:200], counts[1][:50]
    below, upto = ((f(y[None], x[:, None])).mean(axis=1) for f in (np.less, np.less_equal))
    u = below + rng.random((4000, *below.shape)) * (upto - below)
    assert coverage_of(x, y) == pytest.approx(((u >= 0.05) & (u <= 0.95)).mean(), abs=2e-3)


def test_interval_coverage_of_predictions_that_are_too_sure_or_too_unsure():
    x = np.random.default_rng(0).normal(size=(500, 10))
    y = np.random.default_rng(1).normal(size=(500, 10))
    assert coverage_of(x, 0.5 * y) == pytest.approx(0.59, abs=0.02)  # P(|z| < .5 * 1.645)
    assert coverage_of(x, 3 * y) > 0.99
    assert coverage_of(x, y + 5) < 0.01


def test_interval_coverage_is_scaled_by_its_distance_from_the_nominal_one():
    assert scaled("interval_coverage", 0.9, 0.89, 0.5) == pytest.approx(0.4 / 0.39)
    assert scaled("interval_coverage", 0.99, 0.9, 0.5) == pytest.approx(0.31 / 0.4)
