"""Make the golden files of a release: small models, saved and exported, and cells that they make.

Run once for each release, after its version is set, and commit the folder that appears::

    OMP_NUM_THREADS=1 python tests/golden/make_golden.py

Later versions have to load the models of all releases, and make the same cells of them
(``tests/model/test_golden.py``). Nothing is downloaded, and every run on one machine makes the same
weights and cells.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scvi
import torch

from scgm_scvi import SCGM, MultiSCGM
from scgm_scvi._mudata import columns_stay

# what cells are asked for; a release's expected.npz holds the answers
REQUESTS: dict[str, dict[str, Any]] = {
    "any": {"n_cells": 8, "seed": 0},
    "joint": {
        "n_cells": 8,
        "conditions": {"cell_type": "B", "stimulation": "IFNb"},
        "guidance_scale": 1.5,
        "seed": 1,
    },
    "partial": {"n_cells": 8, "conditions": {"stimulation": "control"}, "seed": 2},
}


def make_data(n_cells: int = 300, n_genes: int = 20) -> ad.AnnData:
    """Counts with two conditions, a batch, and two programs; each has genes of its own."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_type": rng.choice(["B", "NK", "T"], n_cells),
            "stimulation": rng.choice(["IFNb", "control"], n_cells),
            "donor": rng.choice(["d1", "d2"], n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    mean = np.full((n_cells, n_genes), 15.0)
    for j, name in enumerate(("B", "NK", "T")):
        mean[obs["cell_type"] == name, 3 * j : 3 * j + 3] *= 4
    mean[obs["stimulation"] == "IFNb", 9:12] *= 3
    mean[obs["donor"] == "d2", 12:14] *= 2
    mean[:, 14:17] *= np.exp(rng.normal(0, 1, (n_cells, 1)))
    mean[:, 17:20] *= np.exp(rng.normal(0, 1, (n_cells, 1)))
    counts = rng.poisson(mean * rng.gamma(20, 0.1, (n_cells, 1))).astype(np.float32)
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)])
    var["kind"] = pd.Categorical(np.where(np.arange(n_genes) < 14, "marker", "other"))
    return ad.AnnData(counts, obs=obs, var=var)


def make_model() -> SCGM:
    """A small model, both stages trained."""
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    adata = make_data()
    SCGM.setup_anndata(
        adata, batch_key="donor", labels_key="cell_type", condition_keys=["stimulation"]
    )
    model = SCGM(
        adata,
        n_latent=4,
        n_hidden=16,
        n_components=8,
        denoiser_kwargs={"n_hidden": 24, "n_layers": 2},
    )
    model.train(
        max_epochs=100,
        accelerator="cpu",
        plan_kwargs={"lr": 3e-3, "max_kl_weight": 0.1},  # few cells: else nothing is encoded
        diffusion_kwargs={"max_steps": 2000},
    )
    model.run_name = "golden"  # scvi-tools puts the time there
    return model


def make_mdata() -> mudata.MuData:
    """The same cells with peaks that follow the genes; some cells in one modality only."""
    rng = np.random.default_rng(1)
    rna = make_data()
    x = np.repeat(rna.X, 2, axis=1)
    atac = ad.AnnData(
        rng.poisson(0.1 * x).astype(np.float32),
        obs=rna.obs[["cell_type"]].copy(),
        var=pd.DataFrame(index=[f"chr1:{100 * i}-{100 * i + 50}" for i in range(x.shape[1])]),
    )
    rna.X[:30] = 0
    atac.X[-30:] = 0
    with columns_stay():
        return mudata.MuData({"rna": rna, "atac": atac})


def make_multi_model() -> MultiSCGM:
    """A small model of both modalities, both stages trained."""
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    mdata = make_mdata()
    MultiSCGM.setup_mudata(
        mdata, batch_key="donor", labels_key="cell_type", condition_keys=["stimulation"]
    )
    model = MultiSCGM(
        mdata,
        n_latent=4,
        n_hidden=16,
        n_components=8,
        denoiser_kwargs={"n_hidden": 24, "n_layers": 2},
    )
    model.train(
        max_epochs=100,
        accelerator="cpu",
        plan_kwargs={"lr": 3e-3, "max_kl_weight": 0.1},
        diffusion_kwargs={"max_steps": 2000},
    )
    model.run_name = "golden"
    return model


def generated(model: SCGM | MultiSCGM) -> dict[str, np.ndarray]:
    """Latents and normalised expression of what is asked for in ``REQUESTS``."""
    found = {}
    for name, request in REQUESTS.items():
        cells = model.generate(**request, expression="normalized", progress_bar=False)
        found[f"{name}_latent"] = cells.obsm["X_scgm"]
        parts = [a.X for a in cells.mod.values()] if isinstance(cells, mudata.MuData) else [cells.X]
        dense = [x.toarray() if hasattr(x, "toarray") else x for x in parts]
        found[f"{name}_normalized"] = np.concatenate(dense, axis=1)
    return found


def main() -> None:
    """Write ``saved/``, ``export/`` and ``expected.npz`` to a folder named for the version.

    Those of the model of both modalities go to ``multi/`` in it.
    """
    folder = Path(__file__).parent / version("scgm_scvi")
    for place, make in {folder: make_model, folder / "multi": make_multi_model}.items():
        if place.exists():
            print(f"{place} exists: golden files of a release are not made twice.")
            continue
        model = make()
        place.mkdir()
        model.save(str(place / "saved"))
        model.export(place / "export")
        np.savez_compressed(place / "expected.npz", **generated(model))


if __name__ == "__main__":
    main()
