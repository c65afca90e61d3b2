"""Several generators on one data set, with the same held-out cells."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from scgm_scvi._errors import listed, nearest
from scgm_scvi.metrics import evaluate_generation

from ._generators import Method, gaussian_copula, negative_binomial, pca_gaussian
from ._scgm import scgm
from ._scvi import scvi as scvi_gaussian
from ._split import Split, split_cells

__all__ = ["GENERATORS", "Comparison", "compare_generators"]

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

_NO_NEW_CELLS = "posterior predictive"  # decoded training cells: a ceiling, no generator


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare_generators` found.

    ``table`` is that of :func:`~scgm_scvi.metrics.evaluate_generation` with the column ``seed``
    before the others; ``costs`` has wall-clock seconds of training and of generation by seed and
    method; ``cells`` are those of the first seed by method; ``failures`` say which generators
    failed, and how.
    """

    labels_key: str
    split: Split
    table: pd.DataFrame
    costs: pd.DataFrame
    cells: dict[str, AnnData]
    failures: dict[str, str]


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
    names = list(GENERATORS) if generators is None else list(dict.fromkeys(generators))
    for name in names:
        if name not in GENERATORS:
            raise ValueError(
                f"generators: {name!r} is none.{nearest(name, GENERATORS)} There are: "
                f"{listed(GENERATORS)}."
            )
    seeds = list(dict.fromkeys(int(s) for s in seeds))
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
                except Exception as error:  # noqa: BLE001 - of any library; the others go on
                    failures.setdefault(name, f"{type(error).__name__}: {error}")
                else:
                    cells |= made
                    costs += [{"seed": seed, **row} for row in cost]
                bar.update()
            if cells:
                tables.append(_scores(cells, split, labels_key, seed))
            first = first or cells
    if not tables:
        raise RuntimeError(
            "all generators failed: " + "; ".join(f"{k}: {v}" for k, v in failures.items())
        )
    table = pd.concat(tables, ignore_index=True)
    return Comparison(labels_key, split, table, pd.DataFrame(costs), first, failures)


def _run(
    name: str, split: Split, key: str, seed: int, quick: bool
) -> tuple[dict[str, AnnData], list[dict[str, object]]]:
    """Cells of the methods of a generator, and what they cost."""
    start = time.perf_counter()
    methods = GENERATORS[name](split.train, key, seed, quick)
    trained = time.perf_counter() - start
    cells, costs = {}, []
    for method, generate in methods.items():
        if _NO_NEW_CELLS in method:
            continue
        start = time.perf_counter()
        cells[method] = generate(split.test.obs[[key]], seed)
        made = time.perf_counter() - start
        costs.append({"method": method, "train_seconds": trained, "generate_seconds": made})
    return cells, costs


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
    setting = scvi.settings.seed
    numpy_state, own_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            scvi.settings.seed = setting
            np.random.set_state(numpy_state)
            random.setstate(own_state)
