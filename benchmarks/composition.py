"""Combinations that were never seen: a condition of types that training had without it only.

    python benchmarks/composition.py --train FILE.h5ad --test FILE.h5ad --label-key type \\
        --condition-key stimulation --value stimulated --leave-out "B cells" "NK cells" --out FOLDER

One model is trained without the cells of --leave-out that have the condition. Cells of those types
with the condition are then generated, jointly and additively and with guidance of the condition,
and compared with the real, held-out ones by metrics.evaluate_perturbation. The model is kept in
--out and used again. --split-key takes apart a column "type|condition" into the two.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import torch
from editing import trained

from scgm_scvi.metrics import evaluate_perturbation

COLUMNS = ["r2_mean", "r2_mean_top", "pearson_delta", "e_distance", "mmd2", "variance_ratio"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--condition-key", required=True)
    parser.add_argument("--split-key", help="column of 'type|condition' to make the two of")
    parser.add_argument("--value", required=True, help="the condition that is left out")
    parser.add_argument("--leave-out", nargs="+", required=True, metavar="TYPE")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 1.5, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    train, test = ad.read_h5ad(args.train), ad.read_h5ad(args.test)
    for adata in (train, test) if args.split_key else ():
        parts = adata.obs[args.split_key].astype(str).str.split("|", expand=True)
        adata.obs[[args.label_key, args.condition_key]] = parts.to_numpy()
    args.out.mkdir(parents=True, exist_ok=True)
    obs = train.obs
    left_out = obs[args.label_key].isin(args.leave_out) & (obs[args.condition_key] == args.value)
    model = trained(train[~left_out].copy(), args.out / "model", args, args.seed)

    rows = []
    for kind in args.leave_out:
        cells = test[test.obs[args.label_key] == kind]
        with_it = cells.obs[args.condition_key] == args.value
        real, control = cells[with_it.to_numpy()], cells[~with_it.to_numpy()]
        asked = {args.label_key: kind, args.condition_key: args.value}
        for composition in ("joint", "additive"):
            for scale in args.scales:
                generated = model.generate(
                    real.n_obs,
                    asked,
                    composition=composition,
                    guidance_scale={args.condition_key: scale},
                    seed=args.seed,
                    progress_bar=False,
                )
                table = evaluate_perturbation(generated, real, control, n_top=100)
                mine, unchanged = (
                    table[table["method"] == m].set_index("metric").loc[COLUMNS]
                    for m in ("predicted", "control")
                )
                rows.append((kind, f"{composition}, {scale:g}", *mine["value"]))
        rows += [(kind, "floor", *mine["replicate"]), (kind, "control", *unchanged["value"])]
    table = pd.DataFrame(rows, columns=[args.label_key, "cells", *COLUMNS])
    table.to_csv(args.out / "composition.csv", index=False)
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
