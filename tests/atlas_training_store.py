"""Training stores of known cells, as the atlas writes them: shuffled, in parts, sharded."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from helpers import make_adata
from scipy import sparse

SIZES = {"liver": 360, "lung": 240, "blood": 70, "skin": 30}  # cells of each data set


def known_cells(n: int = 1200, n_genes: int = 30, seed: int = 0) -> ad.AnnData:
    """Cells whose counts tell their number: ``X[i, 0] * 100 + X[i, 1] == i + 101``."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.5, (n, n_genes)).astype(np.uint16)
    x[:, 0], x[:, 1] = np.divmod(np.arange(n) + 101, 100)
    obs = pd.DataFrame(
        {
            "dataset": rng.choice(["a", "b", "c", "d"], n, p=[0.7, 0.2, 0.08, 0.02]),
            "cell_type": rng.choice(["B", "NK", "T", "unknown", None], n),
            "tissue": rng.choice(["blood", "lung", None], n),
            "age": np.where(rng.random(n) < 0.8, rng.uniform(20, 80, n), np.nan),
            "assay": rng.choice(["v2", "v3"], n),
        },
        index=[f"cell_{i}" for i in range(n)],
    )
    for key in ("dataset", "cell_type", "tissue", "assay"):
        obs[key] = obs[key].astype("category")
    var = pd.DataFrame({"symbol": [f"S{j}" for j in range(n_genes)]})
    var.index = [f"ENSG{j}" for j in range(n_genes)]
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=var)


def numbers(x: np.ndarray) -> np.ndarray:
    """Which of the :func:`known_cells` these counts are of."""
    return np.asarray(x[:, 0] * 100 + x[:, 1] - 101).astype(int)


def real_cells() -> ad.AnnData:
    """700 real cells, said to be of four data sets of different sizes."""
    adata = make_adata()
    rng = np.random.default_rng(1)
    names = np.repeat(list(SIZES), list(SIZES.values()))
    adata.obs["dataset"] = pd.Categorical(rng.permutation(names))
    adata.obs["plate"] = adata.obs["plate"].astype("category")
    for key in ("cell_type", "stimulation"):
        adata.obs[key] = adata.obs[key].astype("category")
    return adata


def write_store(
    path: Path, adata: ad.AnnData, n_members: int = 3, *, seed: int | None = 0
) -> ad.AnnData:
    """Write a store; returns the cells in its order (``seed=None``: in theirs)."""
    n = adata.n_obs
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    shuffled = adata[order].copy()
    root = zarr.open_group(path, mode="w", zarr_format=3)

    def in_shards(write, group, key, elem, dataset_kwargs, iospec):
        if iospec.encoding_type == "csr_matrix":
            dataset_kwargs = {**dataset_kwargs, "chunks": (1024,), "shards": (8192,)}
        write(group, key, elem, dataset_kwargs=dataset_kwargs)

    parts = np.array_split(np.arange(n), n_members)
    with ad.settings.override(auto_shard_zarr_v3=False):  # format 3: that of the group
        for i, rows in enumerate(parts):
            with ad.settings.override(remove_unused_categories=False):
                part = shuffled[rows].copy()
            part = ad.AnnData(part.X, obs=part.obs, var=part.var)
            ad.experimental.write_dispatched(root, f"/dataset_{i}", part, in_shards)
    return shuffled
