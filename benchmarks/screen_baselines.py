"""Whether baselines win where they should, on screens whose truth is known (``screens.py``).

    python benchmarks/screen_baselines.py [--data FILE.h5ad] [--out FOLDER]

FILE holds raw counts of cells that are alike enough to be control cells, or of several types;
without it they are the 700 of scanpy's wheel. Each row of the table is a screen with one law:

``linear``: the response is linear in the vectors, and data are many; ``few``: the same with an
eighth of the perturbations; ``local``: perturbations come in families, and what families do has no
more to do with their vectors; ``pairs``: half of the doubles are sums of their parts, half are not;
``contexts``: a context with control cells only, or with seven of ten perturbations. Numbers are scaled scores, 0 for the mean response
and 1 for a replicate. ``oracle``: the true effect on cells that are not in the screen.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from screens import CONTROL, Screen, load_control, make_screen

from scgm_scvi.metrics import evaluate_perturbations, holdout

KEYS = {"perturbation_key": "perturbation", "control_value": CONTROL}
COLUMNS = (
    *("oracle", "control", "mean", "additive", "nearest", "nearest_profile", "ridge"),
    *("mean_across", "additive_across", "ridge_across"),
)


def scored(screen: Screen, split: pd.Series, metrics: Sequence[str], **kwargs) -> pd.DataFrame:
    """Of the perturbations for the test, by everything that needs no model."""
    adata = screen.adata
    is_control = (adata.obs["perturbation"] == CONTROL).to_numpy()
    real = adata[(split == "test").to_numpy() & ~is_control]
    truth = adata.uns["truth"]
    real = real[truth.loc[real.obs["perturbation"], "effect"].to_numpy()]
    return evaluate_perturbations(
        {"oracle": screen.oracle(real.obs.reset_index(drop=True))},
        real,
        adata[is_control],
        train=adata[(split == "train").to_numpy()],
        embeddings=screen.vectors,
        metrics=metrics,
        **KEYS,
        **kwargs,
    )


def table_of(control: AnnData, metric: str, seed: int = 0, **size) -> pd.DataFrame:
    """Scaled scores of each law (a row) by method."""
    rows = {}

    def add(name: str, table: pd.DataFrame) -> None:
        table = table[table["metric"] == metric]
        rows[name] = table.groupby("method")[["value", "replicate", "baseline"]].mean()

    laws = {
        "linear": {},
        "few": {"n_perturbations": max(12, size.get("n_perturbations", 200) // 8)},
        "local": {"local": 0.9, "n_families": size.get("n_perturbations", 200) // 5},
    }
    for name, law in laws.items():
        screen = make_screen(control, seed=seed, **{**size, **law})
        split = holdout(screen.adata, "perturbation", control_value=CONTROL, seed=seed)
        found = scored(screen, split, [metric])
        add(name, found[found["perturbation"] != "all"])
    n = size.get("n_perturbations", 200)
    screen = make_screen(control, seed=seed, **{**size, "n_perturbations": n // 2, "n_pairs": n})
    single = ~screen.adata.obs["perturbation"].str.contains("+", regex=False)
    found = scored(screen, pd.Series(np.where(single, "train", "test")), [metric])
    found = found[found["perturbation"] != "all"]
    additive = screen.adata.uns["truth"]["additive"]
    for name, kept in {"pairs, additive": True, "pairs, not": False}.items():
        add(name, found[found["perturbation"].map(additive) == kept])
    context = control.copy()
    context.obs["line"] = np.resize(["a", "b", "c"], control.n_obs)
    for modulation, few_shot in ((0.1, 0.0), (1.0, 0.0), (1.0, 0.7)):
        arguments = {**size, "modulation": modulation, "n_perturbations": n // 3}
        screen = make_screen(context, context_key="line", seed=seed, **arguments)
        split = holdout(
            screen.adata, "perturbation", control_value=CONTROL, kind="context",
            context_key="context", contexts=["a"], validation=0, few_shot=few_shot,
        )  # fmt: skip
        found = scored(screen, split, [metric], context_key="context")
        add(
            f"contexts, modulation {modulation}{', most seen' if few_shot else ''}",
            found[found["perturbation"] != "all"],
        )
    scaled = {
        name: (t["value"] - t["baseline"]) / (t["replicate"] - t["baseline"])
        for name, t in rows.items()
    }
    return pd.DataFrame(scaled).T.reindex(columns=list(COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--metric", default="pearson_centered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    control = load_control(args.data, args.genes)
    start = time.process_time()
    table = table_of(control, args.metric, args.seed, n_perturbations=args.perturbations)
    print(table.round(2).to_string(na_rep=""))
    print(f"{time.process_time() - start:.0f} s of processor time")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.out / f"screens_{args.metric}.csv")


if __name__ == "__main__":
    main()
