"""Real and generated cells in one embedding."""

from __future__ import annotations

from collections.abc import Mapping

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse

from scgm_scvi.metrics._space import shared_features

from ._colors import GENERATED, REAL
from ._text import literal

__all__ = ["real_and_generated"]


def real_and_generated(
    real: AnnData,
    generated: AnnData | Mapping[str, AnnData],
    color: str | None = None,
    *,
    n_pcs: int = 30,
    seed: int = 0,
) -> Figure:
    """UMAP of real beside generated cells, and of both laid over each other.

    Counts of all are normalised and log-transformed, and embedded together by scanpy's usual
    steps. The arguments are not changed.

    Parameters
    ----------
    real
        Raw counts in ``X``.
    generated
        Raw counts in ``X``, of one method, or of several by name.
    color
        Column of ``obs``, in all, to colour by.
    n_pcs
        Number of principal components under the neighbour graph.
    seed
        Of the embedding, and of the order in which cells are drawn.

    Returns
    -------
    The figure: real, generated, both; of several methods a column each, both below.

    Raises
    ------
    KeyError
        If ``color`` is missing from one of them.
    ValueError
        If ``generated`` names no method, or one is called ``"real"``.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> figure = scgm_scvi.pl.real_and_generated(adata[::2], adata[1::2], "cell_type")
    >>> figure.savefig("umap.png")  # doctest: +SKIP
    """
    several = isinstance(generated, Mapping)
    methods = {str(k): a for k, a in generated.items()} if several else {"generated": generated}
    if not methods or "real" in methods:
        raise ValueError(
            f"generated names the methods {sorted(methods)}: there must be one, and none 'real'."
        )
    objects = {"real": real, **methods}
    for name, a in objects.items():
        if color is not None and color not in a.obs:
            raise KeyError(f"color: {color!r} is not a column of {name}.obs.")
    cells = _embedded(objects, color, n_pcs, seed)

    xy, source = cells.obsm["X_umap"], cells.obs["source"].to_numpy()
    size = float(np.clip(20_000 / cells.n_obs, 2, 40))
    values = np.full(cells.n_obs, "") if color is None else cells.obs["value"].to_numpy()
    names = sorted(set(values))
    many = len(names) > 20
    tints = plt.get_cmap("turbo" if many else "tab20")(
        np.linspace(0, 1, len(names) if many else 20)
    )
    if several:
        shape, one = (2, len(objects)), (3.4, 3.4)
    else:
        shape, one = (1, 3), (13 / 3, 4.6)
    figure, axes = plt.subplots(
        *shape,
        **{"figsize": (shape[1] * one[0], shape[0] * one[1]), "sharex": True, "sharey": True},
        squeeze=False,
    )
    for ax, name in zip(axes[0], objects, strict=False):
        for i, value in enumerate(names):
            rows = (source == name) & (values == value)
            ax.scatter(*xy[rows].T, s=size, color=tints[i], label=literal(value), linewidths=0)
        ax.set_title(f"{literal(name)} ({int((source == name).sum()):,} cells)", fontsize=10)
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    for ax, name in zip(axes[1, 1:] if several else axes[0, 2:], methods, strict=True):
        rows = order[np.isin(source[order], ("real", name))]
        _lay_over(ax, xy[rows], source[rows] == "real", name, size)
    if several:
        axes[1, 0].set_axis_off()
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[], xlabel="UMAP1")
    axes[0, 0].set_ylabel("UMAP2")
    rows_of_legend = 0
    if color is not None:
        rows_of_legend = -(-len(names) // 5)
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="lower center",
            ncols=min(5, len(names)),
            frameon=False,
            fontsize=8,
            markerscale=1.5,
        )
    figure.tight_layout(rect=(0, 0.05 * rows_of_legend / shape[0], 1, 1))
    plt.close(figure)  # returned, and so shown once, in notebooks too
    return figure


def _embedded(objects: Mapping[str, AnnData], color: str | None, n_pcs: int, seed: int) -> AnnData:
    """All cells together, with ``X_umap``, and ``source`` and ``value`` in ``obs``."""
    import scanpy as sc

    features = shared_features(objects, first="real")
    parts = []
    for name, a in objects.items():
        value = "" if color is None else a.obs[color].astype(str).to_numpy()
        obs = pd.DataFrame({"source": name, "value": value}, index=a.obs_names)
        x = sparse.csr_matrix(a[:, features].X, dtype=np.float32)
        parts.append(AnnData(x, obs=obs, var=pd.DataFrame(index=features)))
    cells = ad.concat(parts, index_unique="-", keys=list(objects))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=min(n_pcs, *(n - 1 for n in cells.shape)), random_state=seed)
    sc.pp.neighbors(cells, random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return cells


def _lay_over(ax: Axes, xy: np.ndarray, is_real: np.ndarray, name: str, size: float) -> None:
    """Real cells and those of a method, in one panel."""
    ax.scatter(*xy.T, s=size, c=np.where(is_real, REAL, GENERATED), linewidths=0)
    for label, tint in (("real", REAL), (literal(name), GENERATED)):
        ax.scatter([], [], color=tint, label=label)
    ax.set_title("both", fontsize=10)
    ax.legend(frameon=False, loc="best", fontsize=8)
