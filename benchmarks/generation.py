"""Train SCGM with its defaults, generate the held-out cells' composition, and measure.

    python benchmarks/generation.py --splits FOLDER --out results.csv [--names pbmc3k marrow]
    python benchmarks/generation.py --train a.h5ad --test b.h5ad [--ref c.h5ad] --out results.csv

A folder holds NAME_train.h5ad, NAME_test.h5ad and NAME_ref.h5ad (the last fits the evaluation's
PCA). One thread; CPU-seconds are the process's own. Rows: the generated cells, and the posterior
predictive of the training cells, which is the decoder's ceiling.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from scipy import sparse

import scgm_scvi


def run(files: dict[str, Path], label_key: str, seed: int) -> pd.DataFrame:
    train, test = ad.read_h5ad(files["train"]), ad.read_h5ad(files["test"])
    ref = ad.read_h5ad(files["ref"]) if files.get("ref") else None
    real_train = train.copy()
    scvi.settings.seed = seed
    scgm_scvi.SCGM.setup_anndata(train, labels_key=label_key)
    model = scgm_scvi.SCGM(train)
    quiet = {"enable_progress_bar": False}
    cpu = [time.process_time()]
    model.train(diffusion=False, **quiet)
    cpu.append(time.process_time())
    model.train_diffusion(seed=seed, **quiet)
    cpu.append(time.process_time())
    conditions = test.obs[[label_key]]
    cells = model.generate(conditions=conditions, seed=seed, progress_bar=False)
    cpu.append(time.process_time())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        counts = [
            sparse.csr_matrix(model.module.sample(batch).numpy())
            for batch in model._make_data_loader(adata=train, batch_size=512)
        ]
    ceiling = ad.AnnData(sparse.vstack(counts, format="csr"), obs=real_train.obs, var=train.var)
    rows = []
    for name, candidate in (("SCGM", cells), ("posterior predictive", ceiling)):
        table = scgm_scvi.metrics.evaluate_generation(
            candidate, test, train=real_train, pca_reference=ref, condition_key=label_key
        )
        rows.append(table.assign(method=name))
    seconds = np.diff(cpu)
    diagnosis = model.diagnose()
    return pd.concat(rows).assign(
        seed=seed,
        cpu_stage_one=seconds[0],
        cpu_stage_two=seconds[1],
        cells_per_cpu_second=len(conditions) / seconds[2],
        kl=diagnosis["kl"],
        active_dimensions=diagnosis["active_dimensions"],
        gap=diagnosis["gap"],
    )


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds; distances over the floor, accuracy and depth against it."""
    wide = results.pivot_table(
        index=["split", "method", "seed"],
        columns="metric",
        values=["value", "floor", "train_floor"],
    )
    value, floor, train_floor = (wide[k] for k in ("value", "floor", "train_floor"))
    out = value[["rf_auc_gene", "rf_auc_pca", "lisi", "recall", "gcorr_pearson", "dup_frac"]].copy()
    for key in ("w2", "label_w2"):
        out[f"{key}/floor"] = value[key] / floor[key]
    out["cond_acc-floor"] = value["cond_acc"] - floor["cond_acc"]
    out["depth_ks-floor"] = value["depth_ks"] - floor["depth_ks"]
    out["nn_ratio/train"] = value["nn_ratio"] / train_floor["nn_ratio"]
    grouped = out.groupby(["split", "method"])
    return (
        grouped.mean()
        .round(3)
        .join(grouped[["rf_auc_gene", "rf_auc_pca"]].std().round(3).add_suffix(" sd"))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--names", nargs="*")
    for part in ("train", "test", "ref"):
        parser.add_argument(f"--{part}", type=Path)
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if args.splits:
        found = sorted(p.name.removesuffix("_train.h5ad") for p in args.splits.glob("*_train.h5ad"))
        parts = ("train", "test", "ref")
        splits = {
            n: {part: args.splits / f"{n}_{part}.h5ad" for part in parts}
            for n in args.names or found
        }
    else:
        splits = {args.train.stem: {"train": args.train, "test": args.test, "ref": args.ref}}
    done = [pd.read_csv(args.out)] if args.out.exists() else []
    for name, files in splits.items():
        for seed in args.seeds:
            if done and ((done[0]["split"] == name) & (done[0]["seed"] == seed)).any():
                continue  # resumed
            done.append(run(files, args.label_key, seed).assign(split=name))
            done = [pd.concat(done)]
            done[0].to_csv(args.out, index=False)
            print(summary(done[0][(done[0]["split"] == name)]).T.to_string(), flush=True)
    print(summary(done[0]).T.to_string())


if __name__ == "__main__":
    main()
