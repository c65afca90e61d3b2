"""Tables and figures of the generation benchmark, from its ``results.csv``."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

__all__ = ["report"]

ORDER = [
    "SCGM",
    "SCGM posterior predictive",
    "scVI Gaussian per label",
    "scVI posterior predictive",
    "Gaussian copula",
    "negative binomial",
    "PCA Gaussian",
]
# heading: metric, what it is set against, and how
COLUMNS = {
    "rf_auc_gene": ("rf_auc_gene", None),
    "rf_auc_pca": ("rf_auc_pca", None),
    "w2/floor": ("w2", "floor"),
    "label_w2/floor": ("label_w2", "floor"),
    "mmd2": ("mmd2", None),
    "lisi/floor": ("lisi", "floor"),
    "recall": ("recall", None),
    "coverage": ("coverage", None),
    "cond_acc": ("cond_acc", None),
    "tstr_f1": ("tstr_f1", None),
    "gcorr-floor": ("gcorr_pearson", "difference"),
    "depth_ks-floor": ("depth_ks", "difference"),
    "de_slope-floor": ("de_slope", "difference"),
    "de_jaccard-floor": ("de_jaccard", "difference"),
    "de_nmae-floor": ("de_nmae", "difference"),
    "nn_ratio/train": ("nn_ratio", "train_floor"),
    "dup_frac": ("dup_frac", None),
}
COSTS = {
    "training, CPU-s": "train_seconds",
    "cells per CPU-s": "cells_per_second",
    "peak memory, MB": "peak_memory_mb",
    "stage one, CPU-s": "stage_one_seconds",
    "stage two, CPU-s": "stage_two_seconds",
    "KL, nats a cell": "kl",
    "active dimensions": "active_dimensions",
    "gap of held-out cells": "gap",
}
NOTES = """\
`rf_auc_gene`, `rf_auc_pca`: a random forest telling real from generated, 0.5 is ideal (standard
deviation over seeds). `mmd2`: 0 is ideal. `/floor`, `-floor`: over or less what one half of the
real cells scores against the other, which the row of the floor gives in brackets;
`de_...`: differential expression of each type against the rest, see `evaluate_generation`;
`nn_ratio/train`: over that of training cells handed back; below 1 is memorising, as is `dup_frac`
above the floor's. Posterior predictives are no new cells: they decode the latents of the training
cells, and show what the decoder can do. The values of the PCA Gaussian are no counts; they are
scaled to a depth and rounded at random. SCGM runs with its defaults; a few settings of the other
methods were chosen in their favour on the held-out cells of pbmc3k (`scgm_scvi.benchmark`). Training and
generation in seconds of one thread; memory is the peak of a process that trains and generates,
libraries included.
"""
PANELS = {
    "rf_auc_gene": "rf_auc_gene\n0.5 is ideal",
    "rf_auc_pca": "rf_auc_pca\n0.5 is ideal",
    "w2/floor": "w2 / floor\n1 is ideal",
    "lisi": "lisi\nhigher is better",
    "recall": "recall\nhigher is better",
}
COST_PANELS = {
    "train_seconds": "training\nCPU-seconds",
    "cells_per_second": "generation\ncells per CPU-second",
    "peak_memory_mb": "peak memory\nMB",
}
LOG = ("train_seconds", "cells_per_second")
LINES = {
    "floor": {"color": "0.3", "lw": 1.2},
    "train_floor": {"color": "0.6", "lw": 1.2, "ls": ":"},
}
COLOURS = {"SCGM": "C0", "scVI": "C1"}


def report(folder: Path) -> str:
    """Write ``summary.md`` and the figures beside ``results.csv``; give the summary."""
    results = pd.read_csv(folder / "results.csv")
    results = results[results["condition"] == "all"]
    text = summary(results, json.loads((folder / "settings.json").read_text()))
    (folder / "summary.md").write_text(text)
    for name, panels in {"fidelity": PANELS, "costs": COST_PANELS}.items():
        figure = dot_plot(results, panels)
        figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
    return text


def in_order(methods: pd.Series) -> list[str]:
    return sorted(set(methods), key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))


def against(rows: pd.DataFrame, column: str, how: str | None) -> pd.Series:
    """A column, over or less its own row's floor."""
    if how is None:
        return rows[column]
    return rows[column] - rows["floor"] if how == "difference" else rows[column] / rows[how]


def cell(rows: pd.DataFrame, column: str, heading: str, how: str | None) -> str:
    """Mean over seeds, with the deviation where it is told and the floor where it is taken off."""
    values = against(rows, column, how).dropna()
    if values.empty:
        return ""
    text = f"{values.mean():+.3f}" if how == "difference" else f"{values.mean():.3f}"
    if column == "value" and heading.startswith("rf_auc") and len(values) > 1:
        text += f" ({values.std():.3f})"
    if column == "floor" and how in ("floor", "difference"):
        text = f"{'0' if how == 'difference' else '1'} ({rows['floor'].mean():.3f})"
    return text


def markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def fidelity_table(results: pd.DataFrame) -> str:
    known = {h: c for h, c in COLUMNS.items() if c[0] in set(results["metric"])}
    table = [["method", *known]]
    candidates = {"real against real (floor)": "floor", "training cells handed back": "train_floor"}
    by_metric = dict(tuple(results.groupby("metric")))
    # floors are the same for all methods of a seed
    once = {m: rows.drop_duplicates("seed") for m, rows in by_metric.items()}
    for name, column in candidates.items():
        table.append([name, *(cell(once[m], column, h, how) for h, (m, how) in known.items())])
    for name in in_order(results["method"]):
        row = [name]
        for heading, (metric, how) in known.items():
            rows = by_metric[metric]
            row.append(cell(rows[rows["method"] == name], "value", heading, how))
        table.append(row)
    return markdown(table)


def cost_table(results: pd.DataFrame) -> str:
    means = results.pivot_table(index="method", columns="metric", values="value")
    known = {heading: metric for heading, metric in COSTS.items() if metric in means}
    table = [["method", *known]]
    for name in in_order(results["method"]):
        values = [means.loc[name, metric] for metric in known.values()]
        table.append([name, *map(short, values)])
    return markdown(table)


def short(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def summary(results: pd.DataFrame, settings: dict) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in settings["versions"].items())
    blocks = ["# Generated cells against held-out cells", NOTES + f"\nVersions: {versions}."]
    if settings["quick"]:
        blocks.append("**Made with `--quick`: few cells, few epochs. No result.**")
    for split, rows in results.groupby("split"):
        seeds = ", ".join(map(str, sorted(set(rows["seed"]))))
        n = rows.loc[rows["metric"] == "w2", "n"].mean()
        blocks += [f"## {split}", f"Seeds {seeds}; {n:.0f} cells a side."]
        blocks += [fidelity_table(rows), cost_table(rows)]
    return "\n\n".join(blocks) + "\n"


def dot_plot(results: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """A row of panels a split: a large dot for the mean, small ones for seeds, lines for floors."""
    splits, methods = sorted(set(results["split"])), in_order(results["method"])
    place = {name: i for i, name in enumerate(methods)}
    figure, axes = plt.subplots(
        len(splits),
        len(panels),
        figsize=(2.4 + 2.3 * len(panels), 0.9 + (0.5 + 0.27 * len(methods)) * len(splits)),
        sharex="col",
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (i, split), (j, panel) in product(enumerate(splits), enumerate(panels)):
        ax = axes[i, j]
        metric, how = COLUMNS.get(panel, (panel, None))
        rows = results[(results["split"] == split) & (results["metric"] == metric)]
        for column, style in LINES.items():
            floor = against(rows, column, how).mean()
            if np.isfinite(floor):
                ax.axvline(floor, zorder=0, **style)
        for name, of_method in rows.groupby("method"):
            values = against(of_method, "value", how)
            y = np.full(len(values), place[name])
            colour, new = COLOURS.get(name.split()[0], "0.4"), "predictive" not in name
            ax.scatter(values.mean(), y[0], s=55, c=colour if new else "white", ec=colour, lw=1.5)
            if len(values) > 1:
                ax.scatter(values, y, s=6, c="black", lw=0, zorder=3)
        if panel in LOG:
            ax.set_xscale("log")
        if panel == "peak_memory_mb":
            ax.set_xlim(left=0)
        if i == 0:
            ax.set_title(panels[panel], fontsize=10)
        if j == 0:
            ax.set_yticks(list(place.values()), methods)
            ax.text(-0.04, 1.03, split, transform=ax.transAxes, ha="right", weight="bold")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(
        handles=legend(results, panels), loc="outside lower center", ncols=5, frameon=False
    )
    plt.close(figure)
    return figure


def legend(results: pd.DataFrame, panels: dict[str, str]) -> list[Line2D]:
    """What the signs mean, of those that are drawn."""
    drawn = {COLUMNS.get(panel, (panel, None))[0] for panel in panels}
    floors = results[results["metric"].isin(drawn)]
    dot = {"ls": "", "marker": "o", "markeredgecolor": "0.4", "color": "0.4"}
    names = {"floor": "real against real", "train_floor": "training cells handed back"}
    lines = [Line2D([], [], label=names[k], **LINES[k]) for k in LINES if floors[k].notna().any()]
    dots = [
        Line2D([], [], **{**dot, "ms": 7}, label="mean of seeds"),
        Line2D([], [], **{**dot, "ms": 2.5, "color": "black"}, label="a seed"),
        Line2D(
            [],
            [],
            **{**dot, "ms": 7, "markerfacecolor": "white"},
            label="posterior predictive: no new cells",
        ),
    ]
    return lines + dots
