"""Does a model give its training cells away?"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from ._space import (
    ALL,
    LEAST_CELLS,
    SAME_PLACE,
    counts_of,
    fit_pca,
    groups_of,
    halves,
    log_normalize,
    shared_features,
    subsample,
)

__all__ = ["HasDenoisingLoss", "memorization_report"]

_METRICS = (
    *("distance_ratio_median", "distance_ratio_p5", "nndr_median", "nndr_p5"),
    *("dup_frac", "identical_frac"),
)
_MEMBERSHIP = "membership_auc"


class HasDenoisingLoss(Protocol):
    """A model that says how well it denoises each cell."""

    def denoising_loss(self, adata: AnnData) -> np.ndarray:
        """Loss of each cell, shape ``(n_obs,)``; lower for cells the model knows better."""
        ...


def memorization_report(
    generated: AnnData,
    train: AnnData,
    holdout: AnnData,
    *,
    model: HasDenoisingLoss | None = None,
    donor_key: str | None = None,
    n_pcs: int = 30,
    pca_reference: AnnData | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Look for training cells in what a model generates, and in the model itself.

    Every number stands beside its *floor*: what real cells score that no model has seen. Distances
    are Euclidean in principal components of log1p counts per 10,000, as in
    :func:`~scgm_scvi.metrics.evaluate_generation`.

    - ``distance_ratio_median``, ``distance_ratio_p5``: distance to the nearest training cell,
      median or 5th percentile, over that of held-out cells; a leak is below 1.
    - ``nndr_median``, ``nndr_p5``: distance to the nearest training cell over that to the second
      nearest, median or 5th percentile; a leak is below the floor.
    - ``dup_frac``: share at distance 0 (below 0.001) from a training cell; a leak is above the
      floor.
    - ``identical_frac``: share with the very counts of a training cell, in the shared features; a
      leak is above the floor.
    - ``closer_to_train``: share of generated cells nearer to a training cell than to a held-out
      one, among as many of each; a leak is above 0.5.
    - ``membership_auc``, with ``model``: how well its loss tells training from held-out cells; a
      leak is above 0.5.

    Distances find copies and near-copies. That they find none does not show that nothing leaks:
    a membership inference attack finds more, and this is a simple one.

    Parameters
    ----------
    generated, train, holdout
        Raw counts in ``X``: generated cells, those the model was trained on, and real ones it was
        not, of the same composition as the training cells. Compared on the features they share.
    model
        Anything with a method ``denoising_loss(adata)`` that returns an array of shape
        ``(n_obs,)``, as a trained :class:`~scgm_scvi.SCGM`. Both objects are handed to it whole.
    donor_key
        Column of ``train.obs``. Adds the rows of each donor: all generated and held-out cells
        against the training cells of that donor alone. Donors differ, also from the held-out
        ones: compare a donor with its floor and with other donors rather than with 0.5.
    n_pcs
        Number of principal components.
    pca_reference
        Real cells, best of neither set, on which the PCA is fitted. A PCA fits the noise of its
        own cells, so by default it is fitted on what keeps each comparison fair: on ``train``
        for distances to training cells (held-out cells are as foreign to it as generated ones),
        and for ``closer_to_train`` on ``train`` and ``holdout`` together.
    seed
        Of halves and subsamples.

    Returns
    -------
    DataFrame with the columns

    - ``donor``: ``"all"`` first, then each of ``train``
    - ``metric``
    - ``value``
    - ``floor``: of held-out cells in the place of generated ones (for ``closer_to_train``, one
      half of them against the other half and training cells; for ``membership_auc``, one half
      in the place of training cells). Of ``distance_ratio`` 1 by definition.
    - ``n``: the number of training cells, of that donor; for ``closer_to_train``, cells a side.
      Values are NaN where it is below 10.

    Raises
    ------
    ValueError
        If the objects share no features, hold values that are no counts or too few cells, if a
        donor is named ``"all"``, or the losses are not one finite number a cell.
    KeyError
        If ``donor_key`` is not a column of ``train.obs``.
    TypeError
        If ``model`` has no method ``denoising_loss``.

    Examples
    --------
    Handing back training cells is found out; held-out cells are not blamed.

    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> train, holdout, other = adata[::3], adata[1::3], adata[2::3]
    >>> report = scgm_scvi.metrics.memorization_report(train, train, holdout, pca_reference=other)
    >>> report.set_index("metric").loc[["dup_frac", "identical_frac"], "value"].tolist()
    [1.0, 1.0]
    >>> report = scgm_scvi.metrics.memorization_report(other, train, holdout)
    >>> report.set_index("metric").loc["identical_frac", "value"].item()
    0.0

    References
    ----------
    Distances to the closest record, and nearest neighbour distance ratio: Zhao et al. 2021
    (CTAB-GAN), arXiv:2102.08369. Against held-out records, with 0.5 as the ideal: Platzer &
    Reutterer 2021, arXiv:2104.00635. What distances miss: Yao et al. 2025, arXiv:2505.01524.
    The loss as an attack on diffusion models: Matsumoto et al. 2023, arXiv:2302.03262; Carlini et
    al. 2023, arXiv:2301.13188.
    """
    objects = {"generated": generated, "train": train, "holdout": holdout}
    donors = [] if donor_key is None else groups_of({"train": train}, donor_key, "donor_key")
    for name, a in objects.items():
        least = LEAST_CELLS * (2 if name == "holdout" else 1)
        if a.n_obs < least:
            raise ValueError(f"{name} holds {a.n_obs} cells: at least {least} are needed.")
    if model is not None and not callable(getattr(model, "denoising_loss", None)):
        raise TypeError(
            f"model is {type(model).__name__} without a method denoising_loss(adata): give a "
            "trained SCGM, or leave it out."
        )
    if pca_reference is not None:
        objects["pca_reference"] = pca_reference
    features = shared_features(objects, first="train")
    counts = {name: counts_of(a, features, name) for name, a in objects.items()}
    logs = {name: log_normalize(x) for name, x in counts.items()}
    if pca_reference is not None:
        places = fair = _places(logs, logs["pca_reference"], n_pcs)
    else:
        places = _places(logs, logs["train"], n_pcs)
        fair = _places(logs, np.vstack([logs["train"], logs["holdout"]]), n_pcs)
    keys = {name: _row_keys(counts[name]) for name in ("generated", "train", "holdout")}
    half = halves(np.zeros(holdout.n_obs), np.random.default_rng(seed))
    losses = None
    if model is not None:
        losses = {name: _losses(model, objects[name], name) for name in ("train", "holdout")}

    tables = []
    for i, donor in enumerate([ALL, *donors]):
        rows = np.arange(train.n_obs)
        if donor != ALL:
            # a missing donor is none, also where one is called "nan"
            is_donor = train.obs[donor_key].astype(str) == donor
            rows = np.flatnonzero(is_donor & train.obs[donor_key].notna())
        rng = np.random.default_rng([seed, i])
        table = _records(places, keys, rows)
        table["closer_to_train"] = _closer_to_train(fair, rows, half, rng)
        if losses is not None:
            table[_MEMBERSHIP] = (*_membership(losses, rows, half), len(rows))
        tables.append(
            pd.DataFrame.from_dict(table, orient="index", columns=["value", "floor", "n"])
            .rename_axis("metric")
            .reset_index()
            .assign(donor=donor)
        )
    return pd.concat(tables, ignore_index=True)[["donor", "metric", "value", "floor", "n"]]


def _places(logs: dict[str, np.ndarray], reference: np.ndarray, n_pcs: int) -> dict:
    pca = fit_pca(reference, n_pcs)
    return {name: pca.transform(logs[name]) for name in ("generated", "train", "holdout")}


def _row_keys(counts: np.ndarray) -> np.ndarray:
    """One short name for each vector of counts, the same for the same counts."""
    # 0.0 is added because -0.0 has other bytes
    return np.array([hashlib.blake2b((x + 0.0).tobytes(), digest_size=16).digest() for x in counts])


def _losses(model: HasDenoisingLoss, adata: AnnData, name: str) -> np.ndarray:
    loss = np.asarray(model.denoising_loss(adata), dtype=np.float64)
    if loss.shape != (adata.n_obs,) or not np.isfinite(loss).all():
        raise ValueError(
            f"model.denoising_loss({name}) has the shape {loss.shape}, "
            f"{int((~np.isfinite(loss)).sum())} values not finite: it must be one finite number for "
            f"each of {adata.n_obs} cells."
        )
    return loss


def _records(
    places: dict[str, np.ndarray], keys: dict[str, np.ndarray], rows: np.ndarray
) -> dict[str, tuple[float, float, int]]:
    """Value, floor and n of the metrics of distances to some of the training cells."""
    nan, n = float("nan"), len(rows)
    if n < LEAST_CELLS:
        return dict.fromkeys(_METRICS, (nan, nan, n))
    nearest = NearestNeighbors(n_neighbors=2).fit(places["train"][rows])
    distance = {name: nearest.kneighbors(places[name])[0] for name in ("generated", "holdout")}
    known = np.unique(keys["train"][rows])

    def both(statistic) -> tuple[float, float]:
        return tuple(float(statistic(name)) for name in ("generated", "holdout"))

    def quantile_ratio(q: float) -> float:
        value, typical = both(lambda name: np.quantile(distance[name][:, 0], q))
        return value / typical if typical > 0 else nan  # held-out cells that were trained on

    def record_ratio(name: str) -> np.ndarray:
        first, second = distance[name].T
        return np.where(second > 0, first / np.where(second > 0, second, 1), 1)

    found = {
        "distance_ratio_median": (quantile_ratio(0.5), 1.0),
        "distance_ratio_p5": (quantile_ratio(0.05), 1.0),
        "nndr_median": both(lambda name: np.median(record_ratio(name))),
        "nndr_p5": both(lambda name: np.quantile(record_ratio(name), 0.05)),
        "dup_frac": both(lambda name: (distance[name][:, 0] < SAME_PLACE).mean()),
        "identical_frac": both(lambda name: np.isin(keys[name], known).mean()),
    }
    return {m: (*found[m], n) for m in _METRICS}


def _closer_to_train(
    places: dict[str, np.ndarray], rows: np.ndarray, half: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, int]:
    """Value, floor and cells a side; for the floor either half of the held-out cells is placed.

    A tie counts half.
    """
    train, holdout = places["train"][rows], places["holdout"]
    sides = min(len(train), len(holdout))
    if len(train) < LEAST_CELLS:
        return float("nan"), float("nan"), sides

    def share(candidate: np.ndarray, others: np.ndarray) -> float:
        n = min(len(train), len(others))
        to_train, to_others = (
            NearestNeighbors(n_neighbors=1)
            .fit(side[subsample(np.arange(len(side)), n, rng)])
            .kneighbors(candidate)[0][:, 0]
            for side in (train, others)
        )
        return float(((to_train < to_others) + 0.5 * (to_train == to_others)).mean())

    value = share(places["generated"], holdout)
    floor = np.mean([share(holdout[half == r], holdout[half != r]) for r in (0, 1)])
    return value, float(floor), sides


def _membership(
    losses: dict[str, np.ndarray], rows: np.ndarray, half: np.ndarray
) -> tuple[float, float]:
    """ROC AUC of the loss being lower for training cells, and for one half of the held-out."""
    if len(rows) < LEAST_CELLS:
        return float("nan"), float("nan")

    def auc(members: np.ndarray, others: np.ndarray) -> float:
        is_member = np.repeat([1, 0], [len(members), len(others)])
        return float(roc_auc_score(is_member, -np.concatenate([members, others])))

    holdout = losses["holdout"]
    return auc(losses["train"][rows], holdout), auc(holdout[half == 0], holdout[half == 1])
