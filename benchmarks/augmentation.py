"""Take cells of a rare type out of the training data, and ask what generated ones give back.

    python benchmarks/augmentation.py --splits FOLDER --out results.csv [--names pbmc3k marrow]

A folder holds NAME_train.h5ad and NAME_test.h5ad with raw counts. Of one type, up to 100 training
cells are removed, and at least 10 left; SCGM is trained with its defaults on what remains. Then a
logistic regression learns the types and is scored on the real held-out cells. It sees principal
components fitted on the remaining real cells, the same for every way of making its training cells:

    real            the remaining cells
    weighted        the same, each type weighted by the inverse of its size
    oversampled     the same, each type resampled to the size of the largest
    augmented       model.augment: each type topped up to the size of the largest
    refilled        model.augment: the type alone, with as many cells as were removed
    nothing removed the remaining and the removed cells: what the removal costs

Done for the rarest type with at least 20 training cells, and for the rarest with more than 110, of
which all 100 can be removed. Written as a tidy table: a row a metric.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scgm_scvi
from scgm_scvi.metrics._space import log_normalize, values_of

METHODS = ["real", "weighted", "oversampled", "augmented", "refilled", "nothing removed"]
LEAST_LEFT, MOST_REMOVED = 10, 100


RULES = {"rarest": 2 * LEAST_LEFT, "rarest above 110": LEAST_LEFT + MOST_REMOVED + 1}


def targets(train: ad.AnnData, key: str, rules: list[str]) -> dict[str, list[str]]:
    """Types to remove cells of, and which of the rules chose them."""
    size = train.obs[key].value_counts()
    out: dict[str, list[str]] = {}
    for rule in rules:
        large_enough = size[size >= RULES[rule]]
        if len(large_enough):
            out.setdefault(large_enough.index[-1], []).append(rule)
    return out


def removed_cells(label: np.ndarray, target: str, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(label == target))
    return rows[: min(MOST_REMOVED, len(rows) - LEAST_LEFT)]


def log_normalized(adata: ad.AnnData) -> np.ndarray:
    return log_normalize(values_of(adata, list(adata.var_names)))


def trained(adata: ad.AnnData, key: str, seed: int, quick: bool) -> scgm_scvi.SCGM:
    """SCGM with its defaults; ``quick``: barely trained."""
    scvi.settings.seed = seed
    scgm_scvi.SCGM.setup_anndata(adata, labels_key=key)
    model = scgm_scvi.SCGM(adata)
    settings = {"max_epochs": 1, "diffusion_kwargs": {"max_steps": 20}} if quick else {}
    settings.setdefault("diffusion_kwargs", {}).update(seed=seed, enable_progress_bar=False)
    model.train(enable_progress_bar=False, **settings)
    return model


def oversampled(label: np.ndarray, seed: int) -> np.ndarray:
    """Rows with which every type has as many as the largest: each cell, and random ones again."""
    rng = np.random.default_rng(seed)
    names, size = np.unique(label, return_counts=True)
    extra = [
        rng.choice(np.flatnonzero(label == n), max(size) - s)
        for n, s in zip(names, size, strict=True)
    ]
    return np.concatenate([np.arange(len(label)), *extra])


def run(files: dict[str, Path], key: str, target: str, seed: int, quick: bool) -> pd.DataFrame:
    """One removal, one model, every method: a row a method and metric."""
    train, test = ad.read_h5ad(files["train"]), ad.read_h5ad(files["test"])
    out = removed_cells(train.obs[key].to_numpy(), target, seed)
    left = train[np.setdiff1d(np.arange(train.n_obs), out)].copy()
    left.obs[key] = left.obs[key].astype("category").cat.remove_unused_categories()
    real = left.copy()

    model = trained(left, key, seed, quick)
    n_before = int((train.obs[key] == target).sum())
    balanced, refilled = (
        model.augment(real, key, n, seed=seed, progress_bar=False)
        for n in (None, {target: n_before})
    )

    label, again = real.obs[key].to_numpy(), oversampled(real.obs[key].to_numpy(), seed)
    x = log_normalized(real)
    sources = {
        "real": (x, label),
        "weighted": (x, label),
        "oversampled": (x[again], label[again]),
        "augmented": (log_normalized(balanced), balanced.obs[key].to_numpy()),
        "refilled": (log_normalized(refilled), refilled.obs[key].to_numpy()),
        "nothing removed": (log_normalized(train), train.obs[key].to_numpy()),
    }
    n_pcs = min(50, *(s - 1 for s in x.shape))
    features = make_pipeline(PCA(n_pcs, random_state=seed), StandardScaler()).fit(x)
    names = np.unique(test.obs[key])
    truth, x_test = test.obs[key].to_numpy(), features.transform(log_normalized(test))
    rows = []
    for method in METHODS:
        x_method, y = sources[method]
        weight = "balanced" if method == "weighted" else None
        classifier = LogisticRegression(max_iter=5000, class_weight=weight)
        found = classifier.fit(features.transform(x_method), y).predict(x_test)
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, found, labels=names, zero_division=0
        )
        i = int(np.flatnonzero(names == target)[0])
        values = {
            "macro_f1": f1.mean(),
            "type_f1": f1[i],
            "type_precision": precision[i],
            "type_recall": recall[i],
        }
        rows += [{"method": method, "metric": m, "value": v} for m, v in values.items()]
    return pd.DataFrame(rows).assign(
        type=target, n_left=n_before - len(out), n_removed=len(out), seed=seed
    )


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and how much augmenting adds to the same run's real cells."""
    wide = results.pivot_table(
        index=["split", "rule", "type", "n_left", "metric", "seed"],
        columns="method",
        values="value",
    )[METHODS]
    wide["augmented - real"] = wide["augmented"] - wide["real"]
    groups = wide.groupby(wide.index.names[:-1])
    out = groups.mean().round(3)
    out["better in"] = groups["augmented - real"].agg(lambda d: f"{(d > 0).sum()} of {len(d)}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="*", choices=list(RULES), default=list(RULES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="barely train: does it run?")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    found = sorted(p.name.removesuffix("_train.h5ad") for p in args.splits.glob("*_train.h5ad"))
    results = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
    for name in args.names or found:
        files = {part: args.splits / f"{name}_{part}.h5ad" for part in ("train", "test")}
        chosen = targets(ad.read_h5ad(files["train"], backed="r"), args.label_key, args.rules)
        for target, rules in chosen.items():
            for seed in args.seeds[:1] if args.quick else args.seeds:
                if (
                    len(results)
                    and (
                        (results["split"] == name)
                        & (results["type"] == target)
                        & (results["seed"] == seed)
                    ).any()
                ):
                    continue  # resumed
                new = run(files, args.label_key, target, seed, args.quick)
                new = new.assign(split=name, rule=" and ".join(rules))
                results = pd.concat([results, new], ignore_index=True)
                results.to_csv(args.out, index=False)
                print(summary(new).T.to_string(), flush=True)
    print(summary(results).T.to_string())


if __name__ == "__main__":
    main()
