"""Quality of generated cells against the evaluations of the network that a sampler makes.

    python benchmarks/frontier.py --model FOLDER --train F --test F [--ref F] --out FOLDER

A model that is trained already generates the held-out cells' groups by every sampler. Several
splits may share one ``--out``; it goes on where it stopped. A point is
``SAMPLER:STEPS[:GRID[:SIGMA_MIN[:SIGMA_MAX]]]``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from report import markdown, short

from scgm_scvi import SCGM
from scgm_scvi.diffusion import SAMPLERS
from scgm_scvi.metrics import classifier_auc, wasserstein2
from scgm_scvi.metrics._evaluator import Evaluator
from scgm_scvi.metrics._space import Cells, fit_pca, halves, log_normalize, prepare, values_of
from scgm_scvi.model.prior._latent_prior import LatentPrior

EVALUATIONS = {
    **dict.fromkeys(["dpmpp_2m", "euler", "heun"], [4, 6, 8, 10, 12, 16, 20, 30, 50, 100]),
    **dict.fromkeys(["dpmpp_2m_sde", "ancestral"], [10, 20, 50, 100, 200, 1000]),
    "euler_maruyama": [50, 100, 200, 1000],  # with fewer it diverges
    "pc": [1100, 11_000],
}
A_STEP = {"heun": 2, "pc": 22}  # evaluations; one where not named
LONG = 500  # evaluations from which on one seed must do
METRICS = ["rf_auc_pca", "w2", "label_w2"]
KEY = ["split", "sampler", "n_steps", "grid", "sigma_min", "sigma_max", "seed"]
PANELS = {"rf_auc_pca": "rf_auc_pca (0.5 is ideal)", "w2": "w2 / floor (1 is ideal)"}
COLOURS = {name: f"C{i}" for i, name in enumerate(SAMPLERS)}


@dataclass(frozen=True)
class Point:
    """A sampler with a grid; what is empty is the sampler's own."""

    sampler: str
    n_steps: int
    grid: str = ""
    sigma_min: float = np.nan
    sigma_max: float = np.nan

    @classmethod
    def parse(cls, text: str) -> Point:
        sampler, n_steps, *grid = text.split(":")
        return cls(sampler, int(n_steps), *grid[:1], *map(float, grid[1:]))

    @property
    def kwargs(self) -> dict[str, Any]:
        """What ``generate`` is told of it."""
        grid = {k: getattr(self, k) for k in ("grid", "sigma_min", "sigma_max")}
        given = {k: v for k, v in grid.items() if v != "" and v == v}
        return {"sampler": self.sampler, "n_steps": self.n_steps, "sampling_kwargs": given}

    @property
    def is_long(self) -> bool:
        return self.n_steps * A_STEP.get(self.sampler, 1) > LONG


def default_points() -> list[Point]:
    """Every sampler's, cheap ones first; a sampler that is not known here gets a few."""
    points = []
    for name in SAMPLERS:
        a_step = A_STEP.get(name, 1)
        points += [
            Point(name, (n + 1) // 2 if name == "heun" else n // a_step)
            for n in EVALUATIONS.get(name, [20, 50, 100])
        ]
    return sorted(points, key=lambda p: p.n_steps * A_STEP.get(p.sampler, 1))


class Scale(Evaluator):
    """The few metrics of ``evaluate_generation`` that are asked for here, and none beside them."""

    @classmethod
    def of(cls, test: ad.AnnData, ref: ad.AnnData, label_key: str, n_max: int = 2000) -> Scale:
        features = list(test.var_names)
        pca = fit_pca(log_normalize(values_of(ref, features)), 30)
        real = prepare(test, features, pca, label_key, "test")
        half = halves(real.label, np.random.default_rng(0))
        scale = cls(real=real, train=None, half=half, seed=0, n_max=n_max)
        scale.prepare = lambda a: prepare(a, features, pca, label_key, "cells")
        return scale

    def _two_sample(
        self, x: Cells, y: Cells, bandwidth2: float, *, within: bool
    ) -> dict[str, float]:
        auc = classifier_auc(x.pca, y.pca, seed=self.seed)
        return {"rf_auc_pca": auc, "w2": wasserstein2(x.pca, y.pca)}

    def score(self, cells: ad.AnnData | None) -> dict[str, float]:
        """Metrics of cells; ``None``: of one half of the real ones against the other."""
        other = None if cells is None else self.prepare(cells)
        return self._two_samples(other, self.real, self.half, self.n_max)


class Meter:
    """Counts a model's evaluations a cell, and the CPU-seconds in which it samples latents."""

    def __init__(self, model: SCGM):
        self.rows, self.seconds = 0, 0.0
        sample = LatentPrior.sample

        def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
            start = time.process_time()
            state = sample(*args, **kwargs)
            self.seconds += time.process_time() - start
            return state

        def count(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self.rows += len(args[0])

        LatentPrior.sample = timed
        model.module.denoiser.register_forward_pre_hook(count)

    def read(self, n_cells: int) -> dict[str, float]:
        """Since it was last read."""
        out = {
            "evaluations": round(self.rows / n_cells),
            "latents_per_second": n_cells / self.seconds if self.seconds else np.nan,
        }
        self.rows, self.seconds = 0, 0.0
        return out


def measure(
    model: SCGM, test: ad.AnnData, scale: Scale, points: list[Point], seeds: list[int], **fixed: Any
) -> None:
    """Add a row a point and seed to ``fixed["path"]``, of those that it does not hold."""
    path, split, label_key = fixed["path"], fixed["split"], fixed["label_key"]
    meter, floor = Meter(model), None
    done = set()
    if path.exists():
        rows = read_rows(path)
        done = {tuple(map(str, row)) for row in rows[KEY].itertuples(index=False)}
    for point in points:
        for seed in seeds[:1] if point.is_long else seeds:
            key = (split, *vars(point).values(), seed)
            if tuple(map(str, key)) in done:
                continue
            floor = floor or {f"{k}_floor": v for k, v in scale.score(None).items()}
            try:
                cells = model.generate(
                    conditions=test.obs[[label_key]], seed=seed, progress_bar=False, **point.kwargs
                )
                scores = scale.score(cells)
            except (RuntimeError, ValueError) as error:  # too few steps: cells are lost
                print(f"{point}: {str(error)[:200]}")
                scores = dict.fromkeys(METRICS, np.nan)
            cost = meter.read(test.n_obs)
            row = dict(zip(KEY, key, strict=True)) | cost | scores | floor
            pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
            print(", ".join(f"{k} {v:.4g}" if k in METRICS else f"{v}" for k, v in row.items()))


def line_name(row: pd.Series) -> str:
    """The sampler, with its grid where that is not its own."""
    parts = [row["sampler"], row["grid"]]
    if row["sigma_min"] == row["sigma_min"] or row["sigma_max"] == row["sigma_max"]:
        low, high = ("…" if v != v else f"{v:g}" for v in (row["sigma_min"], row["sigma_max"]))
        parts.append(f"{low} to {high}")
    return " ".join(p for p in parts if p)


def read_rows(path: Path) -> pd.DataFrame:
    """What was measured so far; a point without a grid has an empty one."""
    rows = pd.read_csv(path)
    rows["grid"] = rows["grid"].astype(object).fillna("")  # a column of none is read as numbers
    return rows


def averages(path: Path) -> pd.DataFrame:
    """Means over seeds, and errors of the means, with ``/floor`` columns."""
    rows = read_rows(path)
    rows["line"] = rows.apply(line_name, axis=1)
    for metric in ("w2", "label_w2"):
        rows[f"{metric}/floor"] = rows[metric] / rows[f"{metric}_floor"]
    groups = rows.groupby(["split", "line", "sampler", "n_steps", "evaluations"], sort=False)
    out = groups.mean(numeric_only=True)
    for metric in ("rf_auc_pca", "w2/floor"):
        out[f"{metric} error"] = groups[metric].sem()
    out["seeds"] = groups.size()
    order = {name: i for i, name in enumerate(SAMPLERS)}
    out = out.reset_index()
    out["order"] = out["sampler"].map(order)
    return out.sort_values(["split", "order", "line", "evaluations"]).reset_index(drop=True)


def table(means: pd.DataFrame) -> str:
    """A table a split, in Markdown."""
    blocks = ["# Quality against network evaluations"]
    for split, rows in means.groupby("split"):
        rows = rows.dropna(subset="w2/floor")  # of a sampler that failed
        if rows.empty:
            continue
        best = rows.loc[rows["w2/floor"].idxmin()]
        head = ["sampler", "evaluations", *METRICS[:1], "w2/floor", "label_w2/floor", "latents/s"]
        lines = [[*head, "seeds"]]
        for _, r in rows.iterrows():
            auc, w2 = f"{r['rf_auc_pca']:.3f}", f"{r['w2/floor']:.3f}"
            if r["seeds"] > 1:
                auc += f" ± {r['rf_auc_pca error']:.3f}"
                w2 += f" ± {r['w2/floor error']:.3f}"
            rest = [
                f"{r['label_w2/floor']:.3f}",
                short(r["latents_per_second"]),
                f"{r['seeds']}",
            ]
            lines.append([r["line"], f"{r['evaluations']:,}", auc, w2, *rest])
        blocks += [
            f"## {split}",
            f"Floors: rf_auc_pca {best['rf_auc_pca_floor']:.3f}, w2 {best['w2_floor']:.3f}. "
            f"Best w2/floor: {best['w2/floor']:.3f} by {best['line']} with "
            f"{best['evaluations']:,} evaluations. ± is the error of the mean of the seeds.",
            markdown(lines),
        ]
    return "\n\n".join(blocks) + "\n"


def draw(means: pd.DataFrame) -> Figure:
    """A row of panels a split, a line a sampler, and real cells against real ones."""
    splits = list(dict.fromkeys(means["split"]))
    figure, axes = plt.subplots(
        len(splits),
        len(PANELS),
        figsize=(9, 0.9 + 2.9 * len(splits)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    for row, split in zip(axes, splits, strict=True):
        of_split = means[means["split"] == split]
        for ax, (metric, title) in zip(row, PANELS.items(), strict=True):
            column = "w2/floor" if metric == "w2" else metric
            floor = 1.0 if metric == "w2" else of_split["rf_auc_pca_floor"].mean()
            ax.axhline(floor, color="0.3", lw=1.2, zorder=0, label="real against real")
            for line, points in of_split.groupby("line", sort=False):
                ax.errorbar(
                    points["evaluations"],
                    points[column],
                    points[f"{column} error"].fillna(0),
                    label=line,
                    color=COLOURS[points["sampler"].iloc[0]],
                    ls="-" if line in SAMPLERS else "--",
                    marker="o" if line in SAMPLERS else "D",
                    ms=4,
                    lw=1.4,
                )
            # what few steps spoil must not squeeze what matters
            good = of_split[column].min()
            top = good + 4 * max(of_split[column].median() - good, 0.02)
            ax.set_ylim(
                min(floor, good) - 0.02, max(min(top, of_split[column].max() + 0.02), floor)
            )
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.set_title(f"{split}: {title}", fontsize=10, loc="left")
            ax.grid(color="0.93")
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
            handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    for ax in axes[-1]:
        ax.set_xlabel("evaluations of the network")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    plt.close(figure)
    return figure


def report(path: Path) -> str:
    """Write the table and the figure beside the CSV; give the table."""
    means = averages(path)
    text = table(means)
    path.with_suffix(".md").write_text(text)
    draw(means).savefig(path.with_suffix(".png"), dpi=150, bbox_inches="tight")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder that SCGM.save wrote")
    parser.add_argument("--train", type=Path, help="its training cells")
    parser.add_argument("--test", type=Path, help="held-out cells")
    parser.add_argument("--ref", type=Path, help="cells for the PCA; default: the training cells")
    parser.add_argument("--label-key", default="group", help="column of obs to generate by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--points", type=Point.parse, nargs="+", help="default: every sampler's")
    parser.add_argument("--report-only", action="store_true", help="rebuild table and figure")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "frontier.csv"
    if not args.report_only:
        if not (args.model and args.train and args.test):
            parser.error("name --model, --train and --test.")
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        test = ad.read_h5ad(args.test)
        scale = Scale.of(test, ad.read_h5ad(args.ref or args.train), args.label_key)
        measure(
            SCGM.load(args.model, adata=False),
            test,
            scale,
            args.points or default_points(),
            args.seeds,
            path=path,
            split=args.train.stem.removesuffix("_train"),
            label_key=args.label_key,
        )
    if not path.exists():
        raise SystemExit(f"{path} is not there: there is nothing to report.")
    print(report(path))


if __name__ == "__main__":
    main()
