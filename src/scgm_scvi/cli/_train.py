"""``scgm train``: a model of a store, or of a file."""

from __future__ import annotations

from pathlib import Path

from ._app import app, quiet

__all__ = ["train"]


@app.command
def train(
    data: Path,
    *,
    out: Path,
    labels: str | None = None,
    conditions: tuple[str, ...] = (),
    batch: str | None = None,
    layer: str | None = None,
    max_steps: int | None = None,
    diffusion_steps: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> None:
    """Train a model of the cells of a store, streamed from disk, or of an h5ad file.

    Parameters
    ----------
    data
        Folder of a store that "scgm atlas build" made, or an h5ad file of counts.
    out
        Folder for the model.
    labels
        Column of the cell types.
    conditions
        Columns of further attributes to generate by, as: --conditions tissue disease.
    batch
        Column of the batch. Default: the dataset, in a store; none, in a file.
    layer
        Of the counts, in a file. Default: X.
    max_steps
        Of stage one, cells minibatches. Default: by the number of cells.
    diffusion_steps
        Of stage two. Default: by the number of cells.
    batch_size
        Cells in a minibatch of stage one.
    seed
        Of the order of cells and of the training.
    """
    import anndata as ad
    import scvi

    from scgm_scvi import atlas
    from scgm_scvi.model import SCGM

    if out.exists():
        raise FileExistsError(f"{out} is there already: give another folder with --out.")
    quiet()
    scvi.settings.seed = seed
    diffusion = {"max_steps": diffusion_steps, "seed": seed}
    keys = {"labels_key": labels, "condition_keys": list(conditions)}
    if data.is_dir():
        cells = atlas.datamodule(
            data, batch_key=batch or "dataset", batch_size=batch_size, seed=seed, **keys
        )
        model = SCGM(registry=cells.registry)
        model.train(datamodule=cells, max_steps=max_steps, diffusion_kwargs=diffusion)
        model.save(out)
    else:
        adata = ad.read_h5ad(data)
        SCGM.setup_anndata(adata, layer=layer, batch_key=batch, **keys)
        model = SCGM(adata)
        per_epoch = max(1, round(0.9 * adata.n_obs / batch_size))
        epochs = None if max_steps is None else max(1, round(max_steps / per_epoch))
        model.train(max_epochs=epochs, batch_size=batch_size, diffusion_kwargs=diffusion)
        model.save(out)
    print(f'Model in {out}. Next: SCGM.load("{out}", adata=False).generate(1000)')
