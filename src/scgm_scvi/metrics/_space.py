"""The space that cells are compared in: log1p of counts per 10,000, and its components.

``_lsi.py`` has the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy import sparse, stats
from sklearn.decomposition import PCA

from scgm_scvi._errors import listed, nearest

__all__ = [
    "ALL",
    "LEAST_CELLS",
    "SAME_PLACE",
    "Cells",
    "counts_of",
    "fit_pca",
    "groups_of",
    "halves",
    "labels_of",
    "log_normalize",
    "mean_of_numbers",
    "pearson",
    "prepare",
    "require_counts",
    "require_key",
    "shared_features",
    "subsample",
    "values_of",
]

ALL = "all"  # what the rows of all cells are called
LEAST_CELLS = 10  # on a side; fewer get no numbers
SAME_PLACE = 1e-3  # a distance below which two cells are duplicates


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells as the metrics want them; ``label`` is a constant where there is no condition.

    ``values`` are log counts, or 0 and 1 of the most variable features; then ``is_open`` has all.
    """

    depth: np.ndarray
    values: np.ndarray
    pca: np.ndarray
    label: np.ndarray
    is_open: sparse.csr_matrix | None = None

    def __getitem__(self, rows: np.ndarray) -> Cells:
        is_open = None if self.is_open is None else self.is_open[rows]
        return Cells(self.depth[rows], self.values[rows], self.pca[rows], self.label[rows], is_open)

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def mean(self) -> np.ndarray:
        """Of each feature over the cells: of log counts, or the share of cells it is open in."""
        if self.is_open is None:
            return self.values.mean(axis=0)
        return self.is_open.getnnz(axis=0) / len(self)


def shared_features(objects: Mapping[str, AnnData], first: str) -> list[str]:
    """Names of the features that all have, in the order of the object named ``first``."""
    for name, a in objects.items():
        if not a.var_names.is_unique:
            twice = a.var_names[a.var_names.duplicated()].unique()
            raise ValueError(
                f"{name}.var_names holds {listed(twice, 3)} more than once: make the names unique "
                "(adata.var_names_make_unique()) in all objects alike."
            )
    names = objects[first].var_names
    for a in objects.values():
        names = names[names.isin(a.var_names)]
    if len(names) < 2:
        raise ValueError(
            f"{', '.join(objects)} share {len(names) or 'no'} var_names: name their features alike."
        )
    return list(names)


def require_key(objects: Mapping[str, AnnData], key: str, argument: str) -> None:
    """Refuse objects without a column of ``obs``."""
    for name, a in objects.items():
        if key not in a.obs:
            hint = nearest(key, a.obs.columns)
            raise KeyError(f"{argument}: {key!r} is not a column of {name}.obs.{hint}")


def groups_of(objects: Mapping[str, AnnData], key: str, argument: str) -> list[str]:
    """Sorted values of a column of ``obs`` in all objects; missing ones are not among them."""
    require_key(objects, key, argument)
    found = {g for a in objects.values() for g in a.obs[key].dropna().astype(str)}
    if not found:
        raise ValueError(f"{argument}: {key!r} is missing for every cell.")
    if ALL in found:
        raise ValueError(
            f"{argument}: {key!r} holds the value {ALL!r}, as the rows of all cells are called: "
            "rename it."
        )
    return sorted(found)


def values_of(adata: AnnData, features: list[str]) -> np.ndarray:
    """``X`` of the features, dense, in double precision."""
    x = adata[:, features].X
    return (x.toarray() if sparse.issparse(x) else np.asarray(x)).astype(np.float64)


def counts_of(adata: AnnData, features: list[str], name: str) -> np.ndarray:
    """The same, after a look whether they can be counts."""
    x = values_of(adata, features)
    require_counts(x, name)
    return x


def require_counts(values: np.ndarray, name: str) -> None:
    """Refuse values of ``X`` that no count can have."""
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise ValueError(
            f"{name}.X holds negative, infinite or NaN values; it must hold counts: put them in X "
            "(adata.X = adata.layers[...]), or leave those cells out."
        )


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation; NaN where one of the two is constant, as no change has none."""
    if min(np.ptp(x), np.ptp(y)) == 0:
        return float("nan")
    return float(stats.pearsonr(x, y).statistic)


def mean_of_numbers(values: list[float]) -> float:
    """Mean of the numbers there are."""
    values = [v for v in values if not np.isnan(v)]
    return float(np.mean(values)) if values else float("nan")


def log_normalize(counts: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000; cells without counts stay zero."""
    depth = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.where(depth == 0, 1, depth) * 1e4)


def fit_pca(log: np.ndarray, n_pcs: int) -> PCA:
    """Principal components of cells in log space, at most as many as there can be.

    The solver is exact, and finds only the components asked for.
    """
    n_pcs = min(n_pcs, log.shape[1] - 1, len(log) - 1)
    return PCA(n_pcs, svd_solver="arpack", random_state=0).fit(log)


def prepare(adata: AnnData, features: list[str], pca: PCA, key: str | None, name: str) -> Cells:
    """Cells of an AnnData of counts in the space of the metrics."""
    counts = counts_of(adata, features, name)
    log = log_normalize(counts)
    return Cells(counts.sum(axis=1), log, pca.transform(log), labels_of(adata, key))


def labels_of(adata: AnnData, key: str | None) -> np.ndarray:
    """Names of the cells' conditions; empty ones without a key."""
    # str of each, since pandas 3 leaves missing values missing
    names = [""] * adata.n_obs if key is None else [str(v) for v in adata.obs[key]]
    return np.array(names, dtype=object)


def halves(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 or 1 for every cell, as even as can be within each condition."""
    half = np.zeros(len(label), dtype=int)
    for name in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == name))
        half[rows[: len(rows) // 2]] = 1
    return half


def subsample(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``n`` of the rows, in their order."""
    return rows if n >= len(rows) else np.sort(rng.permutation(rows)[:n])
