"""Real and generated cells in one embedding."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

from ._colors import GENERATED, REAL

__all__ = ["real_and_generated"]


def real_and_generated(
    real: AnnData,
    generated: AnnData,
    color: str | None = None,
    *,
    n_pcs: int = 30,
    seed: int = 0,
) -> Figure:
    """UMAP of real beside generated cells, and of both laid over each other.

    Counts of both are normalised and log-transformed, and embedded together by scanpy's usual
    steps. The arguments are not changed.

    Parameters
    ----------
    real, generated
        Raw counts in ``X``.
    color
        Column of ``obs``, in both, to colour by.
    n_pcs
        Number of principal components under the neighbour graph.
    seed
        Of the embedding, and of the order in which cells are drawn.

    Returns
    -------
    The figure: real, generated, both.

    Raises
    ------
    KeyError
        If ``color`` is missing from one of them.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> figure = scgm_scvi.pl.real_and_generated(adata[::2], adata[1::2], "cell_type")
    >>> figure.savefig("umap.png")  # doctest: +SKIP
    """
    import scanpy as sc

    for name, a in (("real", real), ("generated", generated)):
        if color is not None and color not in a.obs:
            raise KeyError(f"color: {color!r} is not a column of {name}.obs.")
    parts = {
        name: AnnData(a.X.copy(), obs=a.obs[[color]] if color else a.obs[[]], var=a.var[[]])
        for name, a in (("real", real), ("generated", generated))
    }
    both = ad.concat(parts, label="scgm_source", index_unique="-")
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.pp.pca(both, n_comps=min(n_pcs, *(n - 1 for n in both.shape)), random_state=seed)
    sc.pp.neighbors(both, random_state=seed)
    sc.tl.umap(both, random_state=seed)

    xy, source = both.obsm["X_umap"], both.obs["scgm_source"].to_numpy()
    size = float(np.clip(20_000 / both.n_obs, 2, 40))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharex=True, sharey=True)
    values = np.full(both.n_obs, "") if color is None else both.obs[color].astype(str).to_numpy()
    names = sorted(set(values))
    colors = plt.get_cmap("tab20", 20)
    for ax, name in zip(axes, ("real", "generated"), strict=False):
        for i, value in enumerate(names):
            rows = (source == name) & (values == value)
            ax.scatter(*xy[rows].T, s=size, color=colors(i % 20), label=value, linewidths=0)
        ax.set_title(f"{name} ({int((source == name).sum()):,} cells)")
    order = np.random.default_rng(seed).permutation(both.n_obs)
    shade = np.where(source == "real", REAL, GENERATED)
    axes[2].scatter(*xy[order].T, s=size, c=shade[order], linewidths=0)
    for label, tint in (("real", REAL), ("generated", GENERATED)):
        axes[2].scatter([], [], color=tint, label=label)
    axes[2].set_title("both")
    axes[2].legend(frameon=False, loc="best", fontsize=8)
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlabel="UMAP1")
    axes[0].set_ylabel("UMAP2")
    if color is not None:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="lower center",
            ncols=min(5, len(names)),
            frameon=False,
            fontsize=8,
            markerscale=1.5,
        )
    rows_of_legend = -(-len(names) // 5) if color is not None else 0
    figure.tight_layout(rect=(0, 0.05 * rows_of_legend, 1, 1))
    plt.close(figure)  # returned, and so shown once, in notebooks too
    return figure
