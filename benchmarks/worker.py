"""What the processes of the generation benchmark do: ``python worker.py generate|evaluate TASK``.

A task is JSON: ``generation.py`` writes it. One process trains one family of methods and generates
its cells, so that its CPU time and its peak of memory are the family's own; another measures the
cells of all methods of a split and seed, so that floors are computed once.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd

__all__ = ["evaluate", "generate"]


def peak_memory_mb() -> float:
    """Peak of this very process: on Linux ``ru_maxrss`` is at least that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in bytes, as on macOS
    line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def generate(task: dict) -> None:
    """Train one family and write the cells of its methods, with what they cost in ``uns``."""
    from scgm_scvi.benchmark import GENERATORS  # takes seconds, which are not the method's

    train = ad.read_h5ad(task["files"]["train"])
    key, seed = task["label_key"], task["seed"]
    conditions = ad.read_h5ad(task["files"]["test"], backed="r").obs[[key]]
    start = time.process_time()
    methods = GENERATORS[task["family"]](train, key, seed, task["quick"])
    train_seconds = time.process_time() - start
    folder = Path(task["out"])
    part = folder.with_suffix(".part")  # renamed at last: a folder that is there is complete
    part.mkdir(parents=True, exist_ok=True)
    for name, method in methods.items():
        start = time.process_time()
        cells = method(conditions, seed)
        seconds = time.process_time() - start
        cells.uns["benchmark"] = {
            "train_seconds": train_seconds,
            "cells_per_second": cells.n_obs / seconds,
            "peak_memory_mb": peak_memory_mb(),
            **cells.uns.get("benchmark", {}),
        }
        cells.write_h5ad(part / f"{name}.h5ad", compression="gzip")
        if hasattr(method, "model"):
            method.model.save(part / f"{name}.model")
    part.rename(folder)


def memorization(
    cells: ad.AnnData, model_folder: Path, parts: dict[str, ad.AnnData]
) -> pd.DataFrame:
    """Does a model that was kept give its training cells away?"""
    from scgm_scvi import SCGM
    from scgm_scvi.metrics import memorization_report

    report = memorization_report(
        cells,
        parts["train"],
        parts["test"],
        model=SCGM.load(model_folder, adata=False),
        pca_reference=parts.get("ref"),
    )
    # dup_frac is in the other table
    return report[report["metric"] != "dup_frac"].drop(columns="donor").assign(condition="all")


def evaluate(task: dict) -> None:
    """Write all metrics and costs of the methods of one split and seed, in tidy rows."""
    from scgm_scvi.metrics import evaluate_generation

    parts = {part: ad.read_h5ad(path) for part, path in task["files"].items()}
    cells = {name: ad.read_h5ad(path) for name, path in task["cells"].items()}
    table = evaluate_generation(
        cells,
        parts["test"],
        train=parts["train"],
        pca_reference=parts.get("ref"),
        condition_key=task["label_key"],
        per_condition=task["per_condition"],
    )
    costs = pd.DataFrame(
        {"method": name, "condition": "all", "metric": key, "value": float(value)}
        for name, a in cells.items()
        for key, value in a.uns["benchmark"].items()
    )
    tables = [table, costs]
    for name, path in task["cells"].items():
        model_folder = Path(path).with_suffix(".model")
        if model_folder.exists():
            tables.append(memorization(cells[name], model_folder, parts).assign(method=name))
    table = pd.concat(tables)
    table.insert(0, "split", task["split"])
    table.insert(1, "seed", task["seed"])
    table.to_csv(task["out"], index=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    {"generate": generate, "evaluate": evaluate}[sys.argv[1]](json.loads(sys.argv[2]))
