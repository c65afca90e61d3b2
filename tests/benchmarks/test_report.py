import json

import matplotlib
import pandas as pd
import pytest
from report import report, summary

matplotlib.use("agg")

FLOORS = {"rf_auc_gene": 0.5, "rf_auc_pca": 0.5, "w2": 8.0, "lisi": 0.9, "recall": 0.9}
FLOORS |= {"gcorr_pearson": 0.8, "nn_ratio": 1.0}


def rows(split, method, seed, **values):
    table = pd.DataFrame({"metric": values.keys(), "value": values.values()})
    table["floor"] = table["metric"].map(FLOORS)
    table["train_floor"] = table["floor"] * 1.1
    return table.assign(split=split, method=method, seed=seed, condition="all", n=100)


@pytest.fixture
def folder(tmp_path):
    same = {"rf_auc_pca": 0.6, "lisi": 0.9, "recall": 0.8, "gcorr_pearson": 0.7, "nn_ratio": 1.65}
    costs = {"train_seconds": 1234.5, "cells_per_second": 700.0, "peak_memory_mb": 500.0}
    parts = [
        rows("pbmc", "PCA Gaussian", 0, rf_auc_gene=0.9, w2=16.0, **same, **costs),
        rows("pbmc", "SCGM", 0, rf_auc_gene=0.6, w2=8.0, **same, **costs, kl=7.25),
        rows("pbmc", "SCGM", 1, rf_auc_gene=0.7, w2=12.0, **same, **costs, kl=7.25),
        rows("marrow", "own method", 0, rf_auc_gene=0.6, w2=8.0, **same, **costs),
        rows("pbmc", "SCGM", 0, rf_auc_gene=0.0).assign(condition="B cells"),
    ]
    pd.concat(parts).to_csv(tmp_path / "results.csv", index=False)
    settings = {"quick": False, "versions": {"torch": "2"}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def tables(text, split):
    """Rows of the two tables of a split, as dictionaries by method."""
    section = text.split(f"## {split}\n")[1].split("## ")[0]
    found = []
    for block in section.split("\n\n"):
        lines = [[c.strip() for c in row.strip("|").split("|")] for row in block.splitlines()]
        if block.startswith("|"):
            found.append({row[0]: dict(zip(lines[0], row, strict=True)) for row in lines[2:]})
    return found


def test_summary_sets_means_of_seeds_against_the_floors(folder):
    fidelity, costs = tables(report(folder), "pbmc")
    floor, train, ours, pca = fidelity.values()
    names = ["real against real (floor)", "training cells handed back", "SCGM", "PCA Gaussian"]
    assert list(fidelity) == names
    assert ours["rf_auc_gene"] == "0.650 (0.071)"  # not the row of one condition
    assert pca["rf_auc_gene"] == "0.900"
    assert [row["w2/floor"] for row in (floor, train, ours, pca)] == [
        "1 (8.000)",
        "1.100",
        "1.250",
        "2.000",
    ]
    assert [row["gcorr-floor"] for row in (floor, train, ours)] == ["0 (0.800)", "+0.080", "-0.100"]
    assert [row["nn_ratio/train"] for row in (floor, train, ours)] == ["0.909", "1.000", "1.500"]
    assert "label_w2/floor" not in ours  # was not measured
    assert costs["SCGM"]["training, CPU-s"] == "1,234"
    assert costs["SCGM"]["KL, nats a cell"] == "7.25"
    assert costs["PCA Gaussian"]["KL, nats a cell"] == ""


def test_every_split_has_its_tables_and_figures_are_drawn(folder):
    text = report(folder)
    assert (folder / "summary.md").read_text() == text
    assert "own method" in tables(text, "marrow")[0]
    assert "SCGM" not in tables(text, "marrow")[0]
    for name in ("fidelity", "costs"):
        assert (folder / f"{name}.png").stat().st_size > 10_000


def test_quick_run_is_called_no_result(folder):
    results = pd.read_csv(folder / "results.csv")
    versions = {"versions": {"torch": "2"}}
    assert "--quick" not in summary(results, {"quick": False, **versions})
    assert "--quick" in summary(results, {"quick": True, **versions})
