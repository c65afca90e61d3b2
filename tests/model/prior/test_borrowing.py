"""Weights against a solver of constrained problems, and rules where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from scgm_scvi.model.prior._borrowing import (
    Groups,
    choose_borrowing,
    convex_weights,
)

N_FEATURES = 60


def make_groups(seed=0, n=6, trust=None, effect=1.0, local=0.0, noise=0.02):
    """Groups between two poles, whose response goes from one pole's to the other's."""
    rng = np.random.default_rng(seed)
    poles, responses = rng.normal(size=(2, 2, N_FEATURES))
    place = np.linspace(0, 1, n)[:, None]
    before = (1 - place) * poles[0] + place * poles[1]
    change = effect * ((1 - place) * responses[0] + place * responses[1])
    change = change + local * rng.normal(size=change.shape)
    before, after = (x + noise * rng.normal(size=x.shape) for x in (before, before + change))
    return Groups(before, after, np.full(n, 1 / n) if trust is None else trust)


@pytest.mark.parametrize("ridge", [0.01, 0.3, 3.0])
def test_weights_are_those_of_a_solver(ridge):
    rng = np.random.default_rng(1)
    groups = make_groups(n=5, trust=rng.dirichlet(np.ones(5)), noise=0.3)
    own = rng.normal(size=N_FEATURES)
    spread = ((groups.before - groups.before.mean(0)) ** 2).sum(1).mean()

    def loss(w):
        left = ((own - w @ groups.before) ** 2).sum() / spread
        return left + ridge * ((w - groups.trust) ** 2).sum()

    found = convex_weights(own, groups, ridge)
    assert found.min() >= 0 and found.sum() == pytest.approx(1)
    solved = minimize(
        loss,
        groups.trust,
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(found, solved.x, atol=2e-3)


def test_a_group_between_others_borrows_from_those():
    groups = make_groups(n=5)
    own = (groups.before[0] + groups.before[1]) / 2
    weights = convex_weights(own, groups, 0.01)
    assert weights[:2].sum() > 0.7 and weights[4] < 0.05
    left = [np.linalg.norm(w @ groups.before - own) for w in (weights, groups.trust)]
    assert left[0] < 0.2 * left[1]
    trust = np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    shy = Groups(groups.before, groups.after, trust)
    np.testing.assert_allclose(convex_weights(groups.before[4], shy, np.inf), trust)


def test_where_responses_follow_the_groups_likeness_it_beats_their_mean():
    rule = choose_borrowing(make_groups(n=8))
    assert rule.ridge <= 1
    assert rule.size == pytest.approx(1, abs=0.15)
    expected = rule.expected
    assert expected["borrowed"] > expected["mean_shift"] + 0.02
    assert expected["mean_shift"] > expected["identity"]
    assert expected["pearson_delta"] > 0.9


def test_where_responses_have_nothing_in_common_hardly_anything_is_borrowed():
    rule = choose_borrowing(make_groups(n=8, effect=0.0, local=1.0))
    assert rule.size < 0.5
    assert rule.expected["borrowed"] < rule.expected["identity"] + 0.05
    assert rule.expected["mean_shift"] < rule.expected["identity"]


def test_a_response_that_is_shared_but_noisy_is_borrowed_from_all_alike():
    groups = make_groups(n=8, effect=0.0)
    shared = np.random.default_rng(5).normal(size=N_FEATURES)
    noise = 1.0 * np.random.default_rng(6).normal(size=groups.before.shape)
    groups = Groups(groups.before, groups.before + shared + noise, groups.trust)
    rule = choose_borrowing(groups)
    assert rule.ridge >= 1
    assert 0.6 < rule.size < 1


def test_the_expectation_is_what_comes_out_for_a_group_kept_aside():
    found, came = [], []
    for seed in range(12):
        groups = make_groups(seed, n=9, local=[0.0, 0.3, 1.0][seed % 3])
        rest = groups.without(4)
        rule = choose_borrowing(rest)
        weights = convex_weights(groups.before[4], rest, rule.ridge)
        predicted = groups.before[4] + rule.size * (weights @ rest.change)
        left = ((groups.after[4] - predicted) ** 2).sum()
        came.append(1 - left / ((groups.after[4] - groups.after[4].mean()) ** 2).sum())
        found.append(rule.expected["borrowed"])
    assert np.corrcoef(found, came)[0, 1] > 0.8


def test_of_two_groups_nothing_can_be_said():
    assert choose_borrowing(make_groups(n=2)) is None
    assert choose_borrowing(make_groups(n=3)) is not None


def test_groups_that_are_all_alike():
    groups = make_groups(n=4)
    same = Groups(np.tile(groups.before[0], (4, 1)), groups.after, groups.trust)
    np.testing.assert_allclose(convex_weights(groups.before[1], same, 0.01), groups.trust)
    assert choose_borrowing(same) is not None


def test_neither_rule_nor_size_of_the_expectation_have_seen_the_group():
    """By hand, with equal weights: of each, the size that the other groups ask for."""
    groups = make_groups(0, n=5, effect=0.0, local=1.0)
    rule = choose_borrowing(groups)
    found = np.array(
        [
            convex_weights(groups.before[i], groups.without(i), rule.ridge)
            @ groups.without(i).change
            for i in range(5)
        ]
    )
    own = ((groups.after - groups.after.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    up, down = ((found * x).sum(axis=1) / own for x in (groups.change, found))
    r2 = []
    for i in range(5):
        rest = np.arange(5) != i
        size = np.clip(up[rest].sum() / down[rest].sum(), 0, 1.5)
        left = ((groups.change[i] - size * found[i]) ** 2).sum()
        r2.append(1 - left / own[i])
        np.testing.assert_allclose(rule.errors[i], groups.change[i] - size * found[i])
    assert rule.expected["borrowed"] == pytest.approx(np.mean(r2))
    # so that it may be worse than nothing
    worse = [
        choose_borrowing(make_groups(seed, n=5, effect=0.0, local=1.0)).expected
        for seed in range(10)
    ]
    assert any(e["borrowed"] <= e["identity"] for e in worse)


def test_the_simplest_rule_is_taken_where_none_is_better():
    groups = make_groups(n=8, effect=0.0)
    shared = np.random.default_rng(5).normal(size=N_FEATURES)
    same = Groups(groups.before, groups.before + shared, groups.trust)
    rule = choose_borrowing(same)
    assert np.isinf(rule.ridge) and rule.size == pytest.approx(1)
