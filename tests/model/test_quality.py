"""One training on real counts, long enough to tell a model that learns from one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
from helpers import QUIET

import scgm_scvi
from scgm_scvi import SCGM


@pytest.mark.slow
def test_generated_cells_are_like_held_out_ones():
    adata = scgm_scvi.datasets.pbmc68k()
    held_out = np.zeros(adata.n_obs, dtype=bool)
    rng = np.random.default_rng(0)
    for rows in adata.obs.groupby("cell_type", observed=True).indices.values():
        held_out[rng.permutation(rows)[: len(rows) // 2]] = True
    train, test = adata[~held_out].copy(), adata[held_out].copy()
    scvi.settings.seed = 0
    SCGM.setup_anndata(train, labels_key="cell_type")
    small = {"n_hidden": 128, "n_layers": 2}
    model = SCGM(train, n_latent=32, n_hidden=128, denoiser_kwargs=small)
    steps = {"max_steps": 1000, "batch_size": 128}
    model.train(max_epochs=200, diffusion_kwargs={**steps, **QUIET}, **QUIET)
    cells = model.generate(conditions=test.obs[["cell_type"]], seed=0, progress_bar=False)
    table = scgm_scvi.metrics.evaluate_generation(
        cells, test, train=train, condition_key="cell_type"
    )
    value, floor = (table.set_index("metric")[k] for k in ("value", "floor"))
    assert value["rf_auc_gene"] < 0.75
    assert value["rf_auc_pca"] < 0.75
    assert value["w2"] < 1.15 * floor["w2"]
    assert value["cond_acc"] > floor["cond_acc"] - 0.1
    assert value["nn_ratio"] > 0.95
    assert value["dup_frac"] == 0

    # what the diffusion learnt, and not the decoder's labels alone: another type's latents differ
    b, t = (
        model.generate(100, {"cell_type": name}, seed=0, progress_bar=False).obsm["X_scgm"]
        for name in ("CD19+ B", "CD14+ Monocyte")
    )
    assert np.abs(b.mean(0) - t.mean(0)).max() > 1.5 * b.std(0).mean()
