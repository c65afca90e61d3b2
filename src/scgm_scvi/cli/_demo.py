"""``scgm demo``: train, generate and compare on data that comes with scanpy."""

from __future__ import annotations

import time
from pathlib import Path

from ._app import app, quiet

__all__ = ["demo"]


@app.command
def demo(out: Path = Path("demo"), *, seed: int = 0, quick: bool = False) -> None:
    """Train on 700 blood cells that come with scanpy, generate as many, and compare.

    Parameters
    ----------
    out
        Folder for generated.h5ad, umap.png and metrics.csv.
    seed
        Of the split, the training and the cells.
    quick
        Train for seconds only: shows that everything runs, not how good it is.
    """
    import numpy as np
    import scvi
    import torch

    from scgm_scvi import datasets, metrics, pl
    from scgm_scvi.model import SCGM

    quiet()
    torch.set_num_threads(1)  # the matrices are small: threads would wait for each other
    started = time.monotonic()
    scvi.settings.seed = seed
    adata = datasets.pbmc68k()
    held_out = np.zeros(adata.n_obs, dtype=bool)
    rng = np.random.default_rng(seed)
    for rows in adata.obs.groupby("cell_type", observed=True).indices.values():
        held_out[rng.permutation(rows)[: round(0.3 * len(rows))]] = True
    train, test = adata[~held_out].copy(), adata[held_out].copy()

    print(f"Training SCGM on {train.n_obs} cells x {train.n_vars} genes.")
    SCGM.setup_anndata(train, labels_key="cell_type")
    model = SCGM(train)
    model.train(
        max_epochs=10 if quick else None,
        diffusion_kwargs={"seed": seed, "max_steps": 100 if quick else 1500},
    )
    cells = model.generate(conditions=adata.obs[["cell_type"]], seed=seed)

    print(f"Comparing with {test.n_obs} real cells that were held out of training.")
    table = metrics.evaluate_generation(
        cells, test, train=train, condition_key="cell_type", seed=seed
    )
    figure = pl.real_and_generated(adata, cells, "cell_type", seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(out / "generated.h5ad")
    figure.savefig(out / "umap.png", dpi=120)
    table.to_csv(out / "metrics.csv", index=False)

    forest, slope = (table.set_index("metric").loc[m] for m in ("rf_auc_pca", "de_slope"))
    print(
        f"\n{cells.n_obs} cells of {cells.obs['cell_type'].nunique()} types in {out}/generated.h5ad, "
        f"drawn beside real ones in {out}/umap.png ({time.monotonic() - started:.0f} s in all)."
    )
    print(
        f"A random forest tells them from held-out cells with AUC {forest['value']:.2f} (real cells "
        f"from real: {forest['floor']:.2f}; 0.5 is chance); log-fold changes between types have a "
        f"slope of {slope['value']:.2f} on real ones (real on real: {slope['floor']:.2f}); all "
        f"metrics in {out}/metrics.csv."
    )
    print(
        f"Next: sc.read_h5ad('{out}/generated.h5ad') in scanpy, or "
        "tutorials/01_quickstart.ipynb to do the same with your own data."
    )
