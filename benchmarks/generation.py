"""Generate the held-out cells' composition with SCGM and with other methods, and measure.

    python benchmarks/generation.py --splits FOLDER --out FOLDER [--names pbmc3k marrow] [--quick]
    python benchmarks/generation.py --train a.h5ad --test b.h5ad [--ref c.h5ad] --out FOLDER
    python benchmarks/generation.py --report-only --out FOLDER

A folder of splits holds NAME_train.h5ad, NAME_test.h5ad and NAME_ref.h5ad (the last may be missing;
it fits the evaluation's PCA), with raw counts. SCGM runs with its defaults, the others as
``scgm_scvi.benchmark`` says: every family of methods for every split and seed, in a process and on a
thread of its own. The output folder gets the cells
(``cells/``), ``results.csv``, ``summary.md`` and figures. Run again, it goes on where it stopped:
cells that are there are not generated again, methods in ``results.csv`` are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from threading import Lock

import anndata as ad
import numpy as np
import pandas as pd

from scgm_scvi.benchmark import GENERATORS

QUICK_CELLS = 600
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run_worker(action: str, task: dict, log: Path) -> bool:
    """Run a worker in a process of its own, and say how it went; is all well?"""
    log.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    worker = Path(__file__).with_name("worker.py")
    command = [sys.executable, str(worker), action, json.dumps(task)]
    with log.open("w") as file:
        ended = subprocess.run(command, stdout=file, stderr=file, env=os.environ | ONE_THREAD)
    failed = ended.returncode != 0
    outcome = f"FAILED, see {log}" if failed else f"{time.monotonic() - start:.0f} s"
    print(f"{log.stem}: {outcome}", flush=True)
    return not failed


def run(args: argparse.Namespace, splits: dict[str, dict[str, str]]) -> bool:
    """Run what is not there yet; is all well?"""
    pairs = list(product(splits, args.seeds))
    left = dict.fromkeys(pairs, len(args.methods))
    lock = Lock()
    results = args.out / "results.csv"
    table = pd.read_csv(results) if results.exists() else pd.DataFrame()
    done = set(map(tuple, table[["split", "seed", "method"]].to_numpy())) if len(table) else set()

    def work(job: tuple[tuple[str, int], str]) -> bool:
        nonlocal table
        (split, seed), family = job
        folder = args.out / "cells" / split / str(seed)
        log = args.out / "logs" / f"{split}_{seed}_{family}.log"
        task = {"files": splits[split], "label_key": args.label_key, "split": split, "seed": seed}
        own = {"family": family, "quick": args.quick, "out": str(folder / family)}
        fine = (folder / family).exists() or run_worker("generate", {**task, **own}, log)
        with lock:
            left[split, seed] -= 1
            if left[split, seed]:
                return fine
        # the last family of this split and seed: its process measures all of them together
        files = [p for name in args.methods for p in sorted((folder / name).glob("*.h5ad"))]
        cells = {p.stem: str(p) for p in files if (split, seed, p.stem) not in done}
        if not cells:
            return fine
        scores = folder / "scores.csv"
        own = {"cells": cells, "per_condition": args.per_condition, "out": str(scores)}
        log = log.with_stem(f"{split}_{seed}_metrics")
        if not run_worker("evaluate", {**task, **own}, log):
            return False
        with lock:
            table = pd.concat([table, pd.read_csv(scores)])
            new = results.with_suffix(".part")
            table.to_csv(new, index=False)
            new.replace(results)
        scores.unlink()
        return fine

    with ThreadPoolExecutor(args.jobs) as pool:
        return all(list(pool.map(work, product(pairs, args.methods))))


def find_splits(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Paths of each split's parts, by name."""
    if args.train:
        named = {args.train.stem: {p: getattr(args, p) for p in ("train", "test", "ref")}}
    else:
        parts = ("train", "test", "ref")
        found = sorted(p.name.removesuffix("_train.h5ad") for p in args.splits.glob("*_train.h5ad"))
        names = args.names or (found[:2] if args.quick else found)
        named = {n: {p: args.splits / f"{n}_{p}.h5ad" for p in parts} for n in names}
        for files in named.values():
            files["ref"] = files["ref"] if files["ref"].exists() else None
    if not named:
        raise SystemExit(f"{args.splits} holds no NAME_train.h5ad.")
    splits = {n: {p: str(f.resolve()) for p, f in named[n].items() if f} for n in named}
    for path in (path for files in splits.values() for path in files.values()):
        if not Path(path).exists():
            raise SystemExit(f"{path} is not there.")
        if args.label_key not in ad.read_h5ad(path, backed="r").obs:
            raise SystemExit(f"{path}: obs has no column {args.label_key!r}; name --label-key.")
    return splits


def subsample(splits: dict[str, dict[str, str]], label_key: str, folder: Path) -> None:
    """Put files of a few cells, and of labels that training cells have, in place of the files."""
    folder.mkdir(exist_ok=True)
    for name, files in splits.items():
        known: set[str] = set()
        for part, path in files.items():  # the training cells come first
            a = ad.read_h5ad(path)
            rows = np.random.default_rng(0).permutation(a.n_obs)[:QUICK_CELLS]
            if part == "train":
                known = set(a.obs[label_key].iloc[rows])
            rows = rows[a.obs[label_key].iloc[rows].isin(known)]
            files[part] = str((folder / f"{name}_{part}.h5ad").resolve())
            a[np.sort(rows)].copy().write_h5ad(files[part])


def keep_settings(args: argparse.Namespace, splits: dict[str, dict[str, str]]) -> None:
    """Refuse to mix results of different settings in one folder."""
    path = args.out / "settings.json"
    new = {k: getattr(args, k) for k in ("label_key", "quick", "per_condition")}
    new["versions"] = {p: version(p) for p in ("scgm_scvi", "scvi-tools", "torch")}
    old = json.loads(path.read_text()) if path.exists() else {}
    before = old.get("splits", {})
    differ = [k for k in new if k in old and old[k] != new[k]]
    differ += [n for n in splits if n in before and before[n] != splits[n]]
    if differ:
        raise SystemExit(f"{args.out} was begun with other {', '.join(differ)}; name a new --out.")
    path.write_text(json.dumps({**new, "splits": {**before, **splits}}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=Path, help="folder of NAME_{train,test,ref}.h5ad")
    parser.add_argument("--names", nargs="+", help="which of them; default: all")
    for part in ("train", "test", "ref"):
        parser.add_argument(f"--{part}", type=Path, help="in place of --splits")
    parser.add_argument("--label-key", default="group", help="column of obs to generate by")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument("--methods", nargs="+", choices=list(GENERATORS), default=list(GENERATORS))
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--per-condition", action="store_true", help="keep each condition's rows")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a look, no result: {QUICK_CELLS} cells, few epochs, one seed, the first two splits",
    )
    parser.add_argument("--report-only", action="store_true", help="rebuild tables and figures")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    fine = True
    if not args.report_only:
        if bool(args.splits) == bool(args.train and args.test):
            parser.error("name either --splits, or --train and --test.")
        args.seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
        args.out.mkdir(parents=True, exist_ok=True)
        splits = find_splits(args)
        keep_settings(args, splits)
        if args.quick:
            subsample(splits, args.label_key, args.out / "splits")
        fine = run(args, splits)
    if not (args.out / "results.csv").exists():
        raise SystemExit(f"{args.out / 'results.csv'} is not there: there is nothing to report.")
    from report import report

    print(report(args.out))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
