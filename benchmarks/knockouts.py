"""What a knock-out by co-expression is worth: cells that happen to lack a gene, against real knock-outs.

    python benchmarks/knockouts.py --control WILD_TYPE.h5ad --knockout KNOCKOUT.h5ad --gene TREM2
    python benchmarks/knockouts.py --screen SCREEN.h5ad --perturbation-key target --control-value non-targeting

SCGM is trained on a half of the control cells alone, and the other half edited,
``edit(genes={gene: "knockout"})``, at each of --strengths. The changes of mean log1p CP10K over the
--top genes that differ most between real knock-outs and controls (the target left out): ``r``, their
correlation with the real ones; ``signs``, the share that goes the right way; ``r2``, how much of them
is explained. Beside it: ``regression``, what a regression on the gene in control cells takes off with
it; ``other gene``, the same edit of a gene of the same mean, as any edit changes something; and
``replicate``, one half of the real knock-outs for the other. No change has an R² of 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from editing import log

from scgm_scvi import SCGM

QUIET = {"enable_progress_bar": False}
FEWEST = 30  # real knock-outs of a gene


def halves(cells: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Of cells, drawn at random."""
    first = np.random.default_rng(seed).permutation(cells.n_obs) < cells.n_obs // 2
    return cells[first].copy(), cells[~first].copy()


def regression(cells: ad.AnnData, gene: str) -> np.ndarray:
    """Changes of all genes that go with the loss of one, by least squares over the cells."""
    x = log(cells)
    own = x[:, cells.var_names.get_loc(gene)]
    spread = own.var()
    slope = ((own - own.mean()) @ (x - x.mean(axis=0))) / len(x) / spread if spread else 0 * x[0]
    return -own.mean() * slope


def other_gene(cells: ad.AnnData, gene: str) -> str:
    """The gene whose mean is nearest to that of another."""
    mean = pd.Series(log(cells).mean(axis=0), index=cells.var_names)
    return str((mean - mean[gene]).abs().drop(gene).idxmin())


def scores(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Of changes over the same genes."""
    right = np.sign(found) == np.sign(true)
    r = np.corrcoef(found, true)[0, 1] if np.ptp(found) > 0 else 0.0
    return {"r": r, "signs": right.mean(), "r2": 1 - ((found - true) ** 2).sum() / (true**2).sum()}


def trained(cells: ad.AnnData, args: argparse.Namespace) -> SCGM:
    """A model of control cells."""
    scvi.settings.seed = args.seed
    SCGM.setup_anndata(cells, labels_key=args.label_key)
    model = SCGM(cells)
    model.train(
        max_epochs=args.epochs,
        diffusion_kwargs={"max_steps": args.steps, "seed": args.seed, **QUIET},
        **QUIET,
    )
    return model


def checked(
    model: SCGM, train: ad.AnnData, control: ad.AnnData, real: ad.AnnData, gene: str, args
) -> pd.DataFrame:
    """A row for each method; ``control`` are cells that the model was not trained on."""
    before = log(control).mean(axis=0)
    true = log(real).mean(axis=0) - before
    target = control.var_names.get_loc(gene)
    order = np.argsort(-np.abs(true), kind="stable")
    top = order[order != target][: args.top]
    found = {"regression": regression(train, gene)}
    for what, name in (("knockout", gene), ("other gene", other_gene(train, gene))):
        for strength in args.strengths:
            out = model.edit(
                control,
                genes={name: "knockout"},
                strength=strength,
                copy=True,
                seed=args.seed,
                progress_bar=False,
            )
            edited = ad.AnnData(out.layers["scgm_edited"], var=out.var)
            found[f"{what}, {strength:g}"] = log(edited).mean(axis=0) - before
    one, two = halves(real, args.seed)
    rows = {name: scores(change[top], true[top]) for name, change in found.items()}
    # of halves, each with controls of its own
    own = [log(c).mean(axis=0) for c in halves(control, args.seed + 1)]
    parts = [log(x).mean(axis=0) - c for x, c in zip((one, two), own, strict=True)]
    rows["replicate"] = scores(parts[0][top], parts[1][top])
    table = pd.DataFrame(rows).T.rename_axis("method").reset_index()
    return table.assign(gene=gene, cells=real.n_obs)


def pairs(args: argparse.Namespace) -> tuple[ad.AnnData, Iterator[tuple[str, ad.AnnData]]]:
    """Control cells, and real knock-outs by gene."""
    if args.screen is None:
        control, real = (ad.read_h5ad(path) for path in (args.control, args.knockout))
        shared = control.var_names.intersection(real.var_names)
        if args.gene not in shared:
            raise SystemExit(f"--gene {args.gene}: no gene of both files.")
        return control[:, shared].copy(), iter([(args.gene, real[:, shared].copy())])
    cells = ad.read_h5ad(args.screen)
    target = cells.obs[args.perturbation_key].astype(str)
    counts = target.value_counts()
    names = [g for g in counts.index if g in cells.var_names and counts[g] >= FEWEST]
    names = [g for g in args.genes or names if g in names]
    if not names:
        raise SystemExit(f"--screen: no target is a gene with {FEWEST} cells or more.")
    control = cells[(target == args.control_value).to_numpy()].copy()
    return control, ((g, cells[(target == g).to_numpy()].copy()) for g in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("control", "knockout", "screen", "out"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("gene", "label-key", "perturbation-key", "control-value"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--genes", nargs="+", help="of a screen; default: all targets")
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.5, 0.8])
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    pair = (args.control, args.knockout, args.gene)
    if (args.screen is None) == any(given is None for given in pair):
        parser.error("name --control, --knockout and --gene; or --screen")
    if args.screen is not None and not (args.perturbation_key and args.control_value):
        parser.error("--screen: name --perturbation-key and --control-value too")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    cells, real = pairs(args)
    if not cells.n_obs:
        parser.error(f"--control-value {args.control_value!r}: no such cells")
    train, control = halves(cells, args.seed)
    has_counts = np.asarray(train.X.sum(axis=1)).ravel() > 0
    model = trained(train[has_counts].copy(), args)
    table = pd.concat([checked(model, train, control, x, gene, args) for gene, x in real])
    print(table.set_index(["gene", "method"]).round(3).to_string())
    mean = table.groupby("method", sort=False)[["r", "signs", "r2"]].mean()
    print("\nMean over genes\n", mean.round(3).to_string())
    if args.out is not None:
        table.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
