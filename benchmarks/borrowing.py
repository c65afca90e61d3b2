"""How well responses are borrowed from other groups, and whether that is known beforehand.

    python benchmarks/borrowing.py --data FILE.h5ad --label-key cell_type --condition-key condition \\
        --control control --target stimulated [--n-genes 1000]
    python benchmarks/borrowing.py --cohorts FILE.h5ad [--seeds 0 1 2] [--donors 8] [--cells 120]

In mean log expression, without a model: each group's response is left out in turn and borrowed from
the others by the rule of ``SCGM.edit``, which is chosen without it. R² of the group's mean after the
change: of cells as they are, by the mean shift of the others, borrowed; the correlation of changes;
and the R² that was expected beforehand.

``--cohorts``: donors with and without a drug, made of a file of raw counts. Donors have baselines of
their own, and responses of which a weak part is shared. Counts that go down are thinned, and to those
that go up Poisson counts are added.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from editing import log, prepared
from scipy import sparse
from screens import load_control

from scgm_scvi.metrics._space import values_of
from scgm_scvi.model.prior._borrowing import Groups, choose_borrowing, convex_weights

FEWEST = 10  # cells of a group


def make_cohort(
    cells: AnnData,
    *,
    n_donors: int = 8,
    n_cells: int = 120,
    baseline: float = 0.3,
    shared: float = 0.25,
    own: float = 0.5,
    density: float = 0.15,
    seed: int = 0,
) -> AnnData:
    """Donors with and without a drug.

    Parameters
    ----------
    cells
        Raw counts, drawn with replacement.
    n_donors, n_cells
        How many, and about how many cells of each, with the drug and without.
    baseline, shared, own
        Standard deviations, in log expression, of what is a donor's own before the drug, of the part
        of responses that all share, and of the rest of them.
    density
        Share of genes that respond.
    seed
        Of everything.

    Returns
    -------
    Cells with ``donor`` and ``condition``, ``"none"`` or ``"drug"``, in ``obs``.
    """
    rng = np.random.default_rng(seed)
    x = values_of(cells, list(cells.var_names)).astype(float)
    n_genes, usual = x.shape[1], x.sum(axis=0) / x.sum()

    def response(size: float) -> np.ndarray:
        return size * rng.normal(size=n_genes) * (rng.random(n_genes) < density)

    common, made, obs = response(shared), [], []
    for donor in range(n_donors):
        before = baseline * rng.normal(size=n_genes)
        for condition, change in (("none", before), ("drug", before + common + response(own))):
            n, fold = int(n_cells * np.exp(0.3 * rng.normal())), np.exp(change)
            some = x[rng.integers(0, len(x), n)]
            gain = np.maximum(fold - 1, 0) * (some + usual * some.sum(axis=1, keepdims=True)) / 2
            kept = rng.binomial(some.astype(int), np.minimum(fold, 1))
            made.append(kept + rng.poisson(gain))
            obs += [(f"D{donor}", condition)] * n
    index = [f"cell_{i}" for i in range(len(obs))]
    table = pd.DataFrame(obs, columns=["donor", "condition"], index=index).astype("category")
    counts = sparse.csr_matrix(np.concatenate(made), dtype=np.float32)
    return AnnData(counts, obs=table, var=pd.DataFrame(index=cells.var_names))


def groups_of(data: AnnData, label: str, condition: str, ends: list[str]) -> tuple[list, Groups]:
    """Names and means of the groups that have enough cells at both ends, trusted by their number."""
    of, at = (data.obs[key].astype(str).to_numpy() for key in (label, condition))
    n = {k: min(((of == k) & (at == end)).sum() for end in ends) for k in np.unique(of)}
    names = [k for k, m in n.items() if m >= FEWEST]
    x = log(data)
    means = [np.array([x[(of == k) & (at == end)].mean(axis=0) for k in names]) for end in ends]
    trust = (1 + 10 / np.sqrt([n[k] for k in names])) ** -2
    return names, Groups(*means, trust / trust.sum())


def left_out(names: list[str], groups: Groups) -> pd.DataFrame:
    """A row for each group, its response borrowed from the others."""

    def r2(i: int, change: np.ndarray) -> float:
        after = groups.after[i]
        left = ((after - groups.before[i] - change) ** 2).sum()
        return float(1 - left / ((after - after.mean()) ** 2).sum())

    rows = []
    for i, name in enumerate(names):
        others = groups.without(i)
        rule = choose_borrowing(others)
        if rule is None:
            raise SystemExit(f"{len(names)} groups: at least 4 are needed, to leave one out.")
        weights = convex_weights(groups.before[i], others, rule.ridge)
        shift, found = others.trust @ others.change, rule.size * weights @ others.change
        right = [
            np.corrcoef(x, groups.change[i])[0, 1] if np.ptp(x) > 0 else 0.0 for x in (shift, found)
        ]
        rows.append(
            {
                "group": name,
                "identity": r2(i, np.zeros_like(shift)),
                "mean shift": r2(i, shift),
                "borrowed": r2(i, found),
                "r, mean shift": right[0],
                "r, borrowed": right[1],
                "expected": rule.expected["borrowed"],
                "expected, identity": rule.expected["identity"],
                "size": rule.size,
                "ridge": rule.ridge,
            }
        )
    return pd.DataFrame(rows).set_index("group")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    for name in ("label-key", "condition-key", "control", "target", "split-key"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--cohorts", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--cells", type=int, default=120)
    parser.add_argument("--shared", type=float, default=0.25)
    parser.add_argument("--own", type=float, default=0.5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tables = []
    if args.data is not None:
        data = prepared(ad.read_h5ad(args.data), args)
        total = np.asarray(data.X.sum(axis=0)).ravel()
        data = data[:, np.argsort(-total, kind="stable")[: args.n_genes]].copy()
        ends = [args.control, args.target]
        tables.append(left_out(*groups_of(data, args.label_key, args.condition_key, ends)))
    for seed in args.seeds if args.cohorts is not None else ():
        cohort = make_cohort(
            load_control(args.cohorts, args.n_genes),
            n_donors=args.donors,
            n_cells=args.cells,
            shared=args.shared,
            own=args.own,
            seed=seed,
        )
        tables.append(left_out(*groups_of(cohort, "donor", "condition", ["none", "drug"])))
    if not tables:
        parser.error("name --data or --cohorts")
    for table in tables:
        print(table.round(3).to_string(), "\n\nMean\n", table.mean().round(3).to_string(), "\n")
    every = pd.concat(tables)
    print(
        "correlation of expected and found R²:", every["expected"].corr(every["borrowed"]).round(3)
    )


if __name__ == "__main__":
    main()
