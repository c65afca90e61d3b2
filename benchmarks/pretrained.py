"""A diffusion prior on trained scVI models, against other ways to draw from their latent.

    python benchmarks/pretrained.py --splits FOLDER --out FOLDER [--names pbmc3k marrow]

A folder of splits holds NAME_train.h5ad, NAME_test.h5ad and NAME_ref.h5ad (which fits the
evaluation's PCA), with raw counts. For each split and seed one ``scvi.model.SCVI`` is trained with
its defaults (labels given, and the batch where obs has a column --batch-key), and its decoder is
fed in four ways, each with the held-out cells' labels:

- "diffusion": ``SCGM.from_scvi_model``, ``train_diffusion`` and ``generate`` with their defaults;
- "posterior predictive": the held-out cells' own latents, depths and batches, a sample each: no
  new cells, and as good as the decoder can do;
- "Gaussian per label", fitted to the training cells' latents, and "prior", N(0, I): with depths
  and batches of training cells of the label.

They are compared with the held-out cells by metrics.evaluate_generation. Models are kept in --out,
and what is in its ``results.csv`` is not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import logging
import time
import warnings
from itertools import product
from pathlib import Path

import anndata as ad
import pandas as pd
import scvi
import torch
from report import fidelity_table
from scipy import sparse
from scvi.model import SCVI

from scgm_scvi import SCGM
from scgm_scvi.benchmark import decoded, gaussian_latents
from scgm_scvi.metrics import evaluate_generation

PARTS = ("train", "test", "ref")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["pbmc3k", "kang14k", "pancreas", "marrow"])
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--batch-key", default="Dataset", help="used where obs has it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of scVI; default: its own")
    parser.add_argument("--steps", type=int, help="of the diffusion model; default: its own")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.csv"
    results = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for name, seed in product(args.names, args.seeds):
        if len(results) and ((results["split"] == name) & (results["seed"] == seed)).any():
            continue
        cells = {part: ad.read_h5ad(args.splits / f"{name}_{part}.h5ad") for part in PARTS}
        table = measured(cells, args, seed, args.out / f"{name}_{seed}")
        results = pd.concat([results, table.assign(split=name, seed=seed)])
        results.to_csv(path, index=False)
        print(name, seed, flush=True)
    for name in args.names:
        rows = results[results["split"] == name]
        costs, rows = (rows[(rows["metric"] == "seconds") == is_cost] for is_cost in (True, False))
        n = rows.loc[rows["metric"] == "w2", "n"].mean()
        seeds = ", ".join(map(str, sorted(set(rows["seed"]))))
        print(f"\n{name}, seeds {seeds}; {n:.0f} cells a side\n\n{fidelity_table(rows)}")
        print("CPU-seconds of training:", costs.groupby("method")["value"].mean().round().to_dict())


def measured(
    cells: dict[str, ad.AnnData], args: argparse.Namespace, seed: int, folder: Path
) -> pd.DataFrame:
    """Train one model, draw from it in every way, and measure."""
    train, test = cells["train"], cells["test"]
    batch_key = args.batch_key if args.batch_key in train.obs else None
    scvi.settings.seed = seed
    own = train.copy()
    SCVI.setup_anndata(own, labels_key=args.label_key, batch_key=batch_key)
    plain = SCVI(own)
    start = time.process_time()
    plain.train(max_epochs=args.epochs, accelerator="cpu", enable_progress_bar=False)
    trained = time.process_time()
    model = SCGM.from_scvi_model(plain)
    model.train_diffusion(args.steps, seed=seed, accelerator="cpu", enable_progress_bar=False)
    seconds = {"scVI": trained - start, "diffusion": time.process_time() - trained}
    model.save(str(folder), overwrite=True)
    asked = test.obs[[args.label_key]]
    prior = decoded(plain, train, args.label_key, lambda rows, n, rng: rng.standard_normal((n, 10)))
    gaussian = decoded(plain, train, args.label_key, gaussian_latents(plain))
    drawn = {
        "diffusion": model.generate(conditions=asked, seed=seed, progress_bar=False),
        "posterior predictive": posterior_predictive(plain, test, seed),
        "Gaussian per label": gaussian(asked, seed),
        "prior": prior(asked, seed),
    }
    table = evaluate_generation(
        drawn,
        test,
        train=train,
        pca_reference=cells["ref"],
        condition_key=args.label_key,
    )
    costs = pd.DataFrame({"method": seconds.keys(), "metric": "seconds", "value": seconds.values()})
    return pd.concat([table, costs.assign(condition="all")])


def posterior_predictive(model: SCVI, cells: ad.AnnData, seed: int) -> ad.AnnData:
    """A draw of each cell from its own latent, at its own depth."""
    own = cells.copy()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        counts = model.posterior_predictive_sample(own, batch_size=500)
    return ad.AnnData(sparse.csr_matrix(counts.to_scipy_sparse()), cells.obs, cells.var[[]])


if __name__ == "__main__":
    main()
