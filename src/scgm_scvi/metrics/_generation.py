"""Generated cells against real ones that no model has seen, with the floor that real cells set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

from ._distances import classifier_auc, mixing, mmd2, prdc, wasserstein2

__all__ = ["evaluate_generation"]

_LEAST_PER_CONDITION = 10
_MOST_PER_CONDITION = 500


@dataclass
class _Cells:
    """Cells as the metrics want them; ``label`` is a constant where there is no condition."""

    depth: np.ndarray
    log: np.ndarray
    pca: np.ndarray
    label: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> _Cells:
        return _Cells(self.depth[rows], self.log[rows], self.pca[rows], self.label[rows])

    def __len__(self) -> int:
        return len(self.depth)


def evaluate_generation(
    generated: AnnData,
    real: AnnData,
    *,
    train: AnnData | None = None,
    pca_reference: AnnData | None = None,
    condition_key: str | None = None,
    n_pcs: int = 30,
    n_max: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare generated cells with held-out real ones.

    The real cells are cut into two halves, stratified by condition. Every two-sample metric is
    the mean over the halves of half against as many generated cells; its *floor* is one half
    against the other, which is what a perfect generator scores; its *train floor* is what the
    training cells score when handed back.

    Parameters
    ----------
    generated, real
        Raw counts in ``X``; compared on the features they share, as log1p of counts per 10,000.
        ``real`` should be cells the model was not trained on, and ``generated`` should have its
        composition.
    train
        The training cells. With them come ``nn_ratio`` (median distance to the nearest training
        cell over that of real cells: below the train floor is memorising), ``dup_frac``, and,
        with ``condition_key``, ``cond_acc`` (a classifier trained on them finds the condition
        that was asked for).
    pca_reference
        Real cells, best of neither set, on which the PCA is fitted; default ``train``, or
        ``real``. A PCA fits the noise of its own few cells: fitted on ``real``, even a perfect
        generator scores worse than the floor in it.
    condition_key
        Column of ``obs`` with the condition that cells were generated for; adds ``label_w2``,
        ``cond_acc`` and ``tstr_f1`` (train on generated, test on real).
    n_pcs
        Number of principal components.
    n_max
        At most so many cells on a side.
    seed
        Of halves, subsamples and forests.

    Returns
    -------
    DataFrame indexed by metric with columns ``value``, ``floor``, ``train_floor`` (with
    ``train``) and ``n``, the number of cells on each side.

    Raises
    ------
    ValueError
        If the objects share no features, or are too small to be halved.
    KeyError
        If ``condition_key`` is missing from one of them.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> table = scgm_scvi.metrics.evaluate_generation(
    ...     adata[::3], adata[1::3], pca_reference=adata[2::3], n_pcs=10
    ... )
    >>> bool(abs(table.loc["rf_auc_pca", "value"] - 0.5) < 0.1)
    True
    """
    objects = {"generated": generated, "real": real, "train": train}
    objects = {name: a for name, a in objects.items() if a is not None}
    for name, a in objects.items():
        if condition_key is not None and condition_key not in a.obs:
            raise KeyError(f"condition_key: {condition_key!r} is not a column of {name}.obs.")
    genes = [
        g
        for g in (real if train is None else train).var_names
        if all(g in a.var_names for a in objects.values())
    ]
    if not genes:
        raise ValueError("generated and real share no var_names.")
    if min(generated.n_obs, real.n_obs) < 4 * _LEAST_PER_CONDITION:
        raise ValueError(
            f"{generated.n_obs} generated and {real.n_obs} real cells: at least "
            f"{4 * _LEAST_PER_CONDITION} of each are needed."
        )
    reference = next(a for a in (pca_reference, train, real) if a is not None)
    reference_log = _log_normalize(_dense(reference, genes))
    n_pcs = min(n_pcs, len(genes) - 1, len(reference_log) - 1)
    pca = PCA(n_pcs, svd_solver="full").fit(reference_log)
    cells = {name: _prepare(a, genes, pca, condition_key) for name, a in objects.items()}

    halves = _halves(cells["real"].label, np.random.default_rng(seed))
    rows = {
        "value": _evaluate(cells["generated"], cells, halves, seed, n_max),
        "floor": _evaluate(None, cells, halves, seed, n_max),
    }
    if train is not None:
        rows["train_floor"] = _evaluate(cells["train"], cells, halves, seed, n_max)
    table = pd.DataFrame(rows)
    table["n"] = min(n_max, generated.n_obs // 2, int(min(np.bincount(halves))))
    return table.rename_axis("metric")


def _dense(adata: AnnData, genes: list[str]) -> np.ndarray:
    x = adata[:, genes].X
    return (x.toarray() if sparse.issparse(x) else np.asarray(x)).astype(np.float64)


def _log_normalize(counts: np.ndarray) -> np.ndarray:
    depth = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.where(depth == 0, 1, depth) * 1e4)


def _prepare(adata: AnnData, genes: list[str], pca: PCA, key: str | None) -> _Cells:
    counts = _dense(adata, genes)
    log = _log_normalize(counts)
    label = np.full(adata.n_obs, "") if key is None else adata.obs[key].astype(str).to_numpy()
    return _Cells(counts.sum(axis=1), log, pca.transform(log), label)


def _halves(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 or 1 for every cell, as even as can be within each condition."""
    half = np.zeros(len(label), dtype=int)
    for name in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == name))
        half[rows[: len(rows) // 2]] = 1
    return half


def _subsample(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return rows if n >= len(rows) else np.sort(rng.permutation(rows)[:n])


def _evaluate(
    candidate: _Cells | None, cells: dict[str, _Cells], half: np.ndarray, seed: int, n_max: int
) -> dict[str, float]:
    """All metrics of a candidate; ``None`` stands for the other half of the real cells."""
    real, train = cells["real"], cells.get("train")
    rng = np.random.default_rng(seed + 1)
    other = real if candidate is None else candidate
    order = rng.permutation(len(other))
    ends = [real.pca[half == r][:1000] for r in (0, 1)]
    bandwidth2 = float(np.median(euclidean_distances(*ends, squared=True))) / 2
    top = np.argsort(-(real if train is None else train).log.var(axis=0))[:200]
    runs = []
    for r in (0, 1):
        a = np.flatnonzero(half == r)
        if candidate is None:
            b = np.flatnonzero(half == 1 - r)
        else:
            n = min(len(a), len(other) // 2)
            b = np.sort(order[r * n : (r + 1) * n])
        n = min(len(a), len(b), n_max)
        x = real[_subsample(a, n, np.random.default_rng(seed + r))]
        y = other[_subsample(b, n, np.random.default_rng(seed + r))]
        runs.append(_two_sample(x, y, bandwidth2, top, seed, rng))
    out = {k: float(np.mean([run[k] for run in runs])) for k in runs[0]}
    out.update(_supervised(other, real, train, is_floor=candidate is None))
    if train is not None:
        out.update(_memorization(other, real, train))
    return out


def _two_sample(
    x: _Cells, y: _Cells, bandwidth2: float, top: np.ndarray, seed: int, rng: np.random.Generator
) -> dict[str, float]:
    out = {
        "rf_auc_gene": classifier_auc(x.log, y.log, seed=seed),
        "rf_auc_pca": classifier_auc(x.pca, y.pca, seed=seed),
        "w2": wasserstein2(x.pca, y.pca),
        "mmd2": mmd2(x.pca, y.pca, bandwidth2),
        "lisi": mixing(x.pca, y.pca),
        "gcorr_pearson": _correlation_agreement(x.log[:, top], y.log[:, top]),
        "depth_ks": float(stats.ks_2samp(x.depth, y.depth).statistic),
        **prdc(x.pca, y.pca),
    }
    distances = []
    for name in np.unique(x.label):
        a, b = x.pca[x.label == name], y.pca[y.label == name]
        k = min(len(a), len(b), _MOST_PER_CONDITION)
        if k >= _LEAST_PER_CONDITION:
            distances.append(wasserstein2(a[:k], rng.permutation(b)[:k]))
    if len(np.unique(x.label)) > 1 and distances:
        out["label_w2"] = float(np.mean(distances))
    return out


def _correlation_agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of the two samples' gene-gene correlations."""

    def pairs(z: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            c = np.corrcoef(z.T)
        return np.nan_to_num(c[np.triu_indices_from(c, 1)])

    return float(stats.pearsonr(pairs(x), pairs(y)).statistic)


def _classifier(x: np.ndarray, label: np.ndarray) -> LogisticRegression:
    return LogisticRegression(max_iter=2000, C=0.1).fit(x, label)


def _supervised(
    cells: _Cells, real: _Cells, train: _Cells | None, is_floor: bool
) -> dict[str, float]:
    """Is the condition that was asked for the one a classifier finds, and the other way round?"""
    if len(np.unique(real.label)) < 2:
        return {}
    scale = (real if train is None else train).pca.std(axis=0)
    out = {}
    if train is not None and len(np.unique(train.label)) > 1:
        found = _classifier(train.pca / scale, train.label).predict(cells.pca / scale)
        out["cond_acc"] = float(accuracy_score(cells.label, found))
    source = train if is_floor else cells
    if source is not None and len(np.unique(source.label)) > 1:
        found = _classifier(source.pca / scale, source.label).predict(real.pca / scale)
        out["tstr_f1"] = float(f1_score(real.label, found, average="macro"))
    return out


def _memorization(cells: _Cells, real: _Cells, train: _Cells) -> dict[str, float]:
    """Distance to the nearest training cell, over that of real cells."""
    nearest = NearestNeighbors(n_neighbors=2).fit(train.pca)
    column = 1 if cells is train else 0  # a training cell is its own nearest
    distance = nearest.kneighbors(cells.pca)[0][:, column]
    typical = float(np.median(nearest.kneighbors(real.pca)[0][:, 0]))
    return {
        # real cells that are training cells set no scale
        "nn_ratio": float(np.median(distance)) / typical if typical > 0 else float("nan"),
        "dup_frac": float((distance < 1e-3).mean()),
    }
