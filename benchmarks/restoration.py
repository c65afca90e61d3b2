"""Thin held-out cells, or hide a part of their genes, and ask what restores them.

    python benchmarks/restoration.py --splits FOLDER --models FOLDER --names pbmc3k marrow

A folder of splits holds NAME_train.h5ad and NAME_test.h5ad with raw counts; SCGM is trained on the
former with its defaults, or loaded from MODELS/NAME if it was trained before. For each seed:

Denoising. Each held-out cell's counts are split in two at random (binomial, one half). A method sees
one half and predicts proportions; scored is the Poisson deviance of the other half given these times
its depth, a mean over entries: lower is better. Proportions of `raw` and `knn` are mixed with the
training cells' mean, as zeros would make the deviance infinite.

    raw         the half itself; the weight of the mean that is best
    knn         as MAGIC: the cell and its neighbours among the thinned and the training cells, in
                principal components; number of neighbours, weight of the cell itself and of the
                mean that are best
    vae_1, vae_25  model.get_normalized_expression, of one posterior sample and of 25
    encoder     model.enhance(n_fit_steps=0): the encoder's posterior, and the cell's own counts
    decoder     model.enhance(own_counts=False): the fitted posterior, without own counts
    enhance     model.enhance

Imputation. 30% of the genes are hidden from the held-out cells. Scored are the hidden genes'
expression in log1p of counts per 10,000 of the whole cell: rank correlation of each gene over cells
(genes counted in 3 cells or more) and of each cell over genes, means of these; correlation of each
gene; and which share of the measurements lies in the interval of 90%: of all entries, of genes
counted in more than a tenth and in more than half of the cells, and of entries whose interval is not
just zero.

    knn         mean of the neighbours' expression, or of its log1p, among training cells in
                principal components of the genes that are seen; components, number of neighbours and
                mean that are best, for each score on its own
    vae_25      model.get_normalized_expression where hidden genes are zero
    encoder     model.impute(n_fit_steps=0)
    normalized  model.impute, the layer "normalized", which has no noise of counting in it
    impute      model.impute

`best` is by the very scores that are reported: a choice in the favour of the baselines. Methods
marked `unlabelled` are not told the cells' types, nor are raw and knn.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import logging
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from augmentation import trained
from scipy import sparse
from scipy.special import xlogy
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import scgm_scvi
from scgm_scvi.metrics._space import log_normalize

HIDDEN = 0.3
FLOORS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8)  # weights of the training cells' mean


def counts_of(adata: ad.AnnData) -> np.ndarray:
    x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    return np.rint(x).astype(np.int64)


def proportions(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1e-12)


def with_counts(adata: ad.AnnData, x: np.ndarray) -> ad.AnnData:
    return ad.AnnData(sparse.csr_matrix(x.astype(np.float32)), adata.obs.copy(), adata.var[[]])


def unlabelled(adata: ad.AnnData, key: str) -> ad.AnnData:
    out = adata.copy()
    out.obs[key] = pd.Categorical([None] * out.n_obs)
    return out


def decoded(model: scgm_scvi.SCGM, adata: ad.AnnData, n_samples: int) -> np.ndarray:
    """scvi's normalised expression of cells that the model does not hold."""
    with model._registered(adata) as cells:
        return model.get_normalized_expression(cells, n_samples=n_samples, return_numpy=True)


def neighbours(seen: np.ndarray, reference: np.ndarray, n_pcs: int, most: int) -> np.ndarray:
    """Nearest cells of ``reference``, in components of both, nearest first."""
    n_pcs = min(n_pcs, *(s - 1 for s in reference.shape))
    pca = PCA(n_pcs, random_state=0).fit(log_normalize(reference))
    near = NearestNeighbors(n_neighbors=min(most, len(reference)))
    near.fit(pca.transform(log_normalize(reference)))
    return near.kneighbors(pca.transform(log_normalize(seen)), return_distance=False)


# denoising


def deviance(p: np.ndarray, x: np.ndarray) -> float:
    mean = proportions(p.astype(float)) * x.sum(axis=1, keepdims=True)
    return float((2 * (xlogy(x, x / np.maximum(mean, 1e-12)) - (x - mean))).mean())


def best_floor(p: np.ndarray, mean: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    return min((deviance((1 - w) * p + w * mean, x), w) for w in FLOORS)


def smoothed(
    half: np.ndarray, train: np.ndarray, other: np.ndarray, mean: np.ndarray
) -> tuple[float, str]:
    both, own = np.concatenate([half, train]), proportions(half)
    p, out = proportions(both), []
    for n_pcs in (20, 50):
        rows = neighbours(half, both, n_pcs, 321)
        for k in (5, 10, 20, 40, 80, 160, 320):
            near = np.stack([p[r[r != i][:k]].mean(axis=0) for i, r in enumerate(rows)])
            for weight in (0.0, 0.05, 0.2, 0.5):
                score, floor = best_floor(weight * own + (1 - weight) * near, mean, other)
                out.append((score, f"{n_pcs} PCs, k={k}, own {weight}, mean {floor}"))
    return min(out)


def denoise(
    model: scgm_scvi.SCGM, train: ad.AnnData, test: ad.AnnData, key: str, seed: int
) -> pd.DataFrame:
    """Deviances of the half that a method does not see."""
    rng = np.random.default_rng(seed)
    x = counts_of(test)
    half = rng.binomial(x, 0.5)
    known = (half.sum(axis=1) > 0) & (half.sum(axis=1) < x.sum(axis=1))
    half, other = half[known], (x - half)[known]
    cells = with_counts(test[known], half)
    mean = proportions(counts_of(train).sum(axis=0)[None])
    score, floor = best_floor(proportions(half), mean, other)
    rows = [("raw", score, f"mean {floor}")]
    rows.append(("knn", *smoothed(half, counts_of(train), other, mean)))
    for suffix, these in (("", cells), (", unlabelled", unlabelled(cells, key))):
        rows.append((f"vae_25{suffix}", deviance(decoded(model, these, 25), other), ""))
        ways = {"enhance": {}}
        if not suffix:
            rows.append(("vae_1", deviance(decoded(model, these, 1), other), ""))
            ways |= {"encoder": {"n_fit_steps": 0}, "decoder": {"own_counts": False}}
        for name, kwargs in ways.items():
            start = time.process_time()
            out = model.enhance(these, copy=True, seed=seed, progress_bar=False, **kwargs)
            seconds = f"{time.process_time() - start:.0f} s"
            rows.append((name + suffix, deviance(out.layers["scgm_enhanced"], other), seconds))
    table = pd.DataFrame(rows, columns=["method", "value", "note"])
    return table.assign(task="denoise", metric="deviance", n_cells=len(half))


# imputation


def correlation(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    a, b = (v - v.mean(axis=axis, keepdims=True) for v in (a, b))
    norm = np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    return (a * b).sum(axis=axis) / np.maximum(norm, 1e-12)  # 0 where one does not vary


def agreement(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Of expression in log1p, cells by genes."""
    genes = (true > 0).sum(axis=0) >= 3
    p, t = predicted[:, genes], true[:, genes]
    return {
        "spearman_gene": correlation(rankdata(p, axis=0), rankdata(t, axis=0), 0).mean(),
        "spearman_cell": correlation(rankdata(p, axis=1), rankdata(t, axis=1), 1).mean(),
        "pearson_gene": correlation(p, t, 0).mean(),
    }


def coverage(low: np.ndarray, high: np.ndarray, true: np.ndarray) -> dict[str, float]:
    inside = (true >= low - 1e-5) & (true <= high + 1e-5)
    counted = (true > 0).mean(axis=0)
    return {
        "coverage": inside.mean(),
        "coverage_10%": inside[:, counted > 0.1].mean(),
        "coverage_50%": inside[:, counted > 0.5].mean() if (counted > 0.5).any() else np.nan,
        "coverage_above_0": inside[high > 0].mean(),
        "width_10%": (high - low)[:, counted > 0.1].mean(),
    }


def averaged(
    train: np.ndarray, seen: np.ndarray, shown: np.ndarray, hidden: np.ndarray, true: np.ndarray
) -> list[tuple[str, float, str]]:
    """The best of many averages over neighbours, for each score."""
    expression = 1e4 * proportions(train)[:, hidden]
    scores = {}
    for n_pcs in (20, 50):
        rows = neighbours(shown, train[:, seen], n_pcs, 480)
        for k in (5, 10, 15, 30, 60, 120, 240, 480):
            near = expression[rows[:, :k]]
            scores[f"{n_pcs} PCs, k={k}, mean"] = agreement(np.log1p(near.mean(axis=1)), true)
            scores[f"{n_pcs} PCs, k={k}, log1p"] = agreement(np.log1p(near).mean(axis=1), true)
    table = pd.DataFrame(scores).T
    return [(metric, table[metric].max(), table[metric].idxmax()) for metric in table]


def impute(
    model: scgm_scvi.SCGM, train: ad.AnnData, test: ad.AnnData, key: str, seed: int
) -> pd.DataFrame:
    """Agreement with genes that a method does not see."""
    rng = np.random.default_rng(seed)
    x, n = counts_of(test), test.n_vars
    hidden = np.sort(rng.choice(n, int(HIDDEN * n), replace=False))
    seen = np.setdiff1d(np.arange(n), hidden)
    known = x[:, seen].sum(axis=1) > 0
    x, cells = x[known], test[known]
    true = np.log1p(1e4 * proportions(x)[:, hidden])
    out = [("knn", *r) for r in averaged(counts_of(train), seen, x[:, seen], hidden, true)]

    def add(method: str, scores: dict[str, float], note: str = "") -> None:
        out.extend((method, metric, value, note) for metric, value in scores.items())

    zeroed = x.copy()
    zeroed[:, hidden] = 0
    for suffix, these in (("", cells), (", unlabelled", unlabelled(cells, key))):
        p = proportions(decoded(model, with_counts(these, zeroed), 25))[:, hidden]
        add("vae_25" + suffix, agreement(np.log1p(1e4 * p), true))
        panel = with_counts(these, x)[:, seen]
        ways = {"impute": {}} if suffix else {"encoder": {"n_fit_steps": 0}, "impute": {}}
        for name, kwargs in ways.items():
            start = time.process_time()
            result = model.impute(panel, seed=seed, progress_bar=False, **kwargs)
            note = f"{time.process_time() - start:.0f} s"
            ends = result.layers["lower"], result.layers["upper"]
            add(name + suffix, agreement(result.X.toarray(), true), note)
            add(name + suffix, coverage(*ends, true), note)
        add("normalized" + suffix, agreement(np.log1p(result.layers["normalized"]), true), note)
    table = pd.DataFrame(out, columns=["method", "metric", "value", "note"])
    return table.assign(task="impute", n_cells=len(x))


def model_of(name: str, train: ad.AnnData, key: str, folder: Path, quick: bool) -> scgm_scvi.SCGM:
    path = folder / name
    if (path / "model.pt").exists():
        return scgm_scvi.SCGM.load(path, adata=False)
    model = trained(train.copy(), key, 0, quick)
    model.save(path)
    return model


def tables(results: pd.DataFrame) -> str:
    """A table a task and metric: methods by splits, mean (standard deviation) over seeds."""
    out = []
    for (task, metric), part in results.groupby(["task", "metric"], sort=False):
        cells = part.groupby(["method", "split"], sort=False)["value"].agg(["mean", "std"])
        text = cells["mean"].map("{:.4f}".format) + cells["std"].map(
            lambda s: "" if np.isnan(s) else f" ({s:.4f})"
        )
        out.append(f"{task}: {metric}\n{text.unstack('split').to_string()}")
    return "\n\n".join(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=Path, required=True, help="folder with the files")
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--models", type=Path, required=True, help="folder to load from or save to")
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, help="held-out cells at most; default: all")
    parser.add_argument("--out", type=Path, help="file for the tidy table")
    parser.add_argument("--quick", action="store_true", help="barely train: does it run?")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parts = []
    for name in args.names:
        train, test = (ad.read_h5ad(args.splits / f"{name}_{p}.h5ad") for p in ("train", "test"))
        if args.cells and args.cells < test.n_obs:
            rows = np.random.default_rng(0).choice(test.n_obs, args.cells, replace=False)
            test = test[np.sort(rows)].copy()
        model = model_of(name, train, args.label_key, args.models, args.quick)
        for task, seed in itertools.product((denoise, impute), args.seeds):
            table = task(model, train, test, args.label_key, seed)
            parts.append(table.assign(split=name, seed=seed))
            print(f"{name}, {task.__name__}, seed {seed}: done", flush=True)
            if args.out is not None:
                pd.concat(parts).to_csv(args.out, index=False)
    print(tables(pd.concat(parts)))


if __name__ == "__main__":
    main()
