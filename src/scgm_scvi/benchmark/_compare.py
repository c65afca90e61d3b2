"""Several generators on one data set, with the same held-out cells."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from tqdm.auto import tqdm

from scgm_scvi._errors import listed, nearest
from scgm_scvi.metrics import evaluate_generation
from scgm_scvi.metrics._space import require_counts
from scgm_scvi.model._random_state import random_state_kept

from ._generators import Method, gaussian_copula, negative_binomial, pca_gaussian
from ._scgm import scgm
from ._scvi import scvi as scvi_gaussian
from ._split import Split, split_cells

__all__ = ["FLOOR", "GENERATORS", "TRAIN_FLOOR", "Comparison", "compare_generators"]

GENERATORS: dict[str, Callable[[AnnData, str, int, bool], dict[str, Method]]] = {
    "scgm": scgm,
    "scvi": scvi_gaussian,
    "gaussian_copula": gaussian_copula,
    "negative_binomial": negative_binomial,
    "pca_gaussian": pca_gaussian,
}
"""Generators by name. Each is a function of training cells, the column of their types, a seed and
whether to be quick, that trains what its methods share, and gives the methods by name: functions of
conditions (a data frame, a cell a row) and a seed that give the cells as counts. To add one, enter
it here."""

# decoded training cells: ceilings, no generators
_NO_NEW_CELLS = {"SCGM posterior predictive", "scVI posterior predictive"}


FLOOR, TRAIN_FLOOR = "real against real (floor)", "training cells handed back"
RESERVED = {FLOOR, TRAIN_FLOOR, "real", "held_out"}  # names that mean something on the page


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare_generators` found.

    ``table`` is that of :func:`~scgm_scvi.metrics.evaluate_generation` with the column ``seed``
    before the others; ``costs`` has wall-clock seconds of training and of generation by seed and
    method; ``cells`` are those of the first seed that gave any, by method; ``failures`` say which
    runs failed, and how; ``quick`` whether training was cut short, so that scores mean nothing.
    """

    labels_key: str
    split: Split
    table: pd.DataFrame
    costs: pd.DataFrame
    cells: dict[str, AnnData]
    failures: dict[str, str]
    quick: bool = False


def compare_generators(
    adata: AnnData,
    labels_key: str,
    *,
    generators: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    n_top_genes: int = 2000,
    max_cells: int = 20_000,
    quick: bool = False,
    progress_bar: bool = True,
) -> Comparison:
    """Train generators on half of the cells, and compare what they make with held-out cells.

    Every generator is asked for the types of the held-out cells, and measured beside the same
    floors. One that fails is reported, and the others go on.

    Parameters
    ----------
    adata
        Raw counts and cell types. It is not changed.
    labels_key, layer, n_top_genes, max_cells
        As of :func:`~scgm_scvi.benchmark.split_cells`.
    generators
        Names in :data:`GENERATORS`. Default: all.
    seeds
        Of training and generation, one run each; the first one is also the split's.
    quick
        Train for a moment only: shows that everything runs, not how good it is.
    progress_bar
        Whether to show one.

    Returns
    -------
    A :class:`~scgm_scvi.benchmark.Comparison`; :func:`~scgm_scvi.benchmark.write_page` makes a page
    of it.

    Raises
    ------
    KeyError
        If the column or the layer is missing.
    ValueError
        If a generator has another name, no seed is given, or the cells can't be split.
    RuntimeError
        If all generators fail.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> found = scgm_scvi.benchmark.compare_generators(
    ...     adata, "cell_type", generators=["gaussian_copula"], n_top_genes=100, progress_bar=False
    ... )
    >>> table = found.table.set_index(["condition", "metric"])
    >>> bool(table.loc[("all", "mean_pearson"), "value"] > 0.9)
    True
    """
    generators = [generators] if isinstance(generators, str) else generators
    names = list(GENERATORS) if generators is None else list(dict.fromkeys(generators))
    for name in names:
        if name not in GENERATORS:
            raise ValueError(
                f"generators: {name!r} is none.{nearest(name, GENERATORS)} There are: "
                f"{listed(GENERATORS)}."
            )
    seeds = _whole_seeds(seeds)
    if not names or not seeds:
        raise ValueError("generators and seeds must each name at least one.")
    split = split_cells(
        adata,
        labels_key,
        **{"layer": layer, "n_top_genes": n_top_genes, "max_cells": max_cells, "seed": seeds[0]},
    )
    tables, costs, failures = [], [], {}
    first: dict[str, AnnData] = {}
    with (
        _global_state_kept(),
        tqdm(total=len(names) * len(seeds), disable=not progress_bar, desc="Comparing") as bar,
    ):
        for seed in seeds:
            cells: dict[str, AnnData] = {}
            for name in names:
                bar.set_postfix_str(f"{name}, seed {seed}")
                try:
                    made, cost = _run(name, split, labels_key, seed, quick)
                    if twice := set(made) & set(cells):
                        raise ValueError(f"another generator has the method {listed(twice)}")
                except Exception as error:  # noqa: BLE001 - of any library; the others go on
                    failures[f"{name}, seed {seed}"] = f"{type(error).__name__}: {error}"
                else:
                    cells |= made
                    costs += [{"seed": seed, **row} for row in cost]
                bar.update()
            if cells:
                tables.append(_scores(cells, split, labels_key, seed))
            first = cells | first
    if not tables:
        raise RuntimeError(
            "all generators failed: " + "; ".join(f"{k}: {v}" for k, v in failures.items())
        )
    table = pd.concat(tables, ignore_index=True)
    return Comparison(labels_key, split, table, pd.DataFrame(costs), first, failures, quick)


def _run(
    name: str, split: Split, key: str, seed: int, quick: bool
) -> tuple[dict[str, AnnData], list[dict[str, object]]]:
    """Cells of the methods of a generator, and what they cost."""
    start = time.perf_counter()
    # a copy: whatever it does to its cells, the others have theirs
    methods = GENERATORS[name](split.train.copy(), key, seed, quick)
    trained = time.perf_counter() - start
    if not methods:
        raise ValueError("it gives no method")
    cells, costs = {}, []
    for method, generate in methods.items():
        if method in _NO_NEW_CELLS:
            continue
        start = time.perf_counter()
        found = generate(split.test.obs[[key]].copy(), seed)
        made = time.perf_counter() - start
        cells[method] = _checked(found, method, split)
        costs.append({"method": method, "train_seconds": trained, "generate_seconds": made})
    return cells, costs


def _whole_seeds(seeds: Sequence[int]) -> list[int]:
    try:
        seeds = [operator.index(s) for s in seeds]
    except TypeError:
        raise ValueError(f"seeds is {seeds!r}; it must be a list of whole numbers.") from None
    if negative := [s for s in seeds if s < 0]:
        raise ValueError(f"seeds holds {negative[0]}; none may be below 0.")
    return list(dict.fromkeys(seeds))


def _checked(cells: AnnData, method: str, split: Split) -> AnnData:
    """A generator's answer with the types that were asked for; refused if it can't be compared."""
    asked = split.test
    if method in RESERVED:
        raise ValueError(f"a method can't be called {method!r}")
    if not isinstance(cells, AnnData):
        raise TypeError(f"{method} gives {type(cells).__name__}, and an AnnData is needed")
    if cells.n_obs != asked.n_obs or list(cells.var_names) != list(asked.var_names):
        raise ValueError(
            f"{method} gives {cells.n_obs} cells of {cells.n_vars} genes, and {asked.n_obs} of the "
            f"{asked.n_vars} genes of its training cells, in their order, were asked for"
        )
    counts = sparse.csr_matrix(cells.X, dtype=np.float32)
    require_counts(counts.data, method)
    return AnnData(counts, obs=asked.obs.copy(), var=asked.var.copy())


def _scores(cells: dict[str, AnnData], split: Split, key: str, seed: int) -> pd.DataFrame:
    table = evaluate_generation(
        cells,
        split.test,
        train=split.train,
        pca_reference=split.reference,
        condition_key=key,
    )
    table.insert(0, "seed", seed)
    return table


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """Put back what training seeds: scvi-tools' setting, torch's, numpy's and Python's states."""
    setting, cudnn = scvi.settings.seed, torch.backends.cudnn
    flags, environment = (cudnn.deterministic, cudnn.benchmark), dict(os.environ)
    with random_state_kept(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        try:
            yield
        finally:
            scvi.settings.seed = setting
            cudnn.deterministic, cudnn.benchmark = flags
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
