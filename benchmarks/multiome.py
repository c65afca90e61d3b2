"""Generated cells of two modalities, RNA and ATAC, against held-out cells, for several methods.

    python benchmarks/multiome.py --data cells.h5mu --out FOLDER [--seeds 0 1 2] [--links]
    python benchmarks/multiome.py --report-only --out FOLDER

The file holds modalities ``rna`` and ``atac`` of the same cells, raw counts in ``X``, types in
``obs["cell_type"]`` of both. For each seed, 60% of the cells of each type are trained on, and as
many cells of each type are generated as are held out; the seed is that of the split, too. Methods
and what they are made of: ``multiome_methods.py``; what is measured: ``multiome_scores.py``.

The output folder gets the cells (``cells/``), a JSON for each seed and family of methods
(``runs/``) and ``summary.md``. Run again, it goes on where it stopped: cells that are there are not
generated again, and those of a JSON not measured again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import json
import logging
import warnings
from importlib.metadata import version
from itertools import product
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from multiome_methods import FAMILIES, LABEL
from report import cell, markdown

TRAIN_SHARE = 0.6
ORDER = [
    "MultiSCGM",
    "MultiSCGM, a third paired",
    "ATACSCGM",
    "MULTIVI prior",
    "MULTIVI Gaussian per label",
    "MULTIVI posterior predictive",
    "independent Poisson",
]
FLOORS = {
    "real against real (floor)": "floor",
    "training cells handed back": "train_floor",
    "a profile without noise (ceiling)": "ceiling",
}
# heading: metric, and what it is set against; a table has those of its metrics
COLUMNS = {
    "rf_auc_gene": ("rf_auc_gene", None),
    "rf_auc_pca": ("rf_auc_pca", None),
    "cond_acc": ("cond_acc", None),
    "type_acc": ("type_acc", None),
    "mean_pearson": ("mean_pearson", None),
    "mean_pearson/floor": ("mean_pearson", "floor"),
    "pseudobulk": ("pseudobulk", None),
    "mmd2": ("mmd2", None),
    "w2/floor": ("w2", "floor"),
    "depth_ks-floor": ("depth_ks", "difference"),
    "nn_ratio": ("nn_ratio", None),
    "same type": ("same", None),
    "the type asked for": ("right", None),
}
LINKS = ("real", "value", "difference", "floor", "shuffled", "n_genes")
NOTES = """\
Means over seeds, deviations of forests in brackets. `rf_auc_gene`, `rf_auc_pca`: a random forest
telling real from generated (by features, for peaks the 5,000 most variable ones as open or closed;
by components), 0.5 is ideal. `cond_acc`: a logistic regression on components finds the type;
`type_acc`: naive Bayes on all features does. `mean_pearson`: correlation over features of their
means, for peaks the share of cells in which each is open. `/floor`, `-floor`: over or less what one
half of the real cells scores against the other, which the row of the floor gives in brackets. RNA
is compared on the 2,000 genes whose log counts vary most in the training cells. Common peaks are
those that 1% of training cells have. `pseudobulk`: the same correlation within a type, averaged
over types; of real cells, between their halves, between training and held-out cells, and what it
can be at most, since the held-out cells' profile is noisy. MULTIVI's
prior knows no types. Posterior predictives are no new cells: they decode the latents of the
held-out cells, and show what the decoder can do.
"""


def split(mdata: mudata.MuData, seed: int) -> tuple[mudata.MuData, mudata.MuData]:
    """Training and held-out cells, with the same frequencies of types."""
    label = mdata["rna"].obs[LABEL].astype(str).to_numpy()
    rng = np.random.default_rng(seed)
    is_train = np.zeros(len(label), dtype=bool)
    for name in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == name))
        is_train[rows[: round(TRAIN_SHARE * len(rows))]] = True
    return mdata[is_train].copy(), mdata[~is_train].copy()


def run(args: argparse.Namespace, family: str, seed: int) -> None:
    """Train a family and measure its cells, as far as that is not done."""
    from multiome_scores import score

    result = args.out / "runs" / f"{seed}_{family}.json"
    if result.exists():
        return
    train, test = split(mudata.read_h5mu(args.data), seed)
    folder = args.out / "cells" / str(seed) / family
    if not folder.exists():
        drawn, costs = FAMILIES[family](train, test, seed, args.epochs)
        part = folder.with_suffix(".part")  # renamed at last: a folder that is there is complete
        for method, modalities in drawn.items():
            (part / method).mkdir(parents=True, exist_ok=True)
            for name, a in modalities.items():
                a.write_h5ad(part / method / f"{name}.h5ad", compression="gzip")
        (part / "costs.json").write_text(json.dumps(costs))
        part.rename(folder)
    drawn = {
        method.name: {path.stem: ad.read_h5ad(path) for path in sorted(method.glob("*.h5ad"))}
        for method in sorted(folder.iterdir())
        if method.is_dir()
    }
    table = score(drawn, train, test, seed, with_links=args.links)
    found = {
        "data": args.data.name,
        "seed": seed,
        "family": family,
        "epochs": args.epochs,
        "versions": {p: version(p) for p in ("scgm_scvi", "scvi-tools", "torch")},
        "costs": json.loads((folder / "costs.json").read_text()),
        "rows": json.loads(table.to_json(orient="records", double_precision=15)),
    }
    result.parent.mkdir(exist_ok=True)
    part = result.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1))
    part.replace(result)
    print(f"{family}, seed {seed}: {found['costs']}", flush=True)


def summary(runs: list[dict]) -> str:
    """Tables of all runs."""
    results = pd.concat([pd.DataFrame(r["rows"]).assign(seed=r["seed"]) for r in runs])
    versions = ", ".join(f"{k} {v}" for k, v in runs[0]["versions"].items())
    blocks = ["# Generated cells of two modalities", f"{NOTES}\nVersions: {versions}."]
    blocks += [f"## {name}\n\n{table(rows)}" for name, rows in results.groupby("table", sort=False)]
    costs = pd.DataFrame([{"family": r["family"], **r["costs"]} for r in runs])
    if costs.shape[1] > 1:
        mean = costs.groupby("family").mean().dropna(how="all").round()
        rows = [["", *mean.columns]]
        rows += [
            [name, *("" if np.isnan(v) else f"{v:.0f}" for v in row)]
            for name, row in zip(mean.index, mean.to_numpy(), strict=True)
        ]
        blocks.append(f"## CPU-seconds, and epochs\n\n{markdown(rows)}")
    return "\n\n".join(blocks) + "\n"


def table(rows: pd.DataFrame) -> str:
    """A row a method after those of real cells, or for links a row a method and metric."""
    methods = sorted(set(rows["method"]), key=ORDER.index)
    seeds = f"Seeds {', '.join(map(str, sorted(set(rows['seed']))))}"
    if "difference" in rows and rows["difference"].notna().any():
        mean = rows.groupby(["method", "metric"])[list(LINKS)].mean().loc[methods]
        body = [
            [*name, *(f"{v:.3f}" for v in row[:-1]), f"{row[-1]:.0f}"]
            for name, row in zip(mean.index, mean.to_numpy(), strict=True)
        ]
        return f"{seeds}.\n\n{markdown([['method', 'metric', *LINKS], *body])}"
    if rows["n"].notna().any():
        seeds += f"; {rows['n'].mean():.0f} cells a side"
    by_metric = dict(tuple(rows.groupby("metric")))
    known = {h: c for h, c in COLUMNS.items() if c[0] in by_metric}
    out = [["method", *known]]
    for name, column in FLOORS.items():
        # floors are the same for all methods of a seed
        if rows.get(column, pd.Series(dtype=float)).notna().any():
            out.append(
                [
                    name,
                    *(
                        cell(by_metric[m].drop_duplicates("seed"), column, h, how)
                        for h, (m, how) in known.items()
                    ),
                ]
            )
    for name in methods:
        found = {m: part[part["method"] == name] for m, part in by_metric.items()}
        out.append([name, *(cell(found[m], "value", h, how) for h, (m, how) in known.items())])
    return f"{seeds}.\n\n{markdown(out)}"


def report(folder: Path) -> str:
    """Write ``summary.md`` of the runs that are there, and give it."""
    runs = [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*.json"))]
    if not runs:
        raise SystemExit(f"{folder / 'runs'} holds no JSON: there is nothing to report.")
    text = summary(runs)
    (folder / "summary.md").write_text(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="h5mu file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument(
        "--epochs", type=int, help="of each model's (first) stage; default: its own"
    )
    parser.add_argument(
        "--links", action="store_true", help="and genes against their peaks; may fetch positions"
    )
    parser.add_argument("--report-only", action="store_true", help="rebuild the tables")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if not args.report_only:
        if args.data is None:
            parser.error("name --data.")
        for seed, family in product(args.seeds, args.methods):
            run(args, family, seed)
    print(report(args.out))


if __name__ == "__main__":
    main()
