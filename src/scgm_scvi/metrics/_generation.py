"""Generated cells against real ones that no model has seen, with the floor that real cells set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from ._differential_expression import DE_METRICS
from ._evaluator import TWO_SAMPLE_METRICS, Evaluator, Measured
from ._lsi import LatentSemanticSpace
from ._space import (
    ALL,
    LEAST_CELLS,
    Cells,
    counts_of,
    fit_pca,
    groups_of,
    halves,
    log_normalize,
    prepare,
    require_key,
    shared_features,
)

__all__ = ["evaluate_generation"]

_TWO_SAMPLE = (
    *("rf_auc_gene", "rf_auc_pca", "w2", "mmd2", "lisi", "gcorr_pearson"),
    *("mean_pearson", "depth_ks"),
    *("precision", "recall", "density", "coverage"),
)
_CENTRED_ON_ZERO = ("mmd2", "dup_frac")
_COLUMNS = ["condition", "metric", "value", "floor", "train_floor", "ratio", "n"]


def evaluate_generation(
    generated: AnnData | Mapping[str, AnnData],
    real: AnnData,
    *,
    train: AnnData | None = None,
    pca_reference: AnnData | None = None,
    condition_key: str | None = None,
    per_condition: bool = False,
    space: Literal["log", "lsi"] = "log",
    n_pcs: int = 30,
    n_max: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare generated cells with held-out real ones.

    The real cells are cut into two halves, stratified by condition. Every two-sample metric is
    the mean over the halves of half against as many generated cells; its *floor* is one half
    against the other, which is what a perfect generator scores; its *train floor* is what the
    training cells score when handed back.

    Parameters
    ----------
    generated
        Raw counts in ``X``, with the composition of ``real`` and at least as many cells: with
        fewer the floor is that of more cells, which is lower. Or several methods by name, all
        against the same floors, which are computed once.
    real
        Raw counts in ``X`` of cells the model was not trained on. All objects are compared on the
        features they share.
    train
        The training cells. With them come ``nn_ratio`` (median distance to the nearest training
        cell over that of held-out cells: well below 1 is memorising), ``dup_frac``, and,
        with ``condition_key``, ``cond_acc`` (a classifier trained on them finds the condition
        that was asked for).
    pca_reference
        Real cells, best of neither set, on which the PCA is fitted; default ``train``, or
        ``real``. A PCA fits the noise of its own few cells: fitted on ``real``, even a perfect
        generator scores worse than the floor in it.
    condition_key
        Column of ``obs`` with the condition that cells were generated for; adds ``label_w2``,
        ``cond_acc``, ``tstr_f1`` (train on generated, test on real), and in ``"log"`` the metrics
        of differential expression, ``de_slope`` and those after it.
    per_condition
        Add the rows of each condition that is held out or generated: the metrics above within it,
        but for ``label_w2`` and ``tstr_f1``; ``cond_acc`` is the share of its cells that the
        classifier finds there. Value and floor are of the same number of cells, also where fewer
        were generated; the train floor is of fewer where fewer were trained on. Metrics of few
        cells are noisy: read ``n``. They are NaN below 10 cells a side, those of forests below
        50, and ``cond_acc`` of a condition not trained on.
    space
        What the cells are compared in.

        - ``"log"``: log1p of counts per 10,000, and its principal components
        - ``"lsi"``, for accessibility, where nearly all counts are 0 or 1: components are the
          singular vectors of log1p of 10,000 times TF-IDF, without the first, which follows the
          cells' depth. TF is a feature's share of the cell's counts, IDF is log1p of the number
          of cells over the feature's counts, as the PCA fitted on ``pca_reference``.
          ``rf_auc_gene`` and ``gcorr_pearson`` are told only whether features are open (above 0),
          the former of the 5,000 most variable ones of ``train``, or ``real``. Stays sparse.
    n_pcs
        Number of components.
    n_max
        At most so many cells on a side.
    seed
        Of halves, subsamples and forests.

    Returns
    -------
    DataFrame of one row a condition and metric, the overall ones first. ``mean_pearson`` is the
    correlation of the features' means: of log counts, or in ``"lsi"`` of all features' shares of
    cells in which they are open. The columns are

    - ``method``, of several
    - ``condition``: ``"all"``, or the name of one
    - ``metric``
    - ``value``, ``floor``, and ``train_floor``, NaN without ``train``
    - ``ratio``: value over floor; NaN where the floor is 0, and for ``mmd2`` and ``dup_frac``,
      which are 0 at best
    - ``n``: the number of cells on each side

    Notes
    -----
    Differential expression is that of each condition against the rest, by
    :func:`~scgm_scvi.metrics.differential_expression` at a false discovery rate of .05. A half of
    the real cells decides: :math:`D` are the pairs of condition and gene that differ in it, with
    log-fold changes :math:`x`; :math:`D'` and :math:`y` are of the other sample, which has as many
    cells of each condition, so that it finds as many genes by itself. The overall rows are of all
    pairs together. A condition of fewer than 10 cells a side is only among the rest of the others.

    - ``de_slope``: least-squares slope of :math:`y` on :math:`x` over :math:`D`. Below its floor,
      effects are too weak; above it, exaggerated. The floor is below 1 itself: the changes of a
      half are noisy, and :math:`D` was chosen where this noise made them larger.
    - ``de_jaccard``: :math:`|D \cap D'| / |D \cup D'|`
    - ``de_nmae``: mean of :math:`|y - x|` over :math:`D` over that of :math:`|x|`; 1 where there
      is no effect
    - ``de_n_ratio``: :math:`|D'| / |D|`, its floor 1 by definition. Above, conditions are told
      apart too easily, as where the cells of a type are all too typical.

    Peaks are left out: what is open in a cell goes by its depth as much as by its type, and the
    rank-sum test does not know of depth.

    Raises
    ------
    ValueError
        If the objects share no features, hold values that are no counts, or are too small to be
        halved; if conditions are to be listed without a ``condition_key``, or one is named
        ``"all"``; if ``space`` is none of the two.
    KeyError
        If ``condition_key`` is missing from one of them.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> table = scgm_scvi.metrics.evaluate_generation(
    ...     adata[::3], adata[1::3], pca_reference=adata[2::3], n_pcs=10
    ... )
    >>> value = table.set_index("metric")["value"]
    >>> bool(abs(value["rf_auc_pca"] - 0.5) < 0.1)
    True
    """
    if space not in ("log", "lsi"):
        raise ValueError(f"space: {space!r} is not one of 'log' and 'lsi'.")
    several = isinstance(generated, Mapping)
    methods = {str(k): a for k, a in generated.items()} if several else {"": generated}
    if not methods:
        raise ValueError("generated holds no methods: give at least one, as {name: AnnData}.")
    named = {f"generated[{k!r}]" if several else "generated": a for k, a in methods.items()}
    objects = {**named, "real": real, **({} if train is None else {"train": train})}
    conditions = _conditions(objects, condition_key, per_condition)
    features = shared_features(
        {**objects, **({} if pca_reference is None else {"pca_reference": pca_reference})},
        first="real" if train is None else "train",
    )
    for name, a in named.items():
        if min(a.n_obs, real.n_obs) < 4 * LEAST_CELLS:
            raise ValueError(
                f"{a.n_obs} {name} and {real.n_obs} real cells: at least "
                f"{4 * LEAST_CELLS} of each are needed."
            )
    prepared = _preparation(objects, pca_reference, features, condition_key, space, n_pcs)
    held_out = prepared(real, "real")
    evaluator = Evaluator(
        real=held_out,
        train=None if train is None else prepared(train, "train"),
        half=halves(held_out.label, np.random.default_rng(seed)),
        seed=seed,
        n_max=n_max,
    )
    floors: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    tables = []
    for method, (name, a) in zip(methods, named.items(), strict=True):
        cells = evaluator.measure(prepared(a, name))
        table = _table(cells, evaluator, conditions, floors)
        if several:
            table.insert(0, "method", method)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _preparation(
    objects: dict[str, AnnData],
    pca_reference: AnnData | None,
    features: list[str],
    key: str | None,
    space: str,
    n_pcs: int,
) -> Callable[[AnnData, str], Cells]:
    """Fit the space; a function of an object and its name that puts cells into it."""
    basis = "train" if "train" in objects else "real"
    name = basis if pca_reference is None else "pca_reference"
    reference = {"pca_reference": pca_reference, **objects}[name]
    if space == "lsi":
        lsi = LatentSemanticSpace.fit((name, reference), (basis, objects[basis]), features, n_pcs)
        return lambda adata, name: lsi.cells(adata, key, name)
    pca = fit_pca(log_normalize(counts_of(reference, features, name)), n_pcs)
    return lambda adata, name: prepare(adata, features, pca, key, name)


def _conditions(objects: dict[str, AnnData], key: str | None, per_condition: bool) -> list[str]:
    """Names of the conditions to be listed; those of training cells alone are not."""
    if key is None:
        if per_condition:
            raise ValueError("per_condition needs a condition_key: name the column of obs.")
        return []
    require_key(objects, key, "condition_key")
    listed = {name: a for name, a in objects.items() if name != "train"}
    groups = groups_of(listed, key, "condition_key")  # refuses one that is called as all cells are
    return groups if per_condition else []


def _table(
    candidate: Measured,
    evaluator: Evaluator,
    conditions: list[str],
    floors: dict[tuple[str, int], dict[str, dict[str, float]]],
) -> pd.DataFrame:
    """Rows of one method; ``floors`` keeps what real cells score, by condition and size."""
    train = evaluator.measured_train
    n_all = min(evaluator.n_max, len(candidate.cells) // 2, int(np.bincount(evaluator.half).min()))
    memorization = [] if train is None else ["nn_ratio", "dup_frac"]
    accuracy = [] if train is None or not evaluator.has_conditions else ["cond_acc"]
    supervised = ["label_w2", *accuracy, "tstr_f1"] if evaluator.has_conditions else []
    if (ALL, 0) not in floors:
        floors[ALL, 0] = {
            "floor": evaluator.overall(None),
            "train_floor": {} if train is None else evaluator.overall(train),
        }
    scores = {"value": evaluator.overall(candidate), **floors[ALL, 0]}
    tables = [
        _rows(ALL, [*_TWO_SAMPLE, *TWO_SAMPLE_METRICS, *supervised, *memorization], scores, n_all)
    ]
    for condition in conditions:
        n = evaluator.n_within(candidate.cells, condition)
        if (condition, n) not in floors:
            floors[condition, n] = {
                "floor": evaluator.within(None, condition, n),
                "train_floor": {} if train is None else evaluator.within(train, condition, n),
            }
        scores = {"value": evaluator.within(candidate, condition, n), **floors[condition, n]}
        tables.append(
            _rows(
                condition, [*_TWO_SAMPLE, *TWO_SAMPLE_METRICS, *accuracy, *memorization], scores, n
            )
        )
    if evaluator.contrasts is not None:
        n_of, scores = evaluator.contrasts.scores(candidate.cells)
        for i, condition in enumerate([ALL, *conditions]):
            found = {column: of.get(condition, {}) for column, of in scores.items()}
            rows = _rows(condition, list(DE_METRICS), found, n_of.get(condition, 0))
            tables[i] = pd.concat([tables[i], rows])
    return pd.concat(tables, ignore_index=True)


def _rows(
    condition: str, metrics: list[str], scores: dict[str, dict[str, float]], n: int
) -> pd.DataFrame:
    table = pd.DataFrame({"condition": condition, "metric": metrics, "n": n})
    for column, found in scores.items():
        table[column] = [found.get(m, float("nan")) for m in metrics]
    no_ratio = (table["floor"] == 0) | table["metric"].isin(_CENTRED_ON_ZERO)
    table["ratio"] = table["value"] / table["floor"].mask(no_ratio)
    return table[_COLUMNS]
