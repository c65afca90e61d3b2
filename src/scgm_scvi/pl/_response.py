"""The predicted change of each gene against the real one."""

from __future__ import annotations

from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

from scgm_scvi._errors import whole_number
from scgm_scvi.metrics._response import differential_scores
from scgm_scvi.metrics._screen import check_expression, require_expression
from scgm_scvi.metrics._space import (
    log_normalize,
    pearson,
    shared_features,
    values_of,
)

from ._colors import GENERATED, REAL
from ._text import literal

__all__ = ["response"]

_LEAST_CELLS = 2  # for a variance
_EDGE = "#222222"


def response(
    predicted: AnnData,
    real: AnnData,
    control: AnnData,
    *,
    predicted_expression: Literal["counts", "log1p"] = "counts",
    n_top: int = 50,
    n_labels: int = 10,
) -> Figure:
    """Predicted against real change of the mean of each gene, for one perturbation.

    Changes are of the mean of log1p of counts per 10,000, from control cells. The ``n_top`` genes
    that differ most between real and control cells, by Welch's t, stand out, and the first of them
    are named. On the line, the change is as large as it should be; on the level line through 0, it
    was missed.

    Parameters
    ----------
    predicted, real, control
        Cells of one perturbation as predicted and as measured, and control cells, compared on the
        genes they share. Raw counts in ``X``.
    predicted_expression
        What ``predicted.X`` holds: raw counts, or log1p of counts per 10,000.
    n_top
        Number of genes that stand out.
    n_labels
        Number of genes that are named.

    Returns
    -------
    A figure of one panel. Its legend has Pearson's r of all genes and of those that stand out, and
    the least-squares slope of predicted on real changes, below 1 where they are too weak.

    Warns
    -----
    UserWarning
        If ``X`` looks like logarithms and is said to hold counts.

    Raises
    ------
    ValueError
        If the objects share no genes, hold values that ``X`` should not, or fewer than 2 cells.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> monocytes = adata[adata.obs["cell_type"] == "CD14+ Monocyte"]
    >>> dendritic = adata[adata.obs["cell_type"] == "Dendritic"]
    >>> figure = scgm_scvi.pl.response(dendritic[::2], dendritic[1::2], monocytes)
    >>> figure.savefig("response.png")  # doctest: +SKIP
    """
    n_top = whole_number(n_top, "n_top")
    require_expression(predicted_expression)
    objects = {"predicted": predicted, "real": real, "control": control}
    for name, a in objects.items():
        if a.n_obs < _LEAST_CELLS:
            raise ValueError(f"{name} holds {a.n_obs} cells, and {_LEAST_CELLS} are needed.")
    genes = shared_features(objects, first="real")
    log = {}
    for name, a in objects.items():
        is_log = name == "predicted" and predicted_expression == "log1p"
        values = values_of(a, genes)
        check_expression(values, name, is_log)
        log[name] = values if is_log else log_normalize(values)
    means = {name: x.mean(axis=0) for name, x in log.items()}
    true, found = (means[name] - means["control"] for name in ("real", "predicted"))
    score = np.abs(differential_scores(log["real"], log["control"]))
    top = np.argsort(-score, kind="stable")[: min(n_top, len(genes))]

    figure, ax = plt.subplots(figsize=(5.2, 5.2), layout="constrained")
    size = float(np.clip(6000 / len(genes), 3, 20))
    rest = np.setdiff1d(np.arange(len(genes)), top)
    for rows, tint, said in (
        (rest, REAL, "other genes"),
        (top, GENERATED, f"{len(top)} top genes"),
    ):
        if len(rows):
            r = pearson(true[rows], found[rows])
            ax.scatter(
                true[rows],
                found[rows],
                s=size,
                color=tint,
                linewidths=0,
                label=f"{said}, r = {r:.2f}",
            )
    for row in top[:n_labels]:
        side = 1 if true[row] >= 0 else -1
        ax.annotate(
            literal(genes[row]),
            (true[row], found[row]),
            xytext=(4 * side, 3),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            fontsize=7,
        )
    ax.axline((0, 0), slope=1, color=_EDGE, lw=0.9, zorder=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="#c8c8c8", lw=0.8, zorder=0)
    slope = float(true @ found / (true @ true)) if true.any() else np.nan
    ax.plot(
        [],
        [],
        color=_EDGE,
        lw=0.9,
        label=f"equal; slope of all {slope:.2f}, r = {pearson(true, found):.2f}",
    )
    ax.set(xlabel="real change of mean log expression", ylabel="predicted change")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.spines[["right", "top"]].set_visible(False)
    plt.close(figure)
    return figure
