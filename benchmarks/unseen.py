"""Predictions of what was never done, on screens whose truth is known (``screens.py``).

    python benchmarks/unseen.py [--data FILE.h5ad] [--seeds 0 1 2] [--laws linear pairs] [--out FOLDER]

FILE holds raw counts of control cells; without it they are the 700 of scanpy's wheel. A screen is
made for each law, a model is trained on a part of it, and ``SCGM.predict`` is scored on the rest,
beside every baseline that needs no model, and the oracle: the true effect on fresh cells.

``linear``: responses linear in the vectors, 30% of 200 perturbations held out; ``bent``: bounded
functions of the same; ``local``: families, of which vectors say no more than who belongs to them;
``quarter``: a quarter of the perturbations of ``linear``; ``pairs``: doubles of seen singles, half of
them additive; ``pairs unseen``: doubles of which one single or both were not seen; ``contexts``: one
of three contexts, with control cells alone; ``doses``: a dose between two that were seen. Numbers are
scaled scores: 0 for the mean response (for pairs, ``additive``; across contexts, ``mean_across``), 1
for a replicate.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from screens import CONTROL, Screen, load_control, make_screen

from scgm_scvi import SCGM
from scgm_scvi.metrics import evaluate_perturbations, holdout
from scgm_scvi.metrics._challenge import CHALLENGE_METRICS

KEYS = {"perturbation_key": "perturbation", "control_value": CONTROL}
METRICS = ("r2_mean_top", "pearson_delta", "pearson_centered", "e_distance", "variance_ratio")


class Law(NamedTuple):
    """Arguments of a screen, and which of its cells are for the test."""

    screen: dict[str, Any]
    kind: str = "perturbation"
    baseline: str | None = None


LAWS = {
    "linear": Law({"bend": 0.0}),
    "bent": Law({"bend": 1.0, "strength": 0.8}),
    "local": Law({"local": 0.9, "n_families": 40}),
    "quarter": Law({"bend": 0.0, "n_perturbations": 50}),
    "pairs": Law({"n_perturbations": 100, "n_pairs": 100}, "pairs", "additive"),
    "pairs unseen": Law({"n_perturbations": 100, "n_pairs": 100}, "singles"),
    "contexts": Law({"n_perturbations": 60, "modulation": 0.3}, "context", "mean_across"),
    "doses": Law({"n_perturbations": 60, "doses": (0.1, 0.3, 1.0)}, "dose"),
}


def held_out(screen: Screen, kind: str, seed: int) -> np.ndarray:
    """Which cells are for the test; control cells never are."""
    obs, name = screen.adata.obs, screen.adata.obs["perturbation"].astype(str)
    double, control = name.str.contains("+", regex=False), name == CONTROL
    if kind == "pairs":
        out = double
    elif kind == "dose":
        out = obs["dose"] == 0.3
    elif kind == "context":
        out = obs["context"] == "a"
    else:
        arguments = {"test": 0.3, "validation": 0.0, "seed": seed}
        single = screen.adata[(~double).to_numpy()]
        split = holdout(single, "perturbation", control_value=CONTROL, **arguments)
        unseen = set(single.obs["perturbation"][(split == "test").to_numpy()])
        out = name.map(lambda n: bool(unseen.intersection(n.split("+"))))
        if kind == "perturbation":
            out &= ~double
    return (out & ~control).to_numpy()


def predicted(
    screen: Screen, train: AnnData, test: np.ndarray, kind: str, steps: int, n_cells: int
) -> AnnData:
    """What a model predicts that was trained on other cells."""
    adata, has_context = screen.adata, kind == "context"
    train = train.copy()
    arguments = {"perturbation_key": "perturbation", "control": CONTROL}
    if kind == "dose":
        arguments["dose_key"] = "dose"
    SCGM.setup_anndata(
        train,
        labels_key="context" if has_context else None,
        condition_embeddings={"perturbation": screen.vectors},
        **arguments,
    )
    model = SCGM(train)
    quiet = {"enable_progress_bar": False}
    model.train(max_steps=steps, diffusion_kwargs={"max_steps": 50, **quiet}, **quiet)
    control = train.obs["perturbation"] == CONTROL
    if has_context:
        control &= train.obs["context"] == "a"
    asked = adata.obs.loc[test, ["perturbation", "dose"]].drop_duplicates()
    asked = asked if kind == "dose" else sorted(asked["perturbation"].unique())
    controls = train[control.to_numpy()]
    return model.predict(controls, asked, n_cells=n_cells, seed=0, progress_bar=False)


def scores_of(law: str, control: AnnData, seed: int, steps: int, n_cells: int) -> pd.DataFrame:
    """All metrics of all methods, a row a perturbation."""
    arguments, kind, baseline = LAWS[law]
    context = control.copy()
    if kind == "context":
        context.obs["line"] = np.resize(["a", "b", "c"], control.n_obs)
        arguments = {**arguments, "context_key": "line"}
    screen = make_screen(context, seed=seed, **arguments)
    test = held_out(screen, kind, seed)
    adata = screen.adata
    train = adata[~test]
    if kind == "singles":  # what is scored are the doubles
        test &= adata.obs["perturbation"].astype(str).str.contains("+", regex=False).to_numpy()
    cells = predicted(screen, train, test, kind, steps, n_cells)
    is_control = (adata.obs["perturbation"] == CONTROL).to_numpy()
    effect = adata.obs["perturbation"].map(adata.uns["truth"]["effect"]).fillna(False)
    real = adata[test & effect.to_numpy(dtype=bool)]
    if kind == "context":
        cells.obs["context"] = "a"
        is_control &= (adata.obs["context"] == "a").to_numpy()
    table = evaluate_perturbations(
        {"SCGM": cells, "oracle": screen.oracle(real.obs.reset_index(drop=True))},
        real,
        adata[is_control],
        train=train,
        embeddings=screen.vectors,
        metrics=[*CHALLENGE_METRICS, *METRICS],
        context_key="context" if kind == "context" else None,
        baseline=baseline,
        seed=seed,
        **KEYS,
    )
    additive = table["perturbation"].map(adata.uns["truth"]["additive"])
    return table.assign(law=law, seed=seed, additive=additive)


def scaled(table: pd.DataFrame) -> pd.DataFrame:
    """Scaled scores by law and metric, a column a method; means over seeds."""
    table = table[table["perturbation"] != "all"]
    keys = ["law", "metric", "method"]
    mean = table.groupby(keys, observed=True)[["value", "replicate", "baseline"]].mean()
    score = (mean["value"] - mean["baseline"]) / (mean["replicate"] - mean["baseline"])
    out = score.unstack("method")
    six = out[out.index.get_level_values("metric").isin(CHALLENGE_METRICS)]
    # of fold changes a noisy replicate is worse than none: that metric can't be scaled then
    some = six[six["oracle"] > 0]
    mean_of_six = some.groupby(level="law").mean()
    mean_of_six.index = pd.MultiIndex.from_product([mean_of_six.index, ["mean of six"]])
    return pd.concat([out, mean_of_six]).sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric", "scgm_scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    control = load_control(args.data, args.genes)
    tables = []
    for law in args.laws:
        start = time.time()
        for seed in args.seeds:
            tables.append(scores_of(law, control, seed, args.steps, args.cells))
        print(f"{law}: {time.time() - start:.0f} s", flush=True)
        print(
            scaled(pd.concat(tables[-len(args.seeds) :])).round(3).to_string(na_rep=""), flush=True
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        pd.concat(tables).to_csv(args.out / "unseen.csv", index=False)
        scaled(pd.concat(tables)).to_csv(args.out / "unseen_scaled.csv")


if __name__ == "__main__":
    main()
