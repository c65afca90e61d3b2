"""Small data and a small model, for the tests of several rooms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData

import scgm_scvi
from scgm_scvi import SCGM

QUIET = {"enable_progress_bar": False}
SMALL = {"n_latent": 12, "n_hidden": 48, "diffusion_kwargs": {"n_hidden": 48, "n_layers": 2}}


def make_adata() -> AnnData:
    """Real counts with two conditions, one of them continuous, two nuisances, and gaps."""
    adata = scgm_scvi.datasets.pbmc68k()
    rng = np.random.default_rng(0)
    n = adata.n_obs
    stimulation = pd.Series(rng.choice(["control", "IFNb"], n), index=adata.obs_names)
    adata.obs["stimulation"] = stimulation.where(rng.random(n) > 0.1)
    adata.obs["dose"] = np.where(rng.random(n) > 0.1, rng.uniform(0, 10, n), np.nan)
    adata.obs["donor"] = rng.choice(["d1", "d2", "d3"], n)
    # every cell of one type comes from one donor: a batch drawn for this type must be that one
    adata.obs.loc[adata.obs["cell_type"] == "CD34+", "donor"] = "d3"
    adata.obs["plate"] = rng.choice(["p1", "p2"], n)
    adata.obs["mito"] = rng.uniform(0, 0.1, n)
    return adata


def make_model(adata: AnnData, *, epochs: int = 8, steps: int = 150) -> SCGM:
    scvi.settings.seed = 0
    SCGM.setup_anndata(
        adata,
        batch_key="donor",
        labels_key="cell_type",
        condition_keys=["stimulation"],
        continuous_condition_keys=["dose"],
        categorical_covariate_keys=["plate"],
        continuous_covariate_keys=["mito"],
    )
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=epochs, diffusion_kwargs={"max_steps": steps, **QUIET}, **QUIET)
    return model
