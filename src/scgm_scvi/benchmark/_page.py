"""One page about a comparison, for a browser: no other file is needed to read it."""

from __future__ import annotations

import base64
import html
import io
import os
import re
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scgm_scvi import pl

from ._compare import FLOOR, TRAIN_FLOOR, Comparison

__all__ = ["MEASURES", "remarks", "require_empty", "summary", "write_page"]

MEASURES = {
    "rf_auc_gene": "A random forest tells generated from real cells by all genes: area under the "
    "ROC curve, 0.5 is chance.",
    "rf_auc_pca": "The same by principal components.",
    "w2": "Wasserstein distance in principal components: lower is better, down to the floor.",
    "lisi": "How evenly each cell's neighbours are real and generated; 1 is even.",
    "gcorr_pearson": "Do genes vary together as in real cells? Correlation of correlations.",
    "recall": "Share of real cells that have a generated cell near by.",
    "cond_acc": "Share of cells that a classifier, trained on the training cells, finds to be of "
    "the type that was asked for.",
    "tstr_f1": "A classifier trained on generated cells finds the types of real cells: macro F1.",
    "de_slope": "Log-fold changes between types, generated on real: below the floor too weak, above "
    "too strong.",
    "de_jaccard": "Overlap of the genes that differ between types.",
    "de_nmae": "Error of their log-fold changes over their size: lower is better.",
    "nn_ratio": "Distance to the nearest training cell over that of held-out cells: far below the "
    "floor is memorising.",
}
"""The measures of a page, of those in the table, with what each says."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.real { color: #777; } td.best { font-weight: 700; background: #eef6f0; }
img { max-width: 100%; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
"""


def write_page(
    found: Comparison, folder: str | os.PathLike, *, title: str = "Generated cells"
) -> Path:
    """Write ``report.html`` beside the numbers and the cells it speaks of.

    Parameters
    ----------
    found
        Of :func:`~scgm_scvi.benchmark.compare_generators`.
    folder
        Gets ``report.html``, ``metrics.csv`` (all measures by seed), ``costs.csv``, and
        ``cells/<method>.h5ad`` of the first seed with ``cells/held_out.h5ad``, in this order, so
        that numbers are kept whatever happens to the page. It must not exist, or be empty.
    title
        Of the page.

    Returns
    -------
    Path of the page.

    Raises
    ------
    FileExistsError
        If the folder holds anything.
    OSError
        If it can't be written to.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> found = scgm_scvi.benchmark.compare_generators(adata, "cell_type")  # doctest: +SKIP
    >>> scgm_scvi.benchmark.write_page(found, "benchmark")  # doctest: +SKIP
    PosixPath('benchmark/report.html')
    """
    folder = require_empty(folder)
    found.table.to_csv(folder / "metrics.csv", index=False)
    found.costs.to_csv(folder / "costs.csv", index=False)
    (folder / "cells").mkdir()
    for method, cells in {"held_out": found.split.test, **found.cells}.items():
        cells.write_h5ad(folder / "cells" / f"{_file_name(method)}.h5ad", compression="gzip")
    page = folder / "report.html"
    page.write_text(_page(found, title), encoding="utf-8")
    return page


def require_empty(folder: str | os.PathLike) -> Path:
    """Make a folder that can be written to; refuse one that holds anything."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder} can't be written to ({error.strerror}): give another.") from error
    return folder


def _file_name(method: str) -> str:
    """A method as a name of a file; what is left out is told by a number."""
    safe = re.sub(r"[^\w.+-]", "_", method)
    plain = safe == method.replace(" ", "_") and "_" not in method
    return safe if plain or method == "held_out" else f"{safe}-{zlib.crc32(method.encode()):08x}"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the overall rows: a row a method, a column a measure, floors first."""
    table = table[(table["condition"] == "all") & table["metric"].isin(MEASURES)]
    by = table.groupby(["method", "metric"], sort=False)
    means = by[["value", "floor", "train_floor"]].mean().reset_index()
    wide = means.pivot(index="method", columns="metric", values="value")
    wide = wide.reindex(index=table["method"].unique())
    floors = means.groupby("metric")[["floor", "train_floor"]].mean().T
    floors.index = pd.Index([FLOOR, TRAIN_FLOOR])
    columns = [m for m in MEASURES if m in wide and wide[m].notna().any()]
    columns = [m for m in columns if np.isfinite(floors.loc[FLOOR, m])]
    return pd.concat([floors, wide])[columns]


def nearest_to_floor(numbers: pd.DataFrame) -> pd.DataFrame:
    """Whether a method is nearest to the floor, by method and measure; of one method, never."""
    methods = numbers.drop(index=[FLOOR, TRAIN_FLOOR])
    away = (methods - numbers.loc[FLOOR]).abs()
    return (away - away.min() < 1e-12) & (len(methods) > 1)


def remarks(found: Comparison) -> list[str]:
    """What a reader has to know before the numbers."""
    seeds = found.table["seed"].nunique()
    out = [f"{run} failed: {how}" for run, how in found.failures.items()]
    if found.quick:
        out.insert(
            0, "QUICK: training was cut short to show that all runs. The scores mean nothing."
        )
    if seeds == 1:
        out.append("One run: differences of a few hundredths may be chance. Ask for more seeds.")
    else:
        out.append(
            "± is the standard deviation over runs of training on one and the same split: of another "
            "split, or of other held-out cells, it says nothing."
        )
    if found.table.loc[found.table["metric"] == "de_slope", "value"].isna().all():
        out.append("Differential expression is not compared: no type has cells enough.")
    return [*out, *found.split.notes]


def _page(found: Comparison, title: str) -> str:
    numbers = summary(found.table)
    train, test = found.split.train, found.split.test
    types = test.obs[found.labels_key].value_counts()
    seeds = found.table["seed"].nunique()
    facts = (
        f"{train.n_obs:,} training and {test.n_obs:,} held-out cells, {train.n_vars:,} genes, "
        f"{len(types)} types of {found.labels_key!r}; {seeds} run{'s' * (seeds > 1)} of training. "
        f"scgm_scvi {version('scgm_scvi')}, scvi-tools {version('scvi-tools')}, torch {version('torch')}."
    )
    overall = found.table[found.table["condition"] == "all"]
    drawn = overall[overall["metric"].isin(numbers.columns)]
    drawn = drawn.groupby(["method", "metric"], sort=False)[["value", "floor", "train_floor"]]
    umap = pl.real_and_generated(test, found.cells, found.labels_key)
    terms = "".join(f"<dt>{m}</dt><dd>{html.escape(MEASURES[m])}</dd>" for m in numbers.columns)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>"
        f"<ul>{''.join(f'<li>{html.escape(n)}</li>' for n in remarks(found))}</ul>"
        f"<h2>Which method is nearest to real cells</h2><p>{html.escape(_verdict(numbers))}</p>"
        f"<div class='wide'>{_table(numbers, found)}</div>"
        "<p>In the first row one half of the held-out cells stands in the place of generated ones: "
        "what a perfect method scores. In the second the training cells do. In bold, the method "
        "nearest to the floor, on either side of it: cells that are easier to tell apart than real "
        "ones are not better.</p>"
        f"<h2>The cells</h2>{_image(umap)}"
        f"<h2>Every measure</h2>{_image(pl.metrics(drawn.mean().reset_index()))}"
        f"<h2>What the measures say</h2><dl>{terms}</dl></body></html>\n"
    )


def _verdict(numbers: pd.DataFrame) -> str:
    wins = nearest_to_floor(numbers).sum(axis=1).sort_values(ascending=False, kind="stable")
    if len(wins) == 1:
        return "One method: there is none to compare it with but real cells."
    said = [f"{method} in {n}" for method, n in wins.items()]
    return f"Of {numbers.shape[1]} measures, nearest to the floor: {', '.join(said)}."


def _table(numbers: pd.DataFrame, found: Comparison) -> str:
    best = nearest_to_floor(numbers)
    overall = found.table[found.table["condition"] == "all"]
    spread = overall.groupby(["method", "metric"])["value"].std()
    seconds = found.costs.groupby("method")["train_seconds"].mean()
    runs = found.costs.groupby("method").size()
    rows = []
    for method, values in numbers.iterrows():
        cells = [f"<td>{html.escape(str(method))}</td>"]
        for metric, value in values.items():
            text = "" if np.isnan(value) else f"{value:.3f}"
            if np.isfinite(deviation := spread.get((method, metric), np.nan)):
                text += f" ± {deviation:.3f}"
            is_best = method in best.index and best.loc[method, metric]
            cells.append(f"<td{' class=best' if is_best else ''}>{text}</td>")
        cost = (f"{seconds[method]:.0f}", runs[method]) if method in seconds else ("", "")
        cells += [f"<td>{c}</td>" for c in cost]
        is_real = method in (FLOOR, TRAIN_FLOOR)
        rows.append(f"<tr{' class=real' if is_real else ''}>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{h}</th>" for h in ("method", *numbers.columns, "training, s", "runs"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _image(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'>"
