"""One page about a comparison, for a browser: no other file is needed to read it."""

from __future__ import annotations

import base64
import html
import io
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scgm_scvi import pl
from scgm_scvi._whole import written_whole

from ._compare import Comparison

__all__ = ["MEASURES", "summary", "write_page"]

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

_FLOOR, _TRAIN = "real against real (floor)", "training cells handed back"
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
        ``cells/<method>.h5ad`` of the first seed with ``cells/held_out.h5ad``. It must not exist,
        or be empty.
    title
        Of the page.

    Returns
    -------
    Path of the page.

    Raises
    ------
    FileExistsError
        If the folder holds anything.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> found = scgm_scvi.benchmark.compare_generators(adata, "cell_type")  # doctest: +SKIP
    >>> scgm_scvi.benchmark.write_page(found, "benchmark")  # doctest: +SKIP
    PosixPath('benchmark/report.html')
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rmdir()  # it is empty
    with written_whole(folder) as part:
        (part / "cells").mkdir(parents=True)
        found.table.to_csv(part / "metrics.csv", index=False)
        found.costs.to_csv(part / "costs.csv", index=False)
        found.split.test.write_h5ad(part / "cells" / "held_out.h5ad", compression="gzip")
        for method, cells in found.cells.items():
            name = method.replace(" ", "_")
            cells.write_h5ad(part / "cells" / f"{name}.h5ad", compression="gzip")
        (part / "report.html").write_text(_page(found, title), encoding="utf-8")
    return folder / "report.html"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the overall rows: a row a method, a column a measure, floors first."""
    table = table[(table["condition"] == "all") & table["metric"].isin(MEASURES)]
    by = table.groupby(["method", "metric"], sort=False)
    means = by[["value", "floor", "train_floor"]].mean().reset_index()
    wide = means.pivot(index="method", columns="metric", values="value")
    wide = wide.reindex(index=table["method"].unique())
    floors = means.groupby("metric")[["floor", "train_floor"]].mean().T
    floors.index = pd.Index([_FLOOR, _TRAIN])
    columns = [m for m in MEASURES if m in wide and wide[m].notna().any()]
    return pd.concat([floors, wide])[columns]


def nearest_to_floor(numbers: pd.DataFrame) -> pd.Series:
    """The method that is nearest to the floor, by measure."""
    methods = numbers.drop(index=[_FLOOR, _TRAIN])
    return (methods - numbers.loc[_FLOOR]).abs().idxmin()


def _page(found: Comparison, title: str) -> str:
    numbers = summary(found.table)
    train, test = found.split.train, found.split.test
    types = test.obs[found.labels_key].value_counts()
    seeds = found.table["seed"].nunique()
    facts = (
        f"{train.n_obs:,} training and {test.n_obs:,} held-out cells, {train.n_vars:,} genes, "
        f"{len(types)} types of {found.labels_key!r}; {seeds} training run{'s' * (seeds > 1)} of each method. "
        f"scgm_scvi {version('scgm_scvi')}, scvi-tools {version('scvi-tools')}, torch {version('torch')}."
    )
    notes = [*found.split.notes, *(f"{k} failed: {v}" for k, v in found.failures.items())]
    if seeds == 1:
        notes.append("One run: differences of a few hundredths may be chance. Ask for more seeds.")
    overall = found.table[found.table["condition"] == "all"]
    drawn = overall[overall["metric"].isin(numbers.columns)]
    drawn = drawn.groupby(["method", "metric"], sort=False)[["value", "floor", "train_floor"]]
    umap = pl.real_and_generated(test, found.cells, found.labels_key)
    terms = "".join(f"<dt>{m}</dt><dd>{html.escape(MEASURES[m])}</dd>" for m in numbers.columns)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>"
        f"<ul>{''.join(f'<li>{html.escape(n)}</li>' for n in notes)}</ul>"
        f"<h2>Which method is nearest to real cells</h2><p>{html.escape(_verdict(numbers))}</p>"
        f"<div class='wide'>{_table(numbers, found)}</div>"
        "<p>In the first row one half of the held-out cells stands in the place of generated ones: "
        "what a perfect method scores. In the second the training cells do. In bold, the method "
        "nearest to the floor.</p>"
        f"<h2>The cells</h2>{_image(umap)}"
        f"<h2>Every measure</h2>{_image(pl.metrics(drawn.mean().reset_index()))}"
        f"<h2>What the measures say</h2><dl>{terms}</dl></body></html>\n"
    )


def _verdict(numbers: pd.DataFrame) -> str:
    wins = nearest_to_floor(numbers).value_counts()
    said = [f"{method} in {n}" for method, n in wins.items()]
    return f"Of {numbers.shape[1]} measures, nearest to the floor: {', '.join(said)}."


def _table(numbers: pd.DataFrame, found: Comparison) -> str:
    best = nearest_to_floor(numbers)
    overall = found.table[found.table["condition"] == "all"]
    spread = overall.groupby(["method", "metric"])["value"].std()
    seconds = found.costs.groupby("method")["train_seconds"].mean()
    rows = []
    for method, values in numbers.iterrows():
        cells = [f"<td>{html.escape(str(method))}</td>"]
        for metric, value in values.items():
            text = "" if np.isnan(value) else f"{value:.3f}"
            if np.isfinite(deviation := spread.get((method, metric), np.nan)):
                text += f" ± {deviation:.3f}"
            is_best = method == best[metric]
            cells.append(f"<td{' class=best' if is_best else ''}>{text}</td>")
        cells.append(f"<td>{seconds[method]:.0f}</td>" if method in seconds else "<td></td>")
        is_real = method in (_FLOOR, _TRAIN)
        rows.append(f"<tr{' class=real' if is_real else ''}>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{h}</th>" for h in ("method", *numbers.columns, "training, s"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _image(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'>"
