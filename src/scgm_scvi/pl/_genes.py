"""Statistics of each gene, real beside generated."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse
from sklearn.preprocessing import normalize
from sklearn.utils.sparsefuncs import mean_variance_axis

from scgm_scvi.metrics._space import pearson, require_counts, shared_features

from ._colors import GENERATED, REAL

__all__ = ["gene_statistics"]


class _Statistics(NamedTuple):
    mean: np.ndarray
    variance: np.ndarray
    zeros: np.ndarray


def gene_statistics(real: AnnData, generated: AnnData) -> Figure:
    """Mean, variance and share of zeros of each gene, in real and in generated cells.

    Mean and variance are of counts per 10,000, so that they show what a gene does and not how
    deep a cell was sequenced; zeros are zeros either way, but a deeper cell has fewer. Genes
    without any count are drawn at the lower edge. The arguments are not changed.

    Parameters
    ----------
    real, generated
        Raw counts in ``X``; compared on the genes they share.

    Returns
    -------
    A figure of four panels: variance against mean and zeros against mean, a dot a gene of each
    kind of cell; means and zeros of generated against real cells, a dot a gene, with the line of
    equality and Pearson's r (of the log means, and of the zeros).

    Raises
    ------
    ValueError
        If they share no genes, or hold values that are no counts.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> figure = scgm_scvi.pl.gene_statistics(adata[::2], adata[1::2])
    >>> figure.savefig("genes.png")  # doctest: +SKIP
    """
    genes = shared_features({"real": real, "generated": generated}, first="real")
    a, b = _statistics(real, genes, "real"), _statistics(generated, genes, "generated")
    # zeros have no logarithm: they stand below the smallest number there is
    mean, variance = (_raised(a[i], b[i]) for i in (0, 1))
    zeros = a.zeros, b.zeros
    figure, axes = plt.subplots(2, 2, figsize=(8, 7.8), layout="constrained")
    _overlay(axes[0, 0], mean, variance)
    axes[0, 0].set(title="mean and variance", ylabel="variance", yscale="log")
    _overlay(axes[0, 1], mean, zeros)
    axes[0, 1].set(title="mean and dropout", ylabel="share of cells without a count")
    for ax in axes[0]:
        ax.set(xlabel="mean (counts per 10,000)", xscale="log")
    _agreement(axes[1, 0], *mean, log=True)
    axes[1, 0].set_title("mean, gene by gene")
    _agreement(axes[1, 1], *zeros, log=False)
    axes[1, 1].set_title("dropout, gene by gene")
    for label, tint in (("real", REAL), ("generated", GENERATED)):
        axes[0, 0].scatter([], [], color=tint, label=label)
    axes[0, 0].legend(frameon=False, loc="upper left", markerscale=1.2)
    for ax in axes.flat:
        ax.set_box_aspect(1)
        ax.spines[["right", "top"]].set_visible(False)
    plt.close(figure)
    return figure


def _statistics(adata: AnnData, genes: list[str], name: str) -> _Statistics:
    counts = sparse.csr_matrix(adata[:, genes].X, dtype=np.float64)
    require_counts(counts.data, name)
    counts.eliminate_zeros()
    mean, variance = mean_variance_axis(normalize(counts, norm="l1") * 1e4, axis=0)
    return _Statistics(mean, variance, 1 - counts.getnnz(axis=0) / adata.n_obs)


def _raised(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.concatenate([a, b])
    least = both[both > 0].min() / 2 if both.any() else 1.0
    return np.maximum(a, least), np.maximum(b, least)


def _overlay(ax: Axes, x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> None:
    """Real and generated genes in mixed order, so that neither hides the other."""
    n = len(x[0])
    order = np.random.default_rng(0).permutation(2 * n)
    tint = np.repeat([REAL, GENERATED], n)[order]
    xy = np.stack([np.concatenate(x), np.concatenate(y)], axis=1)[order]
    ax.scatter(*xy.T, s=_size(n), c=tint, alpha=0.7, linewidths=0)


def _agreement(ax: Axes, real: np.ndarray, generated: np.ndarray, *, log: bool) -> None:
    """Generated against real, a dot a gene, on one scale."""
    ax.scatter(real, generated, s=_size(len(real)), color=GENERATED, alpha=0.6, linewidths=0)
    ax.axline((0.5, 0.5), (1, 1), color="#222222", lw=0.8, zorder=0)
    if log:
        ax.set(xscale="log", yscale="log")
        real, generated = np.log(real), np.log(generated)
    r = pearson(real, generated)
    if np.isfinite(r):
        ax.text(0.04, 0.95, f"r = {r:.3f}", transform=ax.transAxes, va="top")
    ends = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.set(xlim=ends, ylim=ends, xlabel="real", ylabel="generated")


def _size(n: int) -> float:
    return float(np.clip(8_000 / n, 3, 14))
