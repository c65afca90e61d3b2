"""A small screen whose law is known, and a model of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from helpers import QUIET, SMALL
from scipy import sparse

from scgm_scvi import SCGM

N_GENES = 60
NAMES = [f"P{i}" for i in range(12)]


def make_screen(seed=0):
    """Two lines, twelve perturbations that move ten genes each as their vectors say, and doses."""
    rng = np.random.default_rng(seed)
    vectors = pd.DataFrame(rng.normal(size=(12, 2)), index=NAMES)
    law = np.zeros((2, N_GENES))
    law[0, :15], law[1, 15:30] = 0.8, -0.8
    base = rng.gamma(2, 2, size=N_GENES)
    rows, counts = [], []
    for line in ("a", "b"):
        share = base * np.where(np.arange(N_GENES) >= 45, 3.0 if line == "a" else 0.5, 1.0)
        for name in ["control", *NAMES]:
            for dose in [0.0] if name == "control" else [0.1, 1.0]:
                n = 80 if name == "control" else 20
                change = 0 if dose == 0 else dose**0.3 * (vectors.loc[name].to_numpy() @ law)
                counts.append(rng.poisson(share * np.exp(change), size=(n, N_GENES)))
                rows += [(name, line, dose, f"b{i % 2}") for i in range(n)]
    obs = pd.DataFrame(rows, columns=["target", "line", "dose", "batch"])
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[*NAMES[:3], *(f"g{i}" for i in range(N_GENES - 3))])
    return (
        AnnData(sparse.csr_matrix(np.concatenate(counts), dtype=np.float32), obs, var),
        vectors,
        law,
    )


def train(adata, vectors, **kwargs):
    scvi.settings.seed = 0
    SCGM.setup_anndata(
        adata,
        labels_key="line",
        batch_key="batch",
        perturbation_key="target",
        control="control",
        dose_key="dose",
        condition_embeddings={"target": vectors},
        **kwargs,
    )
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=3, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    return model


def log_change(cells, controls):
    share = [np.log(np.asarray(x.X.mean(axis=0)).ravel() + 0.1) for x in (cells, controls)]
    return share[0] - share[1]


def train_on_seen(adata, vectors):
    """A model that never saw P10 and P11."""
    seen = ~adata.obs["target"].isin(["P10", "P11"])
    return train(adata[seen.to_numpy()].copy(), vectors)


def controls_of(adata):
    """Its control cells."""
    return adata[(adata.obs["target"] == "control").to_numpy()].copy()
