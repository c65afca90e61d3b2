import warnings

import numpy as np
import pytest
from scipy import stats

from scgm_scvi.metrics import (
    classifier_auc,
    energy_distance,
    mixing,
    mmd2,
    prdc,
    wasserstein2,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def samples(rng, n=150, shift=0.0, d=4):
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) + shift


def test_classifier_auc_is_a_half_for_one_distribution_and_one_apart(rng):
    assert classifier_auc(*samples(rng)) == pytest.approx(0.5, abs=0.1)
    assert classifier_auc(*samples(rng, shift=1.5)) > 0.95
    x, y = samples(rng, shift=0.5)
    assert classifier_auc(x, y, seed=3) == classifier_auc(x, y, seed=3)


def test_wasserstein2_of_gaussians_is_the_closed_form():
    quantiles = stats.norm.ppf((np.arange(400) + 0.5) / 400)[:, None]
    x, y = 1.0 + 2.0 * quantiles, -2.0 + 0.5 * quantiles
    expected = np.sqrt((1.0 - -2.0) ** 2 + (2.0 - 0.5) ** 2)
    assert wasserstein2(x, y[::-1]) == pytest.approx(expected, rel=5e-3)


def test_wasserstein2_is_the_optimal_matching_in_one_dimension(rng):
    x, y = rng.normal(size=(80, 1)), rng.exponential(size=(80, 1)) * 3
    expected = np.sqrt(((np.sort(x, 0) - np.sort(y, 0)) ** 2).mean())
    assert wasserstein2(x, y) == pytest.approx(expected)
    assert wasserstein2(y, x) == pytest.approx(expected)


def test_wasserstein2_of_a_translation_is_its_length_and_of_copies_zero(rng):
    x, _ = samples(rng, d=3)
    shifted = x[::-1] + np.array([3.0, 4.0, 0.0])
    assert wasserstein2(x, shifted) == pytest.approx(5.0)
    assert wasserstein2(x, x[::-1]) == pytest.approx(0, abs=1e-6)


def test_mmd2_is_unbiased(rng):
    """Its mean is the population's MMD², 0 where the distributions are one."""
    b = 0.7

    def kernel_mean(m):
        """E exp(-u² / 2b) for u ~ N(m, 2), the difference of two unit Gaussians."""
        return np.sqrt(b / (b + 2)) * np.exp(-(m**2) / (2 * (b + 2)))

    for shift in (0.0, 1.0):
        repeats = [mmd2(*samples(rng, n=15, shift=shift, d=1), b) for _ in range(600)]
        expected = 2 * kernel_mean(0) - 2 * kernel_mean(shift)
        error = np.std(repeats) / np.sqrt(len(repeats))
        # with its diagonal the estimate would be off by about 0.07
        assert error < 0.01
        assert np.mean(repeats) == pytest.approx(expected, abs=4 * error)


def test_energy_distance_is_unbiased(rng):
    """Its mean is that of the populations, 0 where the distributions are one."""

    def mean_distance(m):
        """E|u| for u ~ N(m, 2), the difference of two unit Gaussians."""
        folded = np.sqrt(4 / np.pi) * np.exp(-(m**2) / 4)
        return folded + m * (1 - 2 * stats.norm.cdf(-m / np.sqrt(2)))

    for shift in (0.0, 1.0):
        repeats = [energy_distance(*samples(rng, n=15, shift=shift, d=1)) for _ in range(600)]
        expected = 2 * mean_distance(shift) - 2 * mean_distance(0)
        error = np.std(repeats) / np.sqrt(len(repeats))
        # with pairs of a point with itself the estimate would be off by about 0.15
        assert error < 0.02
        assert np.mean(repeats) == pytest.approx(expected, abs=4 * error)


def test_energy_distance_is_that_of_pairs_one_by_one(rng):
    x, y = rng.normal(size=(12, 3)), rng.exponential(size=(9, 3))

    def mean(pairs):
        return np.mean([np.linalg.norm(a - b) for a, b in pairs])

    between = mean([(a, b) for a in x for b in y])
    within = [mean([(a, b) for i, a in enumerate(z) for b in z[:i]]) for z in (x, y)]
    assert energy_distance(x, y) == pytest.approx(2 * between - within[0] - within[1])
    assert energy_distance(y, x) == pytest.approx(energy_distance(x, y))


def test_energy_distance_sees_more_than_means(rng):
    """Squared distances would not: they are twice the squared distance of the means."""
    x = rng.normal(size=(500, 2))
    assert energy_distance(x, rng.permutation(x, axis=0) * 3) > 0.5


def test_mixing_is_near_one_for_one_distribution_and_zero_apart(rng):
    x, y = samples(rng, n=400)
    # the share of k neighbours drawn at random varies, which costs about 2 / k
    assert mixing(x, y) == pytest.approx(1, abs=0.1)
    assert mixing(x, y + 100) == 0


def test_mixing_is_the_inverse_simpson_index(rng):
    # all points are each other's neighbours, so each sees 19 and 20 of 39 others
    x, y = samples(rng, n=20)
    p = 19 / 39
    assert mixing(x, y, n_neighbors=39) == pytest.approx(1 / (p**2 + (1 - p) ** 2) - 1)


def test_prdc_of_one_distribution_is_near_one(rng):
    scores = prdc(*samples(rng, n=500))
    assert min(scores.values()) > 0.85
    assert scores["density"] == pytest.approx(1, abs=0.15)


def test_prdc_of_copies(rng):
    x, _ = samples(rng)
    scores = prdc(x, x.copy())
    assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)
    # k within the radius: itself and its k - 1 nearest, and the k-th where rounding has it so
    assert 1 <= scores["density"] <= 1.2


def test_prdc_far_apart_is_zero(rng):
    assert prdc(*samples(rng, shift=100)) == dict.fromkeys(
        ["precision", "recall", "density", "coverage"], 0.0
    )


def test_prdc_of_a_lost_mode(rng):
    near, far = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 50
    scores = prdc(np.vstack([near, far]), rng.normal(size=(400, 2)))
    assert scores["precision"] > 0.9
    assert scores["recall"] == pytest.approx(0.5, abs=0.05)
    assert scores["coverage"] == pytest.approx(0.5, abs=0.05)
    invented = prdc(rng.normal(size=(400, 2)), np.vstack([near, far]))
    assert invented["precision"] == pytest.approx(0.5, abs=0.05)
    assert invented["recall"] > 0.9


def test_prdc_of_one_cell_over_and_over(rng):
    x, _ = samples(rng)
    mode = np.repeat(x[:1], 150, axis=0)
    scores = prdc(x, mode)
    assert scores["precision"] == 1
    assert scores["recall"] == 0  # balls of radius 0 hold nothing
    assert scores["coverage"] < 0.2
    assert prdc(mode, x)["precision"] == 0


def test_a_forest_leaves_warning_filters_alone():
    before = list(warnings.filters)
    rng = np.random.default_rng(0)
    for _ in range(3):
        classifier_auc(*rng.normal(size=(2, 150, 40)))
    assert list(warnings.filters) == before
