"""Predicted perturbed cells against real ones, beside the baselines a prediction has to beat."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import whole_number

from ._distances import median_bandwidth2
from ._response import RESPONSE_METRICS, Response
from ._space import (
    ALL,
    LEAST_CELLS,
    Cells,
    counts_of,
    fit_pca,
    groups_of,
    halves,
    log_normalize,
    require_key,
    shared_features,
    subsample,
    values_of,
)

__all__ = ["evaluate_perturbation"]

_HIGHEST = np.log1p(1e4)  # that log1p of counts per 10,000 can be
_CANDIDATES = ("value", "floor", "control", "mean_shift")


def evaluate_perturbation(
    predicted: AnnData,
    real: AnnData,
    control: AnnData,
    *,
    condition_key: str | None = None,
    shift_from: tuple[AnnData, AnnData] | None = None,
    predicted_expression: Literal["counts", "log1p"] = "counts",
    pca_reference: AnnData | None = None,
    n_top: int = 100,
    n_pcs: int = 30,
    n_max: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare predicted perturbed cells with real ones, and with what is got for nothing.

    Real and control cells are cut into halves. For each half of the real cells, with a half of
    the control cells as the reference of changes, as many cells each are scored in their place:

    - ``value``: predicted cells
    - ``floor``: the other half of the real cells, which is what a perfect prediction scores
    - ``control``: the other half of the control cells, as they are
    - ``mean_shift``: those control cells plus, gene by gene, the difference of the means of other
      perturbed and control cells

    The numbers are means over the halves. The metrics, in log1p of counts per 10,000:

    - ``r2_mean``: coefficient of determination of the mean expression of genes. Not the square of
      Pearson's correlation, which forgives a wrong scale; negative where predicting one number
      for all genes is better.
    - ``r2_mean_top``: the same on the ``n_top`` genes that differ most between real and control
      cells, by Welch's t, among those detected in 5% of either.
    - ``pearson_delta``: Pearson correlation over genes of predicted and real change of the mean.
    - ``de_overlap``: share of the ``n_top`` genes that are also among the ``n_top`` of predicted
      against control cells.
    - ``de_direction``: share of them that change in the right direction.
    - ``de_logfc_pearson``: Pearson correlation over them of the changes, which are log fold
      changes of geometric means.
    - ``e_distance``, ``mmd2``, ``w2``: between predicted and real cells in principal components;
      see :func:`~scgm_scvi.metrics.energy_distance`, :func:`~scgm_scvi.metrics.mmd2` (median
      bandwidth) and :func:`~scgm_scvi.metrics.wasserstein2`.
    - ``variance_ratio``: variance of predicted over real cells, summed over genes; below 1 cells
      are too alike, which means cannot tell.

    Parameters
    ----------
    predicted
        Cells predicted to be like ``real``.
    real, control
        Raw counts in ``X`` of perturbed cells the model was not trained on, and of unperturbed
        ones. All objects are compared on the features they share, and counts normalised on them.
    condition_key
        Column of ``obs`` in all three, such as the cell type: adds the rows of each group. The
        rows of all cells compare pooled cells, so the three should be composed alike.
    shift_from
        Raw counts of control and of perturbed cells, in this order, that a prediction may learn
        from: those of other cell types or donors, none of ``real``. Without them
        ``mean_shift`` is NaN.
    predicted_expression
        What ``predicted.X`` holds: raw counts, or log1p of counts per 10,000, taken as it is.
    pca_reference
        Raw counts of real perturbed and control cells, none of them compared here, on which the
        PCA is fitted; it would fit the noise of cells that are compared and set them apart.
        Default: a fifth of ``real`` and ``control``, which is then left out of everything else,
        and ``shift_from``.
    n_top
        Number of genes called different.
    n_pcs
        Number of principal components.
    n_max
        At most so many cells a side.
    seed
        Of halves and subsamples.

    Returns
    -------
    DataFrame with the columns ``condition`` (``"all"`` first), ``metric``, ``value``, ``floor``,
    ``control``, ``mean_shift``, and ``n``, the number of cells a side. Numbers of few cells are
    noisy; below 10 they are NaN, as are those of top genes where no more than ``n_top`` are
    detected.

    Raises
    ------
    ValueError
        If the objects share too few features, hold values that ``X`` should not, or too few
        cells, or a condition is named ``"all"``.
    KeyError
        If ``condition_key`` is missing from one of them.

    Warns
    -----
    UserWarning
        If ``predicted.X`` looks like logarithms and is said to be counts.

    Examples
    --------
    Dendritic cells as if they were perturbed monocytes, "predicted" by real ones.

    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> monocytes = adata[adata.obs["cell_type"] == "CD14+ Monocyte"]
    >>> dendritic = adata[adata.obs["cell_type"] == "Dendritic"]
    >>> table = scgm_scvi.metrics.evaluate_perturbation(
    ...     dendritic[::2], dendritic[1::2], monocytes, n_top=50
    ... )
    >>> row = table.set_index("metric").loc["r2_mean"]
    >>> bool(row["value"] > 0.9 > row["control"])
    True

    References
    ----------
    On baselines: Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6. On changes from
    control: Viñas Torné et al. 2025 (Systema), doi:10.1038/s41587-025-02777-8. Distances of
    perturbed cells: Peidli et al. 2024 (scPerturb), doi:10.1038/s41592-023-02144-y.
    """
    if predicted_expression not in ("counts", "log1p"):
        raise ValueError(
            f"predicted_expression is {predicted_expression!r}; it must be 'counts' or 'log1p'."
        )
    n_top = whole_number(n_top, "n_top")
    objects = {"predicted": predicted, "real": real, "control": control}
    groups = [] if condition_key is None else _groups(objects, condition_key)
    others = _others(shift_from)
    extra = {} if pca_reference is None else {"pca_reference": pca_reference}
    features = shared_features({**objects, **others, **extra}, first="real")
    if n_top >= len(features):
        raise ValueError(
            f"n_top is {n_top}, and {len(features)} features are shared: it must be lower."
        )
    logs = {
        name: log_normalize(counts_of(a, features, name))
        for name, a in {**objects, **others, **extra}.items()
        if name != "predicted"
    }
    logs["predicted"] = _predicted_log(predicted, features, predicted_expression)
    labels = {
        name: np.full(a.n_obs, "")
        if condition_key is None
        else np.array([str(v) for v in a.obs[condition_key]])  # of missing ones too
        for name, a in objects.items()
    }

    rng = np.random.default_rng(seed)
    part = {name: _cut(labels[name], rng, pca_reference is None) for name in ("real", "control")}
    if pca_reference is not None:
        reference = logs["pca_reference"]
    else:
        aside = [logs[name][part[name] < 0] for name in part]
        reference = np.vstack([*aside, *(logs[name] for name in others)])
    pca = fit_pca(reference, n_pcs)

    def cells(log: np.ndarray, label: np.ndarray) -> Cells:
        return Cells(np.full(len(log), np.nan), log, pca.transform(log), label)

    sides = {
        name: [cells(logs[name][part[name] == r], labels[name][part[name] == r]) for r in (0, 1)]
        for name in part
    }
    sides["predicted"] = [cells(logs["predicted"], labels["predicted"])]
    if others:
        shift = logs["shift_from[1]"].mean(axis=0) - logs["shift_from[0]"].mean(axis=0)
        sides["shifted"] = [cells(c.values + shift, c.label) for c in sides["control"]]
    tables = [_rows(ALL, sides, n_top, n_max, seed)]
    for group in groups:
        within = {name: [c[c.label == group] for c in side] for name, side in sides.items()}
        tables.append(_rows(group, within, n_top, n_max, seed))
    return pd.concat(tables, ignore_index=True)


def _groups(objects: dict[str, AnnData], key: str) -> list[str]:
    """Groups that are real or predicted; those of control cells alone are not listed."""
    require_key(objects, key, "condition_key")
    return groups_of({k: objects[k] for k in ("predicted", "real")}, key, "condition_key")


def _others(shift_from: tuple[AnnData, AnnData] | None) -> dict[str, AnnData]:
    if shift_from is None:
        return {}
    if not isinstance(shift_from, tuple | list) or len(shift_from) != 2:
        raise ValueError(
            f"shift_from is {type(shift_from).__name__}; it must be a pair of AnnData: other "
            "control cells, and other perturbed cells."
        )
    for i, a in enumerate(shift_from):
        if not a.n_obs:
            raise ValueError(f"shift_from[{i}] holds no cells: leave shift_from out.")
    return {f"shift_from[{i}]": a for i, a in enumerate(shift_from)}


def _predicted_log(adata: AnnData, features: list[str], expression: str) -> np.ndarray:
    """log1p of counts per 10,000 of predicted cells, whichever of the two they hold."""
    if expression == "counts":
        counts = counts_of(adata, features, "predicted")
        if counts.max(initial=0) <= _HIGHEST and (counts % 1).any():
            warnings.warn(
                f"predicted.X holds fractions, and nothing above {counts.max(initial=0):.1f}: if "
                "these are logarithms, say so with predicted_expression='log1p'.",
                UserWarning,
                stacklevel=3,
            )
        return log_normalize(counts)
    log = values_of(adata, features)
    if not np.isfinite(log).all():
        raise ValueError("predicted.X holds infinite or NaN values: leave those cells out.")
    if log.max(initial=0) > 1.5 * _HIGHEST:  # predictions may overshoot, but not by so much
        raise ValueError(
            f"predicted.X holds {log.max():.1f}, and log1p of counts per 10,000 is at most "
            f"{_HIGHEST:.1f}: if these are counts, say so with predicted_expression='counts'."
        )
    return log


def _cut(label: np.ndarray, rng: np.random.Generator, fit_pca_on_some: bool) -> np.ndarray:
    """0 or 1, the half of every cell; -1 for a fifth of each group that the PCA is fitted on."""
    part = np.zeros(len(label), dtype=int)
    if fit_pca_on_some:
        for name in np.unique(label):
            rows = rng.permutation(np.flatnonzero(label == name))
            part[rows[: len(rows) // 5]] = -1
    part[part == 0] = halves(label[part == 0], rng)
    return part


def _rows(
    condition: str, sides: dict[str, list[Cells]], n_top: int, n_max: int, seed: int
) -> pd.DataFrame:
    """Scores of all candidates, as many cells of each, mean over the halves."""
    real, control, predicted = sides["real"], sides["control"], sides["predicted"][0]
    n = min(n_max, *(len(c) for c in (*real, *control, predicted)))
    table = pd.DataFrame({"condition": condition, "metric": RESPONSE_METRICS})
    table[list(_CANDIDATES)] = np.nan
    table["n"] = n
    if n < LEAST_CELLS:
        return table
    order = np.random.default_rng(seed + 1).permutation(len(predicted))
    bandwidth2 = median_bandwidth2(*(c.pca[:1000] for c in real))
    runs: dict[str, list[dict[str, float]]] = {}
    for r in (0, 1):
        candidates = {
            "value": predicted[order.take(np.arange(r * n, (r + 1) * n), mode="wrap")],
            "floor": _draw(real[1 - r], n, seed + r),
            "control": _draw(control[1 - r], n, seed + r),
        }
        if "shifted" in sides:
            candidates["mean_shift"] = _draw(sides["shifted"][1 - r], n, seed + r)
        response = Response(_draw(real[r], n, seed + r), control[r], bandwidth2, n_top)
        for name, cells in candidates.items():
            runs.setdefault(name, []).append(response.score(cells))
    for name, (first, second) in runs.items():
        table[name] = [(first[m] + second[m]) / 2 for m in RESPONSE_METRICS]
    return table


def _draw(cells: Cells, n: int, seed: int) -> Cells:
    return cells[subsample(np.arange(len(cells)), n, np.random.default_rng(seed))]
