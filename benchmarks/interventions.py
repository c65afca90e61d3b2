"""Genes move together: force some genes of control cells to their level in another condition.

    python benchmarks/interventions.py --data FILE.h5ad --label-key cell_type \\
        --condition-key condition --control control --stimulated stimulated \\
        --genes ISG15 IFI6 IFIT1 [--knockout LYZ] [--model FOLDER]

SCGM is trained on a half of the cells, or loaded from --model, where it is kept if it is not there
yet; give --held-out FILE.h5ad if that model was trained on all of --data. Control cells that were
not trained on are edited, the genes set to their mean in real cells of the condition. Per type:

``r``, ``slope``: of the change of mean log1p CP10K on the real one, over the other genes among the
100 that differ most; ``type``: of edited cells, the part that a classifier of real cells knows as
theirs, beside that of real cells before and after; ``error``: of the forced genes' mean in the
edited counts, the largest relative one, and ``guided``: that of what the latent decodes to, before
the targets are set. With --knockout: ``left``, counts of the gene; ``others``, the root mean square
change of the other genes' mean log1p CP10K, beyond an edit that asks for nothing but --condition.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import logging
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from editing import trained
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scgm_scvi import SCGM
from scgm_scvi.metrics._space import fit_pca, log_normalize, values_of

TOTAL = 1e4


def counts(adata: ad.AnnData, layer: str | None = None) -> np.ndarray:
    adata = ad.AnnData(adata.X if layer is None else adata.layers[layer], var=adata.var[[]])
    return values_of(adata, list(adata.var_names))


def cp10k(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1) * TOTAL


def halves(adata: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    first = np.random.default_rng(seed).random(adata.n_obs) < 0.5
    return adata[first].copy(), adata[~first].copy()


class Types:
    """A classifier of cell types by real cells, of both conditions."""

    def __init__(self, train: ad.AnnData, key: str) -> None:
        x = log_normalize(counts(train))
        self.pca = fit_pca(x, 30)
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self.model.fit(self.pca.transform(x), train.obs[key].astype(str))

    def share(self, x: np.ndarray, kind: str) -> float:
        return float((self.model.predict(self.pca.transform(log_normalize(x))) == kind).mean())


def edited(
    model: SCGM, cells: ad.AnnData, args: argparse.Namespace, genes: dict | None, condition: str
) -> tuple[ad.AnnData, float]:
    """Edited cells, and how many a second; ``condition``: whether it is kept, or left open."""
    start = time.process_time()
    # an attribute that is named as it is changes nothing, but makes an edit without genes one
    value = args.control if condition == "kept" else None
    out = model.edit(
        cells,
        {args.condition_key: value},
        genes=genes,
        method=args.method,
        strength=args.strength,
        copy=True,
        seed=args.seed,
        progress_bar=False,
    )
    return out, cells.n_obs / (time.process_time() - start)


def decoded(model: SCGM, cells: ad.AnnData, key: str, condition: str, name: str) -> np.ndarray:
    """CP10K that the edited latents decode to, for which nothing is set."""
    own, state = model._states(cells)
    if condition == "open":
        own = own.without({name})
    state = state.clone()
    state[:, :-1] = torch.as_tensor(cells.obsm[key])
    return model.prior.express(state, own, "normalized", 0)


def together(
    model: SCGM, kind: str, control: ad.AnnData, real: ad.AnnData, types: Types, args
) -> list[dict]:
    names = control.var_names
    forced = [names.get_loc(gene) for gene in args.genes]
    before, after = counts(control), counts(real)
    change = log_normalize(after).mean(axis=0) - log_normalize(before).mean(axis=0)
    spread = np.sqrt(log_normalize(after).var(axis=0) + log_normalize(before).var(axis=0))
    seen = np.maximum((before > 0).mean(axis=0), (after > 0).mean(axis=0)) >= 0.05
    order = np.argsort(np.where(seen, -np.abs(change) / np.maximum(spread, 1e-9), 0), kind="stable")
    top = np.setdiff1d(order[:100], forced)
    target = cp10k(after)[:, forced].mean(axis=0)
    rows = []
    for condition in ("kept", "open"):
        asked = dict(zip(args.genes, target.tolist(), strict=True))
        out, speed = edited(model, control, args, asked, condition)
        x = counts(out, "scgm_edited")
        moved = log_normalize(x).mean(axis=0) - log_normalize(before).mean(axis=0)
        guided = decoded(model, out, "X_scgm_edited", condition, args.condition_key)
        rows.append(
            {
                "type": kind,
                "condition": condition,
                "cells": len(x),
                "r": np.corrcoef(moved[top], change[top])[0, 1],
                "slope": np.polyfit(change[top], moved[top], 1)[0],
                "type agrees": types.share(x, kind),
                "real before": types.share(before, kind),
                "real after": types.share(after, kind),
                "error": np.abs(cp10k(x)[:, forced].mean(axis=0) / target - 1).max(),
                "guided": np.abs(guided[:, forced].mean(axis=0) / target - 1).max(),
                "cells/s": speed,
            }
        )
    return rows


def knockout(model: SCGM, kind: str, control: ad.AnnData, types: Types, args) -> list[dict]:
    rows = []
    for gene in args.knockout:
        column = control.var_names.get_loc(gene)
        others = np.arange(control.n_vars) != column
        plain, _ = edited(model, control, args, None, "kept")
        out, _ = edited(model, control, args, {gene: "knockout"}, "kept")
        x, y = counts(out, "scgm_edited"), counts(plain, "scgm_edited")
        moved = log_normalize(x).mean(axis=0) - log_normalize(y).mean(axis=0)
        rows.append(
            {
                "type": kind,
                "gene": gene,
                "CP10K before": cp10k(counts(control))[:, column].mean(),
                "left": x[:, column].sum(),
                "others": np.sqrt((moved[others] ** 2).mean()),
                "others > 0.5": (np.abs(moved[others]) > 0.5).mean(),
                "type agrees": types.share(x, kind),
                "without": types.share(y, kind),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", help="cells to edit; default: a half of --data")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--condition-key", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--stimulated", required=True)
    parser.add_argument("--genes", nargs="+", required=True)
    parser.add_argument("--knockout", nargs="*", default=[])
    parser.add_argument("--types", nargs="+", help="default: those with 40 held-out cells each way")
    parser.add_argument("--method", default="sdedit")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--most", type=int, default=500, help="cells of a type to edit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    data = ad.read_h5ad(args.data)
    train, test = (data, ad.read_h5ad(args.held_out)) if args.held_out else halves(data, args.seed)
    model = trained(train, args.model, args, args.seed)
    types = Types(train, args.label_key)

    obs = test.obs.astype({args.label_key: str, args.condition_key: str})
    sizes = pd.crosstab(obs[args.label_key], obs[args.condition_key])
    kinds = args.types or sizes.index[(sizes[[args.control, args.stimulated]] >= 40).all(axis=1)]
    rows, knockouts = [], []
    for kind in kinds:
        parts = [
            test[((obs[args.label_key] == kind) & (obs[args.condition_key] == value)).to_numpy()]
            for value in (args.control, args.stimulated)
        ]
        control, real = parts[0][: args.most].copy(), parts[1].copy()
        rows += together(model, kind, control, real, types, args)
        knockouts += knockout(model, kind, control, types, args)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    if knockouts:
        print(pd.DataFrame(knockouts).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
