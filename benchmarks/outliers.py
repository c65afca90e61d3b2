"""Leave each cell type out of training, and ask whether its cells then score as strange.

    python benchmarks/outliers.py --train train.h5ad --test test.h5ad --models FOLDER

Both files hold raw counts of the same features. For each type, SCGM is trained with its defaults on
the training cells of all others, or loaded from FOLDER/TYPE if it was trained before. Printed for
each score is the area under the ROC curve of the type's held-out cells against all other held-out
cells: 0.5 is chance. Cells are scored without their labels.

    ood_score     model.ood_score
    denoising     model.denoising_loss: stage two alone
    knn           distance to 10 training cells in 30 principal components: no model at all
    forest        an isolation forest in the same components
    supervised    a logistic regression that has seen the type: about the most that can be had
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
import torch
from augmentation import log_normalized, trained
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scgm_scvi


def folder_name(kind: str) -> str:
    return kind.replace(" ", "_").replace("/", "_")


def trained_without(
    train: ad.AnnData, key: str, kind: str, folder: Path | None, seed: int, quick: bool
) -> scgm_scvi.SCGM:
    path = None if folder is None else folder / folder_name(kind)
    if path is not None and (path / "model.pt").exists():
        return scgm_scvi.SCGM.load(path, adata=False)
    left = train[(train.obs[key] != kind).to_numpy()].copy()
    left.obs[key] = left.obs[key].astype(str).astype("category")
    model = trained(left, key, seed, quick)
    if path is not None:
        model.save(path)
    return model


def baselines(train: ad.AnnData, test: ad.AnnData, known: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of held-out cells by what needs no generative model."""
    x, x_test = log_normalized(train), log_normalized(test)
    n_pcs = min(30, *(s - 1 for s in x[known].shape))
    pca = PCA(n_pcs, random_state=0).fit(x[known])
    near = NearestNeighbors(n_neighbors=10).fit(pca.transform(x[known]))
    forest = IsolationForest(n_estimators=300, random_state=0).fit(pca.transform(x[known]))
    seen = make_pipeline(PCA(n_pcs, random_state=0), StandardScaler(), LogisticRegression())
    return {
        "knn": near.kneighbors(pca.transform(x_test))[0].mean(axis=1),
        "forest": -forest.score_samples(pca.transform(x_test)),
        "supervised": seen.fit(x, ~known).predict_proba(x_test)[:, 1],
    }


def run(
    train: ad.AnnData,
    test: ad.AnnData,
    key: str,
    kind: str,
    folder: Path | None,
    seed: int = 0,
    quick: bool = False,
) -> pd.Series:
    """Areas under the curve with one type left out."""
    model = trained_without(train, key, kind, folder, seed, quick)
    unlabelled = test.copy()
    unlabelled.obs[key] = pd.Categorical([None] * test.n_obs)
    scores = {
        "ood_score": model.ood_score(unlabelled),
        "denoising": model.denoising_loss(unlabelled),
        **baselines(train, test, (train.obs[key] != kind).to_numpy()),
    }
    left_out = (test.obs[key] == kind).to_numpy()
    aucs = {name: roc_auc_score(left_out, score) for name, score in scores.items()}
    return pd.Series({"n_test": left_out.sum(), **aucs}, name=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--types", nargs="*", help="default: all in the training cells")
    parser.add_argument("--models", type=Path, help="folder with models, or where to save them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="barely train: does it run?")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    train, test = ad.read_h5ad(args.train), ad.read_h5ad(args.test)
    rows = []
    for kind in args.types or sorted(train.obs[args.label_key].dropna().astype(str).unique()):
        row = run(train, test, args.label_key, kind, args.models, args.seed, args.quick)
        rows.append(row)
        print(row.round(3).to_frame().T.to_string(), flush=True)
    table = pd.DataFrame(rows)
    table.loc["mean"] = table.mean()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
