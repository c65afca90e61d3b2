"""Scores of many perturbations between a baseline and a replicate."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scgm_scvi._errors import listed, nearest
from scgm_scvi.metrics._space import ALL

from ._colors import METHODS
from ._text import literal

__all__ = ["perturbations"]

_NEEDED = ("method", "context", "perturbation", "metric", "scaled")
_END = "#222222"
_RANGE = (-1.0, 1.5)  # beyond, a score is drawn at the edge


def perturbations(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> Figure:
    """Scaled score of each perturbation by method, a panel a metric.

    Two lines mark the ends of the scale: 0, the baseline, and 1, a replicate of the experiment. A
    dot is a perturbation, in a context if there are several; the upright stroke is the score of
    all perturbations together, of each context. Dots beyond -1 and 1.5 lie at the edge, as
    arrowheads: a score is a ratio, and where a replicate is hardly better than the baseline it
    says little. Methods are in the order of their mean score over metrics.

    Parameters
    ----------
    table
        Of :func:`scgm_scvi.metrics.evaluate_perturbations`.
    metrics, methods
        Which to draw, metrics in this order. Default: all.

    Returns
    -------
    A figure with a panel for each metric that has a scaled score.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there is nothing to draw, or the table lacks a metric or a method that is asked for.

    Examples
    --------
    >>> import pandas as pd
    >>> import scgm_scvi
    >>> table = pd.DataFrame(
    ...     {
    ...         "method": ["mine", "mine", "control", "control"],
    ...         "context": "all",
    ...         "perturbation": ["all", "A", "all", "A"],
    ...         "metric": "r2_mean",
    ...         "scaled": [0.8, 0.7, -0.1, -0.2],
    ...     }
    ... )
    >>> figure = scgm_scvi.pl.perturbations(table)
    >>> figure.savefig("perturbations.png")  # doctest: +SKIP
    """
    missing = [c for c in _NEEDED if c not in table.columns]
    if missing:
        raise KeyError(
            f"table lacks the columns {listed(missing)}: give what "
            "scgm_scvi.metrics.evaluate_perturbations returns."
        )
    table = table[np.isfinite(table["scaled"].astype(float))]
    if table.empty:
        raise ValueError("table holds no scaled score to draw.")
    metrics = _chosen(metrics, table["metric"].unique(), "metrics")
    methods = _chosen(methods, table["method"].unique(), "methods")
    table = table[table["metric"].isin(metrics) & table["method"].isin(methods)]
    whole = table[table["perturbation"] == ALL]
    score = whole["scaled"].clip(*_RANGE).groupby(whole["method"]).mean()
    methods = sorted(methods, key=lambda m: -score.get(m, -np.inf))
    colors = {m: METHODS[i % len(METHODS)] for i, m in enumerate(table["method"].unique())}

    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.4 + 2.6 * columns, rows * (0.75 + 0.3 * len(methods))),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.ravel()[len(metrics) :]:
        ax.set_axis_off()
    for ax, metric in zip(axes.ravel(), metrics, strict=False):
        of_metric = table[table["metric"] == metric]
        for i, method in enumerate(methods):
            _draw_lane(ax, of_metric[of_metric["method"] == method], i, colors[method])
        _dress(ax, metric, methods)
    figure.supxlabel("scaled score: 0 the baseline, 1 a replicate", fontsize=9)
    plt.close(figure)
    return figure


def _chosen(wanted: Sequence[str] | None, known: Sequence[str], argument: str) -> list[str]:
    if wanted is None:
        return list(known)
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    for w in wanted:
        if w not in known:
            raise ValueError(
                f"{argument}: {w!r} has no scaled score in table.{nearest(w, known)} "
                f"Those that have: {listed(known)}."
            )
    return wanted


def _draw_lane(ax: Axes, rows: pd.DataFrame, y: float, color: str) -> None:
    """One method: dots of perturbations, spread so that they can be told apart."""
    is_whole = (rows["perturbation"] == ALL).to_numpy()
    x = rows["scaled"].to_numpy(dtype=float)
    of_one = x[~is_whole]
    # the golden ratio spreads any number of dots evenly, and alike each time
    height = y + 0.5 * ((np.arange(len(of_one)) * 0.618034) % 1 - 0.5)
    inside = (of_one >= _RANGE[0]) & (of_one <= _RANGE[1])
    style = {"color": color, "alpha": 0.45, "mew": 0, "linestyle": "none"}
    ax.plot(of_one[inside], height[inside], marker="o", ms=3, **style)
    for edge, marker, beyond in (
        (_RANGE[0], "<", of_one < _RANGE[0]),
        (_RANGE[1], ">", of_one > _RANGE[1]),
    ):
        ax.plot(np.full(beyond.sum(), edge), height[beyond], marker=marker, ms=4, **style)
    mean = np.clip(x[is_whole], *_RANGE)
    ax.vlines(mean, y - 0.36, y + 0.36, color=color, lw=2.2)


def _dress(ax: Axes, metric: str, methods: Sequence[str]) -> None:
    for end, style in ((0.0, "--"), (1.0, "-")):
        ax.axvline(end, color=_END, lw=0.9, ls=style, zorder=0)
    span = _RANGE[1] - _RANGE[0]
    ax.set_xlim(_RANGE[0] - 0.04 * span, _RANGE[1] + 0.04 * span)
    ax.set_xticks([-1, 0, 1])
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.set_yticks(range(len(methods)), map(literal, methods), fontsize=8)
    ax.tick_params(axis="both", length=0, labelsize=8)
    ax.set_title(metric, fontsize=9, loc="left")
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color("#c8c8c8")
