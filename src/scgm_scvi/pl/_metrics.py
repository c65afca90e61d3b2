"""Metrics of generated cells beside what real cells score."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scgm_scvi._errors import listed
from scgm_scvi.metrics._space import ALL

from ._colors import GENERATED, METHODS
from ._text import literal

__all__ = ["metrics"]

_FLOOR, _TRAIN = "#222222", "#7a7a7a"
_LOWER = (
    *("rf_auc_gene", "rf_auc_pca", "w2", "mmd2", "label_w2", "depth_ks", "dup_frac", "de_nmae"),
)
_HIGHER = (
    *("lisi", "gcorr_pearson", "mean_pearson", "cond_acc", "tstr_f1"),
    *("precision", "recall", "density", "coverage", "de_jaccard"),
)
_ARROW = {**dict.fromkeys(_LOWER, "←"), **dict.fromkeys(_HIGHER, "→")}
_LEAST_SPAN = 0.1  # of an axis, as a share of its values: noise shall not look like a difference


def metrics(table: pd.DataFrame) -> Figure:
    """Every metric of generated cells on a scale of its own, with its floors.

    Arrows point where a metric gets better; a perfect generator lands on the floor, and to go
    beyond it is chance, or cells that are too typical. A metric without an arrow is best at its
    floor.

    Parameters
    ----------
    table
        Of :func:`scgm_scvi.metrics.evaluate_generation`: a row a metric, with the columns
        ``metric``, ``value`` and ``floor``, and where there are any ``train_floor``, ``method``
        and ``condition``. The rows of single conditions are drawn small, below, with their own
        floors.

    Returns
    -------
    A figure with a row for each metric that has a value.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there is no value to draw.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> table = scgm_scvi.metrics.evaluate_generation(adata[::2], adata[1::2], n_pcs=10)
    >>> figure = scgm_scvi.pl.metrics(table)
    >>> figure.savefig("metrics.png")  # doctest: +SKIP
    """
    table = _complete(table)
    names, methods = table["metric"].unique(), list(table["method"].unique())
    colors = {m: METHODS[i % len(METHODS)] for i, m in enumerate(methods)}
    has_conditions = bool((table["condition"] != ALL).any())
    lane = 0.3 if has_conditions else 0.18
    height = (0.32 + lane * len(methods)) * len(names) + 0.8
    figure, axes = plt.subplots(
        len(names), 1, figsize=(6.4, height), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[:, 0], names, strict=True):
        _draw_row(ax, table[table["metric"] == name], colors, has_conditions)
        ax.set_ylabel(
            f"{name} {_ARROW.get(name, ' ')}", rotation=0, ha="right", va="center", fontsize=9
        )
    figure.legend(
        handles=_legend(table, colors, has_conditions),
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    plt.close(figure)
    return figure


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a value, with every column."""
    missing = [c for c in ("metric", "value", "floor") if c not in table.columns]
    if missing:
        raise KeyError(
            f"table lacks the columns {listed(missing)}: give what "
            "scgm_scvi.metrics.evaluate_generation returns."
        )
    defaults = {"method": "generated", "condition": ALL, "train_floor": np.nan}
    table = table.assign(**{k: v for k, v in defaults.items() if k not in table.columns})
    table = table[np.isfinite(table["value"].astype(float))]
    if table.empty:
        raise ValueError("table holds no value to draw.")
    return table


def _draw_row(ax: Axes, rows: pd.DataFrame, colors: dict[str, str], has_conditions: bool) -> None:
    """One metric: a lane a method, conditions in the lower half of each lane."""
    for i, (method, color) in enumerate(colors.items()):
        of_method = rows[rows["method"] == method]
        whole = of_method[of_method["condition"] == ALL]
        parts = of_method[of_method["condition"] != ALL]
        y = -i + (0.2 if has_conditions else 0.0)
        half = 0.24 if has_conditions else 0.42
        ax.vlines(whole["floor"], y - half, y + half, color=_FLOOR, lw=1.4)
        ax.hlines([y] * len(whole), whole["floor"], whole["value"], color=color, lw=1, alpha=0.5)
        ax.plot(whole["train_floor"], [y] * len(whole), "D", mec=_TRAIN, mfc="white", ms=4.5)
        ax.plot(whole["value"], [y] * len(whole), "o", color=color, ms=6.5, mec="white", mew=0.6)
        below = np.full(len(parts), y - 0.45)
        ax.vlines(parts["floor"], below - 0.1, below + 0.1, color=_FLOOR, lw=0.6, alpha=0.5)
        ax.plot(parts["value"], below, "o", color=color, ms=3, alpha=0.6, mew=0)
    shown = rows[["value", "floor", "train_floor"]].to_numpy(dtype=float)
    low, high = np.nanmin(shown), np.nanmax(shown)
    span = max(high - low, _LEAST_SPAN * max(abs(low), abs(high))) or 0.1
    middle = (low + high) / 2
    ax.set_xlim(middle - 0.56 * span, middle + 0.56 * span)
    ax.set_ylim(-len(colors) + 0.45, 0.55)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color("#c8c8c8")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.tick_params(axis="x", labelsize=7, color="#c8c8c8", length=2, pad=1.5)


def _legend(table: pd.DataFrame, colors: dict[str, str], has_conditions: bool) -> list[Line2D]:
    def mark(marker: str, label: str, **style: object) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, label=literal(label), **style)

    handles = [mark("o", method, color=c, ms=6.5, mec="white") for method, c in colors.items()]
    handles.append(mark("|", "floor: real against real", color=_FLOOR, ms=9, mew=1.4))
    if table["train_floor"].notna().any():
        label = "train floor: training cells handed back"
        handles.append(mark("D", label, mec=_TRAIN, mfc="white", ms=4.5))
    if has_conditions:
        color = GENERATED if len(colors) == 1 else _TRAIN
        handles.append(mark("o", "one condition, and its floor", color=color, ms=3, alpha=0.6))
    handles.append(mark("", "← → where better lies"))
    return handles
