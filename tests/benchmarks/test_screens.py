"""Semi-synthetic screens do what their law says, and baselines win where they should."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from screen_baselines import table_of
from screens import CONTROL, changed, make_screen


def make_control(n=600, n_genes=150):
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=n)
    mean = rng.gamma(0.7, 4.0, size=(3, n_genes)) * 0.3 + rng.gamma(0.7, 4.0, size=n_genes)
    counts = rng.poisson(mean[kind] * rng.gamma(10, 0.1, size=(n, 1))).astype(np.float32)
    return AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"line": np.array(["a", "b", "c"])[kind]}, index=[f"r{i}" for i in range(n)]
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )


REAL = make_control()
SIZE = {"n_perturbations": 12, "n_cells": 10}


def test_counts_follow_the_effect():
    """Thinned, a count keeps its share of the mean; with a gain, genes that were not seen appear."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, size=(20000, 3)).astype(float)
    share = counts.sum(0) / counts.sum()
    out = changed(counts, np.array([-1.0, 0.0, 0.7]), share, rng)
    ratio = out.mean(0) / counts.mean(0)
    assert ratio == pytest.approx(np.exp([-1.0, 0.0, 0.7]), rel=0.02)
    assert (out[:, 0] <= counts[:, 0]).all() and (out[:, 1] == counts[:, 1]).all()
    assert (out[:, 2] >= counts[:, 2]).all()
    assert (out[counts[:, 2] == 0, 2] > 0).any()


def test_what_a_screen_holds():
    screen = make_screen(
        REAL, context_key="line", n_pairs=4, doses=(0.2, 1.0), no_effect=0.25, **SIZE
    )
    obs, truth = screen.adata.obs, screen.adata.uns["truth"]
    assert (screen.adata.X.data % 1 == 0).all() and screen.adata.obs_names.is_unique
    perturbed = obs[obs["perturbation"] != CONTROL]
    assert (
        perturbed.groupby(["perturbation", "context", "dose"], observed=True).size() == 10
    ).all()
    assert len(perturbed) == 16 * 3 * 2 * 10
    assert (~truth["effect"]).sum() == 3
    assert truth["additive"].sum() == 12 + 2
    assert screen.vectors.shape == (12, 16)
    control = obs["perturbation"] == CONTROL
    assert (obs.loc[control, "context"].value_counts() <= 100).all()
    # cells for the oracle are in nobody's hands
    names = {n.rsplit("-", 1)[0] for n in screen.adata.obs_names[control]}
    assert not names.intersection(screen.fresh.obs_names)


def test_the_law():
    law = make_screen(REAL, context_key="line", n_pairs=6, **SIZE)
    truth, law = law.adata.uns["truth"], law.law
    states = np.random.default_rng(0).normal(size=(7, 5))

    def effect(name, context="a", dose=1.0):
        return law.effect(name, states, context, dose)

    assert (effect(CONTROL) == 0).all()
    for name in truth.index[~truth["effect"]]:
        assert (effect(name) == 0).all()
    for pair in truth.index[truth.index.str.contains("+", regex=False)]:
        total = sum(effect(p) for p in pair.split("+"))
        assert np.allclose(effect(pair), total) == truth.loc[pair, "additive"]
    loud = truth.index[truth["effect"]][0]
    assert np.abs(effect(loud) - effect(loud, "b")).max() > 1e-3
    sizes = [np.linalg.norm(effect(loud, dose=d)) for d in (0.0, 0.25, 0.5, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] == 0
    assert sizes[1] == pytest.approx(0.625 * sizes[3])
    assert np.linalg.matrix_rank(np.vstack([effect(n) for n in truth.index])) <= 8
    assert 0 < (effect(loud) != 0).any(axis=0).mean() < 0.9  # sparse
    assert np.ptp(effect(loud), axis=0).max() > 0.01  # cells differ


def test_one_seed_one_screen():
    one, same, other = (make_screen(REAL, seed=s, **SIZE).adata for s in (1, 1, 2))
    assert (one.X != same.X).nnz == 0 and one.obs.equals(same.obs)
    assert (one.X != other.X).nnz > 0


@pytest.mark.slow
def test_baselines_win_where_they_should():
    found = table_of(
        REAL, "pearson_centered", n_perturbations=80, n_cells=40, n_vector=6, no_effect=0
    )
    assert found["oracle"].to_numpy() == pytest.approx(1, abs=0.2)
    assert (found["control"].abs() < 0.5).all()
    best = found.drop(columns="oracle").idxmax(axis=1)
    assert best["linear"] == "ridge" and found.loc["linear", "ridge"] > 0.7
    assert found.loc["few", "ridge"] < found.loc["linear", "ridge"]
    assert best["local"] == "nearest" and found.loc["local", "nearest"] > 0.6
    assert best["pairs, additive"] == "additive" and found.loc["pairs, additive", "additive"] > 0.8
    gap = found.loc["pairs, additive", "additive"] - found.loc["pairs, not", "additive"]
    assert gap > 0.1
    across = found["additive_across"].dropna()
    assert across.iloc[0] > 0.9 and across.iloc[1] < across.iloc[0]
