"""The challenge's metrics are cell-eval2's own, to the digit."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screens import CONTROL, make_screen

from scgm_scvi.metrics import CHALLENGE_METRICS, evaluate_perturbations
from scgm_scvi.metrics._challenge import shifted_counts

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
H1 = SHARED / "data" / "vcc2025_h1_600x1000.h5ad"
NORM = "expr_mse_unbiased_capped_norm"


def test_counts_have_the_mean_that_was_asked_for():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, size=30), size=(4000, 30)).astype(float)
    counts[:, 0] = 0
    delta = rng.normal(size=30) * 0.5
    delta[0], delta[1] = 3, -50  # a gene that was not seen, and one that vanishes
    out = shifted_counts(counts, delta, rng)
    assert (out == np.round(out)).all() and (out >= 0).all()
    assert (out[:, 1] == 0).all()
    unit = counts.sum(axis=1, keepdims=True) / 1e4  # of the depth that was
    found, before = (np.log1p((x / unit).mean(axis=0)) for x in (out, counts))
    expected = np.maximum(before + delta, 0)
    assert found == pytest.approx(expected, abs=0.1)
    np.testing.assert_array_equal(shifted_counts(counts, 0 * delta, rng), counts)


def from_h1():
    if not H1.exists():
        pytest.skip("the H1 cells are not here")
    return ad.read_h5ad(H1)


def semi_synthetic():
    """Strong effects on invented control cells; no name is a gene's."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.8, 3.0, size=200) + 0.2
    control = ad.AnnData(rng.poisson(mean * rng.gamma(8, 1 / 8, size=(600, 1))).astype(np.float32))
    control.obs_names = [f"r{i}" for i in range(600)]
    control.var_names = [f"gene{i}" for i in range(200)]
    screen = make_screen(control, n_perturbations=5, n_cells=60, no_effect=0.2, strength=1.0)
    out = screen.adata
    out.obs["target_gene"] = (
        out.obs["perturbation"].astype(str).replace(CONTROL, "non-targeting").astype("category")
    )
    return out


@pytest.fixture(scope="module", params=[from_h1, semi_synthetic])
def cells(request):
    pytest.importorskip("cell_eval2", reason="the extra 'perturbation' is not installed")
    adata = request.param()
    rng = np.random.default_rng(0)
    half = np.zeros(adata.n_obs, dtype=int)
    for rows in adata.obs.groupby("target_gene", observed=True).indices.values():
        half[rng.permutation(rows)[: len(rows) // 2]] = 1
    control = (adata.obs["target_gene"] == "non-targeting").to_numpy()
    # all control cells are on the real side
    return adata[(half == 0) & ~control], adata[(half == 1) & ~control], adata[control]


ARGUMENTS = {"perturbation_key": "target_gene", "control_value": "non-targeting"}


@pytest.mark.slow  # cell-eval2 compiles for a minute
@pytest.mark.filterwarnings("default")  # theirs
def test_numbers_are_those_of_cell_eval2(cells, caplog):
    import cell_eval2

    real, predicted, control = cells
    with caplog.at_level(logging.WARNING):
        table = evaluate_perturbations(
            predicted, real, control, train=ad.concat([predicted, control]),
            metrics=CHALLENGE_METRICS, **ARGUMENTS,
        )  # fmt: skip
        assert not [r for r in caplog.records if "target-gene exclusion" in r.message]
    config = replace(
        cell_eval2.EvalConfig.from_preset("vcc2026"), pert_col="target_gene", device="cpu"
    )
    if not real.obs["target_gene"].isin(real.var_names).any():  # theirs refuses to guess
        config = replace(config, target_gene_map={"*": None})
    theirs = cell_eval2.compute_metrics(
        ad.concat([predicted, control]), ad.concat([real, control]), config=config
    )
    whole = cell_eval2.aggregate_metrics(theirs)
    mine = table[table["method"] == "predicted"].set_index(["perturbation", "metric"])["value"]
    compared = 0
    for row in theirs.iter_rows(named=True):
        if row["metric"] in CHALLENGE_METRICS:
            expected = np.nan if row["value"] is None else row["value"]
            found = mine[row["perturbation"], row["metric"]]
            assert found == pytest.approx(expected, abs=1e-6, nan_ok=True), row
            compared += 1
    assert compared >= 20
    means = {row["metric"]: row["mean"] for row in whole.iter_rows(named=True)}
    for metric in CHALLENGE_METRICS:
        assert mine["all", metric] == pytest.approx(means[metric], abs=1e-6), metric

    # predicted control cells move nothing
    spoilt = control.copy()
    spoilt.X = spoilt.X * 3
    again = evaluate_perturbations(
        ad.concat([predicted, spoilt[:40]]), real, control,
        metrics=CHALLENGE_METRICS, **ARGUMENTS,
    )  # fmt: skip
    other = again[again["method"] == "predicted"].set_index(["perturbation", "metric"])["value"]
    pd.testing.assert_series_equal(other, mine)
    ends = table[table["perturbation"] == "all"].set_index(["method", "metric"])
    assert (ends.loc["mean", "scaled"].dropna() == 0).all()
