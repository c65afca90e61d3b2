"""Small datasets for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi.atlas.store._store import Store

AXIS = {"name": "toy", "version": "1"}


def make_cells(
    n_cells: int = 200, n_genes: int = 120, *, seed: int = 0, unmeasured: int = 0
) -> AnnData:
    """Counts with cell types, and every kind of column that files bring."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 2.0, n_genes)
    group = rng.integers(3, size=n_cells)
    mean = np.stack([mean * rng.lognormal(0, 0.8, n_genes) for _ in range(3)])[group]
    counts = rng.poisson(mean * rng.lognormal(0, 0.4, (n_cells, 1)))
    measured = np.ones(n_genes, bool)
    measured[rng.choice(n_genes, unmeasured, replace=False)] = False
    counts[:, ~measured] = 0
    obs = pd.DataFrame(
        {
            "cell_type": np.array(["T cell", "B cell", "NK"])[group],
            "tissue": pd.Categorical(["lung"] * n_cells, categories=["skin", "lung"]),
            "donor": [f"d{i % 4}" if i % 7 else None for i in range(n_cells)],
            "age": rng.integers(20, 90, n_cells),
            "percent_mito": np.where(rng.random(n_cells) < 0.1, np.nan, rng.random(n_cells)),
            "doublet": rng.random(n_cells) < 0.1,
            "tnm/stage": [["T1", 2, None][i % 3] for i in range(n_cells)],
        },
        index=[f"s{seed}_c{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(
        {"symbol": [f"S{i}" for i in range(n_genes)]},
        index=[f"ENSG{i:011d}" for i in range(n_genes)],
    )
    return AnnData(
        sparse.csr_matrix(counts.astype(np.float32)), obs, var, varm={"measured": measured[:, None]}
    )


def blocks_of(adata: AnnData, n: int = 64) -> Iterator[sparse.csr_matrix]:
    for start in range(0, adata.n_obs, n):
        yield adata.X[start : start + n]


def arguments(adata: AnnData, n: int = 64, source: str = "local") -> dict:
    """What Store.write takes besides the key."""
    return {
        "blocks": blocks_of(adata, n),
        "obs": adata.obs,
        "var": adata.var,
        "measured": adata.varm["measured"][:, 0],
        "provenance": {"source": source, "licence": "CC BY 4.0", "files": {"x.h5": "ab12"}},
    }


def make_store(path, datasets: dict[str, AnnData]) -> Store:
    store = Store.create(path, AXIS)
    for key, adata in datasets.items():
        store.write(key, **arguments(adata, source=key.split("-")[0]))
    return store
