"""Small data and a small model, for the tests of several rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import scgm_scvi
from scgm_scvi import SCGM, MultiSCGM
from scgm_scvi._mudata import columns_stay

QUIET = {"enable_progress_bar": False}
SILENT = {"progress_bar": False}
BRIEF = {"max_epochs": 1, "diffusion_kwargs": {"max_steps": 2, **QUIET}, **QUIET}
SMALL = {"n_latent": 12, "n_hidden": 48, "denoiser_kwargs": {"n_hidden": 48, "n_layers": 2}}


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


def make_mdata(n_unpaired: int = 0) -> MuData:
    """Real counts of genes beside peaks that follow the cell's type; some cells in one only."""
    rng = np.random.default_rng(0)
    rna = scgm_scvi.datasets.pbmc68k()[::2, :120].copy()
    rna = rna[np.asarray(rna.X.sum(axis=1)).ravel() > 0].copy()
    types = rna.obs["cell_type"].astype("category").cat
    open_in = rng.gamma(0.5, size=(len(types.categories), 200)) * 0.8
    rates = open_in[types.codes.to_numpy()] * rng.lognormal(0, 0.3, (rna.n_obs, 1))
    atac = AnnData(
        sparse.csr_matrix(rng.poisson(rates), dtype=np.float32),
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(
            {"length": np.full(200, 500)},
            index=[f"chr{1 + i % 3}:{1000 * i}-{1000 * i + 500}" for i in range(200)],
        ),
    )
    atac.X[np.asarray(atac.X.sum(axis=1)).ravel() == 0, 0] = 1
    rna.obs["donor"] = pd.Categorical(rng.choice(["d1", "d2"], rna.n_obs))
    atac.obs["cell_type"] = rna.obs["cell_type"]
    if n_unpaired:
        rna, atac = rna[:-n_unpaired].copy(), atac[n_unpaired:].copy()
    with columns_stay():
        return MuData({"rna": rna, "atac": atac})


def make_multi(
    mdata: MuData,
    labels_key: str = "cell_type",
    *,
    epochs: int = 6,
    steps: int = 100,
    batch_size: int = 128,
) -> MultiSCGM:
    scvi.settings.seed = 0
    MultiSCGM.setup_mudata(mdata, labels_key=labels_key)
    model = MultiSCGM(mdata, **SMALL)
    stage_two = {"max_steps": steps, **QUIET}
    model.train(max_epochs=epochs, batch_size=batch_size, diffusion_kwargs=stage_two, **QUIET)
    return model


def make_joint(mdata: MuData) -> AnnData:
    """Genes and peaks side by side, as scanpy reads a file of 10x Genomics."""
    parts = [mdata["rna"], mdata["atac"]]
    return AnnData(
        sparse.hstack([p.X for p in parts], format="csr"),
        obs=mdata["rna"].obs.copy(),
        var=pd.DataFrame(
            {"feature_types": np.repeat(["Gene Expression", "Peaks"], [p.n_vars for p in parts])},
            index=[*parts[0].var_names, *parts[1].var_names],
        ),
    )


def make_types(n: int = 240, *, seed: int = 0) -> AnnData:
    """Two types of cells told apart by twenty of forty genes, from two donors."""
    rng = np.random.default_rng(seed)
    is_b = np.arange(n) % 2 == 1
    rates = np.where(is_b[:, None] == (np.arange(40) < 20), 1.0, 8.0)
    cells = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.where(is_b, "B", "A")),
            "donor": rng.choice(["d1", "d2"], n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    genes = pd.DataFrame(index=[f"gene{i}" for i in range(40)])
    return AnnData(sparse.csr_matrix(rng.poisson(rates), dtype=np.float32), cells, genes)


def train_types(adata: AnnData, cls: type = SCGM, *, epochs: int = 30, steps: int = 60, **kwargs):
    """Any model of one AnnData, set up with the columns of :func:`make_types` and trained."""
    scvi.settings.seed = 0
    cls.setup_anndata(adata, labels_key="cell_type", batch_key="donor", **kwargs)
    model = cls(adata, n_latent=6, n_hidden=24, denoiser_kwargs=SMALL["denoiser_kwargs"])
    model.train(max_epochs=epochs, diffusion_kwargs={"max_steps": steps, **QUIET}, **QUIET)
    return model


def generated(model: SCGM) -> np.ndarray:
    return model.generate(5, seed=0, **SILENT).X.toarray()


def assert_whole(model: SCGM, before: np.ndarray, path: Path) -> None:
    """It makes the cells that it made, and so does what is saved of it, with its cells and without."""
    np.testing.assert_array_equal(generated(model), before)
    model.save(path / "model", save_anndata=True)
    for adata in (None, False):
        np.testing.assert_array_equal(generated(SCGM.load(path / "model", adata=adata)), before)
