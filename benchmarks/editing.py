"""Edit control cells, and compare them with the real cells of the condition.

    python benchmarks/editing.py --data FILE.h5ad --label-key cell_type --condition-key condition \\
        --control control --target stimulated --out FOLDER [--types A B] [--seeds 0 1 2]

Leave one type out: for each type and seed SCGM is trained without the type's cells of the target
condition (all other cells are used), and the type's control cells are edited to it, with the
defaults ("edit"), by inversion at strength 1, by latent arithmetic on the same model, and by two
shifts of log expression: the mean of the other types', and that of the nearest one (by mean log
expression of control cells). Models are kept in --out and used again.

With --held-out FILE.h5ad the data are for training and the file's cells for testing; types are then
seen under both conditions, one model is trained on all of --data, and identity, the way back, and
the course with strength are measured too. --split-key takes apart a column "type|condition".
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
import scvi
import torch
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from scgm_scvi import SCGM
from scgm_scvi.metrics import classifier_auc, evaluate_perturbation
from scgm_scvi.metrics._space import fit_pca, log_normalize, values_of
from scgm_scvi.model.prior._edited_states import Edit, EditedCells, parse_sampling
from scgm_scvi.model.prior._edited_states import edited as edited_states

QUIET = {"enable_progress_bar": False}
COLUMNS = [
    *("r2_mean", "r2_mean_top", "pearson_delta", "e_distance", "mmd2", "rf_auc_pca"),
    "variance_ratio",
]
MOST = 500  # cells a side: the forest's AUC grows with their number


def log(adata: ad.AnnData) -> np.ndarray:
    return log_normalize(values_of(adata, list(adata.var_names)))


def trained(cells: ad.AnnData, path: Path | None, args: argparse.Namespace, seed: int) -> SCGM:
    """A model with its defaults, kept at ``path`` if that is given, and taken from there."""
    if path is not None and path.exists():
        return SCGM.load(path, adata=False)
    scvi.settings.seed = seed
    SCGM.setup_anndata(cells, labels_key=args.label_key, condition_keys=[args.condition_key])
    model = SCGM(cells)
    model.train(diffusion_kwargs={"seed": seed, **QUIET}, **QUIET)
    if path is not None:
        model.save(path)
    return model


def edited(model: SCGM, cells: ad.AnnData, args: argparse.Namespace, **options) -> ad.AnnData:
    to = {args.condition_key: args.target}
    out = model.edit(cells, to, copy=True, seed=0, progress_bar=False, **options)
    return ad.AnnData(out.layers["scgm_edited"], obs=out.obs, var=out.var, uns=out.uns)


def arithmetic(
    model: SCGM, cells: ad.AnnData, others: dict[str, ad.AnnData], args: argparse.Namespace
) -> ad.AnnData:
    """The difference of mean latents of other types' cells added, decoded as the target."""
    with torch.no_grad():
        means = {name: model._states(a)[1][:, :-1].mean(dim=0) for name, a in others.items()}
        asked = cells.copy()
        asked.obs[args.condition_key] = args.target
        tensors, state = model._states(asked)
        state[:, :-1] += means["target"] - means["control"]
        return ad.AnnData(model.prior.express(state, tensors, "counts", 0), var=cells.var)


def nearest_shift(
    cells: ad.AnnData, others: dict[str, ad.AnnData], args: argparse.Namespace
) -> tuple[str, ad.AnnData]:
    """Log expression plus the change of the type whose control cells are nearest."""
    mine, shifts = log(cells), {}
    for kind in others["target"].obs[args.label_key].unique():
        of = {n: a[(a.obs[args.label_key] == kind).to_numpy()] for n, a in others.items()}
        if min(a.n_obs for a in of.values()):
            before, after = log(of["control"]).mean(axis=0), log(of["target"]).mean(axis=0)
            distance = ((before - mine.mean(axis=0)) ** 2).sum()
            shifts[kind] = (distance, after - before)
    kind = min(shifts, key=lambda k: shifts[k][0])
    return kind, ad.AnnData(np.maximum(mine + shifts[kind][1], 0), var=cells.var)


def borrowed_shift(model: SCGM, cells: ad.AnnData, args: argparse.Namespace) -> ad.AnnData:
    """Log expression plus the change that ``edit`` borrows."""
    own, _ = model._states(cells)
    codes = list(model.condition_spec.categorical[args.condition_key])
    target = own.with_category(args.condition_key, codes.index(args.target))
    run = model._run(0, None, False)
    found = model._borrow(cells, own, target, {args.condition_key}, 1.0, run).found
    return ad.AnnData(np.maximum(log(cells) + found.kinds[0].change, 0), var=cells.var)


def forest(cells: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> float:
    n = min(len(cells), len(real), MOST)
    return classifier_auc(*(rng.permutation(x)[:n] for x in (real, cells)))


def scores(
    candidates: dict[str, ad.AnnData],
    real: ad.AnnData,
    control: ad.AnnData,
    others: dict[str, ad.AnnData],
    reference: ad.AnnData,
) -> pd.DataFrame:
    """A row for each candidate, and for real cells, control cells and the mean shift."""
    rows, rng = {}, np.random.default_rng(0)
    pca = fit_pca(log(reference), 30)
    halves = [real[part] for part in np.array_split(rng.permutation(real.n_obs), 2)]
    places = [pca.transform(log(half)) for half in halves]
    shift = log(others["target"]).mean(axis=0) - log(others["control"]).mean(axis=0)
    for name, cells in candidates.items():
        is_log = not sparse.issparse(cells.X)
        table = evaluate_perturbation(
            cells,
            real,
            control,
            train=others["target"],
            train_control=others["control"],
            predicted_expression="log1p" if is_log else "counts",
            n_top=100,
            n_max=MOST,
        ).set_index(["method", "metric"])
        mine = table.loc["predicted"]
        scored = mine["value"].copy()
        place = pca.transform(cells.X if is_log else log(cells))
        scored["rf_auc_pca"] = np.mean([forest(place, p, rng) for p in places])
        rows[name] = scored
    floors = pd.DataFrame(
        {"real": mine["replicate"]}
        | {
            name: table.loc[m, "value"]
            for name, m in (("control", "control"), ("mean shift", "mean"))
        }
    )
    own = log(control)
    floors.loc["rf_auc_pca"] = [
        forest(places[0], places[1], rng),
        np.mean([forest(pca.transform(own), p, rng) for p in places]),
        np.mean([forest(pca.transform(own + shift), p, rng) for p in places]),
    ]
    return pd.concat([floors.T, pd.DataFrame(rows).T])[COLUMNS]


def leave_one_out(data: ad.AnnData, args: argparse.Namespace) -> pd.DataFrame:
    label, condition = data.obs[args.label_key], data.obs[args.condition_key]
    tables = []
    for seed in args.seeds:
        for kind in args.types or label.value_counts().index:
            is_kind, is_target = (label == kind).to_numpy(), (condition == args.target).to_numpy()
            path = args.out / str(seed) / kind.replace(" ", "_")
            model = trained(data[~(is_kind & is_target)].copy(), path, args, seed)
            rng = np.random.default_rng(seed)
            real = rng.permutation(np.flatnonzero(is_kind & is_target))
            control = rng.permutation(np.flatnonzero(is_kind & ~is_target))
            aside = np.concatenate([rows[: len(rows) // 5] for rows in (real, control)])
            rest = rng.permutation(np.flatnonzero(~is_kind))[:1500]
            reference = data[np.concatenate([aside, rest])].copy()
            real, control = (data[rows[len(rows) // 5 :]].copy() for rows in (real, control))
            others = {
                "control": data[~is_kind & ~is_target].copy(),
                "target": data[~is_kind & is_target].copy(),
            }
            neighbour, shifted = nearest_shift(control, others, args)
            default = edited(model, control, args)
            candidates = {
                "nearest type's shift": shifted,
                "latent arithmetic": arithmetic(model, control, others, args),
                "edit": default,
                "borrowed shift": borrowed_shift(model, control, args),
                "joint": edited(model, control, args, composition="joint"),
            }
            table = scores(candidates, real, control, others, reference)
            made = default.uns["scgm_edited"]
            print(seed, kind, f"nearest: {neighbour}", made["borrowed"])
            print(table.round(3).to_string(), flush=True)
            tables.append(table.rename_axis("cells").reset_index().assign(type=kind, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out / "leave_one_out.csv", index=False)
    return table.groupby("cells", sort=False)[COLUMNS].mean()


def seen(data: ad.AnnData, test: ad.AnnData, args: argparse.Namespace) -> pd.DataFrame:
    """Types that were seen under both conditions: fidelity, identity, the way back, strength."""
    model = trained(data.copy(), args.out / "model", args, args.seeds[0])
    label = args.label_key
    reference = data[np.random.default_rng(0).permutation(data.n_obs)[:5000]].copy()
    pca = fit_pca(log(reference), 30)
    known = LogisticRegression(C=0.1, max_iter=2000).fit(
        pca.transform(log(reference)), reference.obs[label].astype(str)
    )

    def recognised(cells: ad.AnnData) -> float:
        return float((known.predict(pca.transform(log(cells))) == cells.obs[label]).mean())

    is_target = (test.obs[args.condition_key] == args.target).to_numpy()
    everyone = test[~is_target].copy()
    tables = []
    for kind in args.types or test.obs[label].value_counts().index:
        is_kind = (test.obs[label] == kind).to_numpy()
        real, control = test[is_kind & is_target].copy(), test[is_kind & ~is_target].copy()
        of_data = {
            name: data[((data.obs[args.condition_key] == args.target) == wanted).to_numpy()].copy()
            for name, wanted in (("control", False), ("target", True))
        }
        candidates = {
            "edit": edited(model, control, args),
            "edit, inversion": edited(model, control, args, method="inversion", strength=1.0),
        }
        table = scores(candidates, real, control, of_data, reference)
        found = {n: recognised(c) for n, c in {**candidates, "real": real}.items()}
        table["identity"] = pd.Series({**found, "control": recognised(control)})
        print(kind, "\n", table.round(3).to_string(), flush=True)
        tables.append(table.rename_axis("cells").reset_index().assign(type=kind))
    for method in ("sdedit", "inversion"):
        curve = model.edit_curve(
            everyone, {args.condition_key: args.target}, method=method, progress_bar=False
        )
        print(curve.round(3).to_string(index=False))
        monotone = [spearmanr(curve.strength, curve[c])[0] for c in ("effect", "similarity")]
        print(f"Spearman with strength, {method}: {np.round(monotone, 3)}")
    print("way back:", way_back(model, everyone, args))
    start = time.perf_counter()
    many = everyone[np.arange(10_000) % everyone.n_obs].copy()
    many.obs_names_make_unique()
    model.edit(many, {args.condition_key: args.target}, progress_bar=False)
    print(f"10,000 cells edited in {time.perf_counter() - start:.1f} s")
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out / "seen.csv", index=False)
    return table.groupby("cells", sort=False)[[*COLUMNS, "identity"]].mean()


def way_back(model: SCGM, cells: ad.AnnData, args: argparse.Namespace) -> dict[str, float]:
    """Correlation of latents with those after control -> target -> control, by inversion."""
    tensors, state = model._states(cells)
    asked = cells.copy()
    asked.obs[args.condition_key] = args.target
    target = model._states(asked)[0]
    with torch.no_grad():
        edit = Edit("inversion", 1.0, parse_sampling(model.condition_spec, None, "auto"), True)
        out = edited_states(model.prior, EditedCells(tensors, target, state), edit, None)
        back = edited_states(model.prior, EditedCells(target, tensors, out), edit, None)
    a, b = (model.module.denoiser.standardize(s)[:, :-1].numpy() for s in (state, back))
    each = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    return {"all": float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), "mean of cells": np.mean(each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--condition-key", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--split-key", help="column of 'type|condition' to make the two of")
    parser.add_argument("--n-genes", type=int, help="keep so many highly variable genes")
    parser.add_argument("--types", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    files = [args.data, *([args.held_out] if args.held_out else [])]
    objects = [prepared(ad.read_h5ad(file), args) for file in files]
    if args.n_genes:
        import scanpy as sc

        logs = objects[0].copy()
        sc.pp.normalize_total(logs, target_sum=1e4)
        sc.pp.log1p(logs)
        sc.pp.highly_variable_genes(logs, n_top_genes=args.n_genes)
        objects = [a[:, logs.var["highly_variable"]].copy() for a in objects]
        objects = [a[np.asarray(a.X.sum(axis=1)).ravel() > 0].copy() for a in objects]
    table = seen(*objects, args) if args.held_out else leave_one_out(*objects, args)
    print("\nMean over types and seeds\n", table.round(3).to_string())


def prepared(adata: ad.AnnData, args: argparse.Namespace) -> ad.AnnData:
    keys = [args.label_key, args.condition_key]
    if args.split_key:
        parts = adata.obs[args.split_key].astype(str).str.split("|", expand=True)
        adata.obs[keys] = parts.to_numpy()
    adata.obs = adata.obs[keys].astype(str).astype("category")
    return adata[adata.obs[args.condition_key].isin([args.control, args.target])].copy()


if __name__ == "__main__":
    main()
