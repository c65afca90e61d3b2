"""Cost of building an atlas and of training from it, for several numbers of cells.

    python benchmarks/atlas.py --out FOLDER [--cells 100000 1000000 3000000] [--genes 4000]
    python benchmarks/atlas.py --out FOLDER --figure scgdb_cost.png

Datasets of 50,000 synthetic cells each, h5ad files of counts on real gene ids, ten types that
differ between datasets, about 230 genes a cell (as many as 4,000 variable genes of a blood cell
show). Each size and each phase (build, train) runs in a process of its own, whose peak memory is
that of the whole process, libraries included. Files are removed when their size is done. Rows are
added to FOLDER/cost.csv; sizes that are there are not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

PER_DATASET = 50_000
N_DRAWS = 300  # counts of a cell


def dataset(path: Path, seed: int, n_cells: int, genes: pd.DataFrame) -> None:
    """Counts of ten types, drawn from profiles that a dataset shifts."""
    rng = np.random.default_rng([seed, 1])
    base = np.random.default_rng(0).gamma(0.3, 1.0, (10, len(genes)))
    profiles = base * rng.lognormal(0, 0.3, len(genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    kinds = rng.integers(10, size=n_cells)
    cols = np.empty((n_cells, N_DRAWS), dtype=np.int32)
    for k in range(10):
        rows = np.flatnonzero(kinds == k)
        draws = np.searchsorted(profiles[k].cumsum(), rng.random((len(rows), N_DRAWS)))
        cols[rows] = draws.clip(max=len(genes) - 1)
    indptr = np.arange(n_cells + 1) * N_DRAWS
    ones = np.ones(cols.size, dtype=np.float32)
    x = sparse.csr_matrix((ones, cols.ravel(), indptr), shape=(n_cells, len(genes)))
    x.sum_duplicates()
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {k}" for k in kinds]),
            "tissue": "blood",
            "disease": "normal" if seed % 2 else "COVID-19",
            "donor_id": rng.choice(list("abcdefgh"), n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    ad.AnnData(x, obs=obs, var=genes).write_h5ad(path)


def make(folder: Path, n_cells: int, n_genes: int) -> None:
    from scgm_scvi.atlas import GeneAxis

    axis = GeneAxis.load("human").var
    coding = axis[axis["biotype"] == "protein_coding"].iloc[:n_genes]
    genes = pd.DataFrame({"feature_name": coding["symbol"].to_numpy()}, index=coding.index)
    (folder / "files").mkdir(parents=True)
    for i in range(n_cells // PER_DATASET):
        dataset(folder / "files" / f"d{i:03d}.h5ad", i, PER_DATASET, genes)


def build(folder: Path, n_genes: int) -> dict[str, float]:
    from scgm_scvi import atlas

    files = sorted((folder / "files").glob("*.h5ad"))
    plan = atlas.Plan.from_dict(
        {
            "dataset": [{"source": "local", "id": f.name} for f in files],
            "urls": {"local": str(folder / "files")},
            "qc": {"min_counts": 0, "min_genes": 0, "max_mitochondrial": 1.0},
            "training": {"genes": n_genes},
        }
    )
    report = atlas.build(plan, folder / "store")
    assert (report["status"] == "stored").all(), report
    return {"n": int(report["n_cells"].sum())}


def train(folder: Path, steps: int) -> dict[str, float]:
    from scgm_scvi import SCGM, atlas

    quiet = {"enable_progress_bar": False}
    data = atlas.datamodule(
        folder / "store", labels_key="cell_type_raw", condition_keys=["disease"], batch_size=512
    )
    model = SCGM(registry=data.registry)
    start = time.perf_counter()
    model.train(datamodule=data, max_steps=steps, diffusion=False, **quiet)
    return {"n": steps * 512, "seconds": time.perf_counter() - start}


def phase(folder: Path, name: str, args: argparse.Namespace) -> None:
    """Run one phase in this very process, and say what it cost."""
    warnings.simplefilter("ignore")
    start, cpu = time.perf_counter(), time.process_time()
    out = build(folder, args.genes) if name == "build" else train(folder, args.steps)
    out.setdefault("seconds", time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {**out, "cpu_seconds": time.process_time() - cpu, "peak_mb": peak}
    print("RESULT " + json.dumps(row), flush=True)


def measured(folder: Path, name: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--out", str(folder), "--phase", name]
    command += ["--genes", str(args.genes), "--steps", str(args.steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(run.stdout + run.stderr)
    return json.loads(lines[-1].removeprefix("RESULT "))


def on_disk(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def figure(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, rows in table.sort_values("cells").groupby("phase"):
        axes[0].plot(rows["cells"], rows["peak_mb"], "o-", label=name)
        axes[1].plot(rows["cells"], rows["n"] / rows["cpu_seconds"], "o-", label=name)
    for ax, what in zip(axes, ["peak memory [MB]", "cells per CPU-second"], strict=True):
        ax.set(
            xlabel="cells in the atlas", ylabel=what, xscale="log", ylim=(0, 1.1 * ax.get_ylim()[1])
        )
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    fig.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=200, help="of training, 512 cells each")
    parser.add_argument("--phase", choices=["build", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--figure", type=Path, help="draw what cost.csv holds, and stop")
    args = parser.parse_args()
    if args.phase:
        phase(args.out, args.phase, args)
        return
    results = args.out / "cost.csv"
    if args.figure:
        figure(pd.read_csv(results), args.figure)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for n in args.cells:
        done = pd.read_csv(results)["cells"].tolist() if results.exists() else []
        if n in done:
            continue
        folder = args.out / f"atlas_{n}"
        shutil.rmtree(folder, ignore_errors=True)
        make(folder, n, args.genes)
        rows = [{"phase": p, "cells": n, **measured(folder, p, args)} for p in ("build", "train")]
        for row in rows:
            row["archive_bytes"] = on_disk(folder / "store" / "datasets")
            row["training_bytes"] = on_disk(folder / "store" / "train")
            row["file_bytes"] = on_disk(folder / "files")
        shutil.rmtree(folder)
        table = pd.DataFrame(rows)
        table.to_csv(results, mode="a", header=not results.exists(), index=False)
        print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
