"""The demo that the README promises, trained for seconds."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
import scanpy as sc

import scgm_scvi


@pytest.mark.slow
def test_demo(tmp_path):
    out = tmp_path / "made"
    command = [sys.executable, "-m", "scgm_scvi.cli", "demo", "--out", str(out), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    last = run.stdout.strip().splitlines()[-3:]
    assert last[0].startswith("700 cells of 10 types in ")
    assert "AUC" in last[1]
    assert "log-fold changes" in last[1]
    assert last[2].startswith("Next: ")
    assert "Epoch 10/10" in run.stdout + run.stderr  # progress is shown
    cells = sc.read_h5ad(out / "generated.h5ad")
    assert cells.shape == (700, 765)
    real = sc.datasets.pbmc68k_reduced().obs["bulk_labels"].value_counts()
    assert (cells.obs["cell_type"].value_counts() == real).all()
    metrics = pd.read_csv(out / "metrics.csv", index_col="metric")
    assert {"rf_auc_gene", "w2", "cond_acc", "nn_ratio", "de_slope"} <= set(metrics.index)
    assert metrics["floor"].notna().all()
    assert (out / "umap.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_benchmark(tmp_path):
    file, out = tmp_path / "cells.h5ad", tmp_path / "out"
    scgm_scvi.datasets.pbmc68k().write_h5ad(file)
    command = [sys.executable, "-m", "scgm_scvi.cli", "benchmark", str(file), "--key", "cell_type"]
    options = ["--out", str(out), "--n-top-genes", "200", "--generators", "scgm", "gaussian_copula"]
    run = subprocess.run([*command, *options, "--quick"], capture_output=True, text=True)
    assert not run.returncode, run.stderr[-2000:]
    assert "real against real (floor)" in run.stdout
    assert f"All of it in {out / 'report.html'}" in run.stdout
    methods = pd.read_csv(out / "metrics.csv")["method"].unique()
    assert list(methods) == ["SCGM", "Gaussian copula"]
    again = subprocess.run([*command, *options], capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.strip().endswith(f"{out} is there already: give another folder.")
