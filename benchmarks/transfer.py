"""Fine-tune a model of some studies on another one, and compare with training on it from nothing.

    python benchmarks/transfer.py --data FILE.h5ad --study-key Dataset --label-key cell_type \\
        --out FOLDER [--queries Tosti ...] [--methods full adapter ...] [--seeds 0 1 2]
    python benchmarks/transfer.py ... --held-out-types A B C --queries Tosti
    python benchmarks/transfer.py ... --missing 0.3
    python benchmarks/transfer.py --report-only --out FOLDER

Each study in turn is the query, the others are the reference. Half of every study's cells of every
type train, 35% test, and 15% fit the evaluation's PCA; features are the 2,000 most variable of the
reference's training cells. Methods: "full", "adapter" and "surgery" fine-tune with the defaults;
"equal" trains a model of the query from nothing with as many cells in its steps as "full" (the
replayed ones included), and "five" with five times as many; "reference" is the reference as it is.
Cells are generated with the types of the test cells of the query, and, with types and studies, of
the reference's.

--held-out-types leaves one type at a time out of the reference, and asks whether its cells,
generated after fine-tuning, are found to be of that type. --missing takes this share of features
from the query, and its labels, and measures how well a nearest-neighbour vote in the latent gives
them back. References are kept in --out; done rows of results.csv are not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from scgm_scvi import SCGM
from scgm_scvi.metrics import evaluate_generation

QUIET = {"enable_progress_bar": False}
STEPS, DIFFUSION_STEPS, MOST_EPOCHS = 1_000, 3_000, 400  # what fine-tuning takes
METRICS = ["rf_auc_pca", "w2", "rf_auc_gene", "cond_acc"]
TUNED = ("full", "adapter", "surgery")


def read(args: argparse.Namespace) -> ad.AnnData:
    """The data with ``study``, ``group`` and ``part`` in obs."""
    adata = ad.read_h5ad(args.data)
    obs = adata.obs[[args.study_key, args.label_key]].astype(str)
    obs.columns = ["study", "group"]
    obs["study"] = obs["study"].str.split().str[0]
    rng, part = np.random.default_rng(0), np.empty(len(obs), dtype=object)
    for rows in obs.groupby(["study", "group"]).indices.values():
        order = rng.permutation(rows)
        place = (np.arange(len(order)) + rng.random()) / len(order)
        part[order] = np.select([place < 0.5, place < 0.85], ["train", "test"], "pca")
    return ad.AnnData(
        sparse.csr_matrix(adata.X), obs=obs.assign(part=part), var=adata.var[[]].copy()
    )


def variable(adata: ad.AnnData, query: str) -> ad.AnnData:
    """The features that vary in the reference's training cells."""
    obs = adata.obs
    reference = adata[((obs["study"] != query) & (obs["part"] == "train")).to_numpy()].copy()
    sc.pp.filter_genes(reference, min_cells=5)
    sc.pp.highly_variable_genes(reference, n_top_genes=2000, flavor="seurat_v3")
    out = adata[:, reference.var_names[reference.var["highly_variable"]]]
    return out[np.asarray(out.X.sum(axis=1)).ravel() > 0].copy()


def parts(adata: ad.AnnData, query: str) -> dict[str, ad.AnnData]:
    is_query = (adata.obs["study"] == query).to_numpy()
    out = {
        f"{who} {part}": adata[rows & (adata.obs["part"] == part).to_numpy()].copy()
        for who, rows in {"query": is_query, "reference": ~is_query}.items()
        for part in ("train", "test")
    }
    return {**out, "pca": adata[(adata.obs["part"] == "pca").to_numpy()].copy()}


def steps_per_epoch(cells: ad.AnnData) -> int:
    return max(1, round(0.9 * cells.n_obs / 128))


def from_nothing(
    cells: ad.AnnData, seed: int, steps: int | None = None, diffusion_steps: int | None = None
) -> SCGM:
    scvi.settings.seed = seed
    SCGM.setup_anndata(cells, batch_key="study", labels_key="group")
    model = SCGM(cells)
    epochs = steps and max(1, round(steps / steps_per_epoch(cells)))
    options = {"seed": seed, "max_steps": diffusion_steps, **QUIET}
    model.train(max_epochs=epochs, diffusion_kwargs=options, **QUIET)
    return model


def reference_model(cells: ad.AnnData, path: Path) -> Path:
    """A model with the defaults, kept at ``path``."""
    if not path.exists():
        from_nothing(cells, seed=0).save(path)
    return path


def tuned(cells: ad.AnnData, reference: Path, mode: str, seed: int, **options) -> SCGM:
    scvi.settings.seed = seed
    model = SCGM.load_query_data(cells, str(reference), mode=mode)
    model.train(diffusion_kwargs={"seed": seed, **QUIET}, **QUIET, **options)
    return model


def measured(model: SCGM, real: ad.AnnData, data: dict, keys: list[str], seed: int, **options):
    cells = model.generate(conditions=real.obs[keys], seed=seed, progress_bar=False)
    train = data["query train" if keys == ["group"] else "reference train"]
    table = evaluate_generation(
        cells, real, train=train, pca_reference=data["pca"], condition_key="group", **options
    )
    return table[table["metric"].isin(METRICS)][["condition", "metric", "value", "floor", "n"]]


def compared(adata: ad.AnnData, query: str, method: str, seed: int, out: Path) -> pd.DataFrame:
    data = parts(variable(adata, query), query)
    path = reference_model(data["reference train"], out / "references" / query)
    start, train = time.process_time(), data["query train"]
    if method in TUNED:
        model = tuned(train, path, method, seed)
    elif method == "reference":
        model = SCGM.load(path, adata=False)
    else:
        times = {"equal": 1, "five": 5}[method]
        steps = 2 * min(STEPS, MOST_EPOCHS * steps_per_epoch(train))  # it replays a cell for each
        model = from_nothing(train, seed, times * steps, times * DIFFUSION_STEPS)
    cpu, tables = time.process_time() - start, {}
    if method != "reference":
        tables["query"] = measured(model, data["query test"], data, ["group"], seed)
    if method in (*TUNED, "reference"):
        keys = ["group", "study"]
        tables["reference"] = measured(model, data["reference test"], data, keys, seed)
    table = pd.concat(tables, names=["cells"]).reset_index(level=0)
    return table.assign(cpu_seconds=round(cpu))


def held_out(adata: ad.AnnData, query: str, kind: str, seed: int, out: Path) -> pd.DataFrame:
    """Cells of a type that only the query has."""
    data = parts(variable(adata, query), query)
    train = data["reference train"]
    name = f"{query} without {kind}".replace(" ", "_")
    rest = train[(train.obs["group"] != kind).to_numpy()].copy()
    path = reference_model(rest, out / "references" / name)
    model = tuned(data["query train"], path, "full", seed)
    table = measured(model, data["query test"], data, ["group"], seed, per_condition=True)
    return table[table["condition"] == kind].assign(cells="query")


def transferred(
    adata: ad.AnnData, query: str, missing: float, seed: int, out: Path
) -> pd.DataFrame:
    """Accuracy of labels voted for by the 15 nearest reference cells in the latent."""
    adata = variable(adata, query)
    data = parts(adata, query)
    train = data["reference train"]
    path = reference_model(train, out / "references" / query)
    cells = adata[(adata.obs["study"] == query).to_numpy()]
    cells = cells[cells.obs["group"].isin(train.obs["group"].unique()).to_numpy()].copy()
    names = np.random.default_rng(seed).permutation(cells.var_names)[
        round(missing * adata.n_vars) :
    ]
    panel = cells[:, cells.var_names.isin(names)].copy()
    counted = np.asarray(panel.X.sum(axis=1)).ravel() > 0
    rows = []
    for mode in ("none", *TUNED):
        for name, some in {"all features": cells, "missing": panel}.items():
            some = some[counted].copy()
            truth = some.obs.pop("group").to_numpy()
            scvi.settings.seed = seed
            model = SCGM.load_query_data(some, str(path), mode="full" if mode == "none" else mode)
            if mode != "none":
                model.train(diffusion=False, **QUIET)
            latent = model._states(train)[1][:, :-1].numpy()
            vote = KNeighborsClassifier(15).fit(latent, train.obs["group"])
            found = model._states(model.adata)[1][:, :-1].numpy()
            row = {"metric": f"accuracy, {mode}, {name}", "value": vote.score(found, truth)}
            rows.append({**row, "n": len(truth), "cells": "query", "condition": "all"})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def run(args: argparse.Namespace) -> None:
    adata, results = read(args), args.out / "results.csv"
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for query in args.queries or adata.obs["study"].unique():
            if args.held_out_types:
                tasks = {f"held out: {t}": (held_out, t) for t in args.held_out_types}
            elif args.missing:
                tasks = {f"missing {args.missing:g}": (transferred, args.missing)}
            else:
                tasks = {m: (compared, m) for m in args.methods}
            for method, (task, what) in tasks.items():
                key = {"query": query, "method": method, "seed": seed}
                done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=list(key))
                if (done[list(key)] == list(key.values())).all(axis=1).any():
                    continue
                table = task(adata, query, what, seed, args.out).assign(**key)
                table.to_csv(results, mode="a", header=not results.exists(), index=False)
                print(key, table.set_index("metric")["value"].round(3).to_dict(), flush=True)


def report(path: Path) -> None:
    table = pd.read_csv(path)
    columns = ["query", "cells", "method", "metric"]
    summary = table.groupby(columns)[["value", "floor", "n", "cpu_seconds"]].mean()
    summary["seeds"] = table.groupby(columns)["seed"].nunique()
    print(summary.round(3).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--study-key", default="Dataset")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", nargs="*")
    methods = ["reference", "full", "adapter", "surgery", "equal", "five"]
    parser.add_argument("--methods", nargs="*", default=methods)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--held-out-types", nargs="*")
    parser.add_argument("--missing", type=float)
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not args.report_only:
        run(args)
    report(args.out / "results.csv")


if __name__ == "__main__":
    main()
