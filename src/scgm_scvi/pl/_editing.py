"""Edits: what they gain and cost by strength, and where they take cells."""

from __future__ import annotations

from typing import Literal, NamedTuple

import anndata as ad
import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.cluster import KMeans

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.metrics._space import shared_features, subsample

from ._colors import GENERATED, REAL, SOURCE
from ._text import literal

__all__ = ["edit_curve", "edit_shift"]

_CURVES = {
    "effect": (GENERATED, "effect: share of the way to the target"),
    "identity": (SOURCE, "identity: cells whose type is still recognised"),
    "similarity": ("#edae49", "similarity of a cell to its source"),
}
_INK = "#222222"
_NAMES = ("source", "edited", "real")
_TINTS = dict(zip(_NAMES, (SOURCE, GENERATED, REAL), strict=True))


def edit_curve(curve: pd.DataFrame) -> Figure:
    """Effect, identity and similarity of edited cells, by the strength of the edit.

    A good strength has nearly all of the effect it can have, and as much identity as cells have
    that are generated as the target (the dashed line).

    Parameters
    ----------
    curve
        Of ``model.edit_curve``: a row a strength, with the columns ``strength``, ``effect``,
        ``identity``, ``identity_generated``, ``similarity`` and ``chosen``.

    Returns
    -------
    A figure with one panel.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there is no row to draw.

    Examples
    --------
    >>> import pandas as pd, scgm_scvi
    >>> curve = pd.DataFrame(
    ...     {
    ...         "strength": [0.2, 0.5, 0.8],
    ...         "effect": [0.1, 0.8, 1.0],
    ...         "identity": [1.0, 0.98, 0.96],
    ...         "identity_generated": 0.97,
    ...         "similarity": [0.9, 0.5, 0.1],
    ...         "chosen": [False, True, False],
    ...     }
    ... )
    >>> figure = scgm_scvi.pl.edit_curve(curve)
    >>> figure.savefig("curve.png")  # doctest: +SKIP
    """
    needed = ("strength", *_CURVES, "identity_generated", "chosen")
    missing = [name for name in needed if name not in curve.columns]
    if missing:
        raise KeyError(
            f"curve lacks the columns {listed(missing)}: give what model.edit_curve returns."
        )
    if curve.empty:
        raise ValueError("curve has no row to draw.")
    curve = curve.sort_values("strength")
    chosen = curve[curve["chosen"].astype(bool)]
    figure, ax = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
    for at in (0, 1):
        ax.axhline(at, color="#dddddd", lw=0.8, zorder=0)
    for name, (color, label) in _CURVES.items():
        if curve[name].notna().any():
            ax.plot(curve["strength"], curve[name], "o-", color=color, label=label, ms=4, lw=1.6)
            ax.plot(chosen["strength"], chosen[name], "o", color=color, ms=9, mec=_INK, mew=1.2)
    if curve["identity_generated"].notna().any():
        label = "identity of cells generated as the target"
        color = _CURVES["identity"][0]
        ax.axhline(curve["identity_generated"].iloc[0], color=color, ls="--", lw=1, label=label)
    for strength in chosen["strength"]:
        ax.axvline(strength, color=_INK, lw=0.9, ls=":", zorder=0, label=f"chosen: {strength:g}")
    ax.set(xlabel="strength of the edit", xlim=_around(curve["strength"], 0.04))
    ax.spines[["right", "top"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    plt.close(figure)  # returned, and so shown once, in notebooks too
    return figure


def edit_shift(
    adata: AnnData,
    real: AnnData | None = None,
    *,
    key: str = "scgm_edited",
    color: str | None = None,
    layer: str | None = None,
    basis: Literal["umap", "pca"] = "umap",
    n_arrows: int = 8,
    n_pcs: int = 30,
    n_max: int = 2000,
    seed: int = 0,
) -> Figure:
    """Where an edit took cells: source, edited and real target cells in one embedding.

    Counts are normalised, log-transformed and embedded together by scanpy's usual steps. An arrow
    goes from the median of a group of source cells to that of the same cells edited. Groups are
    those of ``color``, or else of source cells that lie near each other. The arguments are not
    changed.

    Parameters
    ----------
    adata
        Cells that ``model.edit`` wrote to. Counts are what is comparable: means, of
        ``edit(..., expression="normalized")``, lack the noise of counts, and lie apart for it.
    real
        Raw counts, in ``X``, of real cells of the target.
    key
        The ``key_added`` of the edit.
    color
        Column of ``adata.obs`` to group and colour by, in a second panel. Cells of ``real`` are
        coloured too if they have it.
    layer
        Where ``adata`` has the raw counts of the source cells. Default: ``X``.
    basis
        ``"umap"``, or ``"pca"``: the first two components, where distances mean something.
    n_arrows
        Number of arrows, at most, without ``color``.
    n_pcs
        Number of principal components under the neighbour graph.
    n_max
        At most so many cells of ``adata``, and of ``real``, drawn at random.
    seed
        Of the embedding, the groups, the random draw, and the order in which cells are drawn.

    Returns
    -------
    A figure with one panel, or with ``color`` two.

    Raises
    ------
    KeyError
        If ``key`` or ``layer`` is no layer of ``adata``, or ``color`` no column of its ``obs``.
    ValueError
        If ``basis`` or a number makes no sense, or ``adata`` and ``real`` share no genes.

    Examples
    --------
    >>> model.edit(b_cells, {"condition": "stimulated"})  # doctest: +SKIP
    >>> scgm_scvi.pl.edit_shift(b_cells, stimulated_b_cells)  # doctest: +SKIP
    """
    _check(adata, key, color, layer, basis)
    n_arrows, n_pcs, n_max = (
        whole_number(value, name)
        for value, name in ((n_arrows, "n_arrows"), (n_pcs, "n_pcs"), (n_max, "n_max"))
    )
    rng = np.random.default_rng(seed)
    adata = adata[subsample(np.arange(adata.n_obs), n_max, rng)]
    if real is not None:
        real = real[subsample(np.arange(real.n_obs), n_max, rng)]
    xy = _embed(_parts(adata, real, key, layer), basis, n_pcs, seed)
    if color is None:
        groups = _neighbourhoods(xy["source"], n_arrows, seed)
    else:
        groups = adata.obs[color].astype(str).to_numpy()
    n_panels = 1 if color is None else 2
    rows_of_legend = -(-len(np.unique(groups)) // 3) if color else 1
    figure, axes = plt.subplots(
        *(1, n_panels),
        figsize=(5.0 * n_panels, 5.1 + 0.22 * rows_of_legend),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    size = float(np.clip(12_000 / sum(map(len, xy.values())), 3, 25))
    everything = np.concatenate(list(xy.values()))
    order = rng.permutation(len(everything))
    name_of = np.repeat(list(xy), [len(v) for v in xy.values()])
    tint = np.array([_TINTS[name] for name in name_of])
    axes[0, 0].scatter(*everything[order].T, s=size, c=tint[order], linewidths=0, alpha=0.8)
    _legend(axes[0, 0], {_label(adata, name, key): _TINTS[name] for name in xy})
    if color is not None:
        _draw_groups(axes[0, 1], xy, groups, _column(real, color), size)
        axes[0, 1].set_title(literal(color))
    axis = {"umap": "UMAP", "pca": "PC"}[basis]
    for ax in axes.flat:
        _arrows(ax, xy, groups)
        ax.set(xticks=[], yticks=[], xlabel=f"{axis}1")
        ax.spines[["right", "top"]].set_visible(False)
    axes[0, 0].set_ylabel(f"{axis}2")
    plt.close(figure)
    return figure


def _check(adata: AnnData, key: str, color: str | None, layer: str | None, basis: str) -> None:
    for name, argument in ((key, "key"), (layer, "layer")):
        if name is not None and name not in adata.layers:
            remedy = " model.edit writes one." if argument == "key" else ""
            raise KeyError(
                f"{argument}: {name!r} is not a layer of adata.{nearest(name, adata.layers)}{remedy}"
            )
    if color is not None and color not in adata.obs:
        hint = nearest(color, adata.obs.columns)
        raise KeyError(f"color: {color!r} is not a column of adata.obs.{hint}")
    if basis not in ("umap", "pca"):
        raise ValueError(f"basis is {basis!r}; use 'umap' or 'pca'.")


def _parts(adata: AnnData, real: AnnData | None, key: str, layer: str | None) -> dict[str, AnnData]:
    """Source, edited and perhaps real cells, on the genes that all have."""
    parts = {
        "source": AnnData(adata.X if layer is None else adata.layers[layer], var=adata.var[[]]),
        "edited": AnnData(adata.layers[key], var=adata.var[[]]),
    }
    if real is not None:
        genes = shared_features({"adata": adata, "real": real}, first="adata")
        parts["real"] = AnnData(real.X, var=real.var[[]])
        parts = {name: part[:, genes] for name, part in parts.items()}
    return parts


def _embed(parts: dict[str, AnnData], basis: str, n_pcs: int, seed: int) -> dict[str, np.ndarray]:
    """Two coordinates of each cell of each part."""
    import scanpy as sc

    every = ad.concat(parts, label="part", index_unique="-")
    sc.pp.normalize_total(every, target_sum=1e4)
    sc.pp.log1p(every)
    sc.pp.pca(every, n_comps=min(n_pcs, *(n - 1 for n in every.shape)), random_state=seed)
    if basis == "umap":
        sc.pp.neighbors(every, random_state=seed)
        sc.tl.umap(every, random_state=seed)
    xy = every.obsm[f"X_{basis}"][:, :2]
    return {name: xy[(every.obs["part"] == name).to_numpy()] for name in parts}


def _neighbourhoods(source: np.ndarray, n: int, seed: int) -> np.ndarray:
    """A group for each source cell: those of a group lie near each other."""
    n = min(n, len(np.unique(source, axis=0)))
    return KMeans(n, n_init=3, random_state=seed).fit_predict(source)


class _Arrow(NamedTuple):
    start: np.ndarray
    end: np.ndarray
    n: int


def _arrows(ax: Axes, xy: dict[str, np.ndarray], groups: np.ndarray) -> None:
    """From the median of each group's source cells to that of their edits; thick where many."""
    arrows = [
        _Arrow(
            np.median(xy["source"][groups == g], axis=0),
            np.median(xy["edited"][groups == g], axis=0),
            int((groups == g).sum()),
        )
        for g in np.unique(groups)
    ]
    most = max(a.n for a in arrows)
    for a in arrows:
        width = 0.8 + 1.2 * np.sqrt(a.n / most)
        style = {"arrowstyle": "-|>", "color": _INK, "lw": width, "mutation_scale": 7 + 4 * width}
        halo = [effects.withStroke(linewidth=width + 1.8, foreground="white")]
        ax.annotate(
            "",
            xy=a.end,
            xytext=a.start,
            arrowprops={**style, "shrinkA": 0, "shrinkB": 0, "path_effects": halo},
        )


def _draw_groups(
    ax: Axes,
    xy: dict[str, np.ndarray],
    groups: np.ndarray,
    groups_of_real: np.ndarray | None,
    size: float,
) -> None:
    """Cells by their group; real ones grey where they have none."""
    points, labels = [xy["source"], xy["edited"]], [groups, groups]
    if groups_of_real is not None:
        points.append(xy["real"])
        labels.append(groups_of_real)
    elif "real" in xy:
        ax.scatter(*xy["real"].T, s=size, color=REAL, linewidths=0)
    points, labels = np.concatenate(points), np.concatenate(labels)
    shades = plt.get_cmap("tab20", 20)
    tints = {name: shades(i % 20) for i, name in enumerate(sorted(set(labels)))}
    for name, tint in tints.items():
        ax.scatter(*points[labels == name].T, s=size, color=tint, linewidths=0, alpha=0.8)
    _legend(ax, tints)


def _legend(ax: Axes, tints: dict) -> None:
    for label, tint in tints.items():
        ax.scatter([], [], color=tint, label=literal(label))
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)


def _label(adata: AnnData, name: str, key: str) -> str:
    if name == "source":
        return "source"
    if name == "real":
        return "real target"
    asked = adata.uns.get(key, {}).get("conditions", {})
    return ", ".join(["edited", *(f"{k}: {v}" for k, v in asked.items())])


def _column(real: AnnData | None, color: str) -> np.ndarray | None:
    return (
        real.obs[color].astype(str).to_numpy() if real is not None and color in real.obs else None
    )


def _around(values: pd.Series, margin: float) -> tuple[float, float]:
    return values.min() - margin, values.max() + margin
