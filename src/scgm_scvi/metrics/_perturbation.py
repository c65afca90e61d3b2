"""The predicted response to one perturbation, as those of many are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData, concat

from scgm_scvi._errors import listed

from ._perturbations import evaluate_perturbations
from ._response import RESPONSE_METRICS
from ._space import ALL, groups_of

__all__ = ["evaluate_perturbation"]

_CONTROL, _PERTURBED = "control", "perturbed"
_BASELINES = ("control", "mean", "mean_across")


def evaluate_perturbation(
    predicted: AnnData | Mapping[str, AnnData],
    real: AnnData,
    control: AnnData,
    *,
    context_key: str | None = None,
    train: AnnData | None = None,
    train_control: AnnData | None = None,
    metrics: Sequence[str] = RESPONSE_METRICS,
    **kwargs: Any,
) -> pd.DataFrame:
    """Compare predicted perturbed cells with real ones, and with what is got for nothing.

    The one-perturbation case of :func:`~scgm_scvi.metrics.evaluate_perturbations`, for cells that
    need no column with what was done to them. The baselines are ``control``, control cells as they
    are, and with training cells the mean shift: control cells moved by what the perturbation did to
    the mean of the training cells, of the same context (``"mean"``) or of others
    (``"mean_across"``).

    Besides the metrics described there:

    - ``de_overlap``: share of the ``n_top`` genes that differ most between real and control cells
      that are also among the ``n_top`` of predicted against control cells
    - ``de_direction``: share of them that change in the right direction
    - ``de_logfc_pearson``: Pearson correlation over them of the changes, which are log fold
      changes of geometric means
    - ``w2``: see :func:`~scgm_scvi.metrics.wasserstein2`, in principal components

    Parameters
    ----------
    predicted
        Cells predicted to be like ``real``, of one method or of several by name.
    real, control
        Raw counts in ``X`` of perturbed cells the model was not trained on, and of unperturbed
        ones.
    context_key
        Column of ``obs`` in all, such as the cell type, by which cells are compared. Without it
        all cells are pooled, so all objects should be composed alike.
    train, train_control
        Raw counts of perturbed and of control cells that a prediction may learn from: of other cell
        types or donors, none of ``real``. Give both, or neither.
    metrics
        Which to compute.
    **kwargs
        Of :func:`~scgm_scvi.metrics.evaluate_perturbations`: ``predicted_expression``,
        ``baseline``, ``n_top``, ``n_pcs``, ``n_max``, ``alpha`` and ``seed``.

    Returns
    -------
    DataFrame as of :func:`~scgm_scvi.metrics.evaluate_perturbations`, without the column
    ``perturbation``.

    Raises
    ------
    KeyError
        If ``context_key`` is missing from one of them.
    ValueError
        If only one of ``train`` and ``train_control`` is given, or as
        :func:`~scgm_scvi.metrics.evaluate_perturbations`.

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
    >>> values = table.set_index(["method", "metric"])["value"]
    >>> bool(values["predicted", "r2_mean"] > 0.9 > values["control", "r2_mean"])
    True

    References
    ----------
    Those of :func:`~scgm_scvi.metrics.evaluate_perturbations`.
    """
    if (train is None) != (train_control is None):
        given, missing = (
            ("train", "train_control") if train_control is None else ("train_control", "train")
        )
        raise ValueError(f"{given} is given, and {missing} is not: give both, or neither.")
    named = dict(predicted) if isinstance(predicted, Mapping) else {"predicted": predicted}
    objects: dict[str, AnnData] = {**named, "real": real, "control": control}
    if not named:
        raise ValueError("predicted holds no method: give at least one, as {name: AnnData}.")
    for name, a in objects.items():
        if not isinstance(a, AnnData):
            raise TypeError(f"{name} is {type(a).__name__}; it must be an AnnData.")
        if name in ("real", "control") and not a.n_obs:
            raise ValueError(f"{name} holds no cells.")
    if context_key is not None:
        groups_of(objects, context_key, "context_key")
        unknown = set(_contexts(real, context_key)) - set(_contexts(control, context_key))
        if unknown:
            raise ValueError(
                f"control holds no cells whose obs[{context_key!r}] is {listed(sorted(unknown))}: "
                "add some, or leave those out of real."
            )
    learnt = None
    if train is not None and train_control is not None:
        both = {"train": train, "train_control": train_control}
        if context_key is not None:
            groups_of(both, context_key, "context_key")
        for name, a in both.items():
            if not a.n_obs:
                raise ValueError(f"{name} holds no cells: leave train and train_control out.")
        learnt = concat(
            [_named(train, _PERTURBED, context_key), _named(train_control, _CONTROL, context_key)],
            index_unique="-",
        )
    table = evaluate_perturbations(
        {name: _named(a, _PERTURBED, context_key) for name, a in named.items()},
        _named(real, _PERTURBED, context_key),
        _named(control, _CONTROL, context_key),
        perturbation_key="perturbation",
        control_value=_CONTROL,
        context_key=None if context_key is None else "context",
        train=learnt,
        metrics=metrics,
        **kwargs,
    )
    # a mean over one perturbation, a sum of one and the nearest to one are that one
    table = table[(table["perturbation"] != ALL) & table["method"].isin([*named, *_BASELINES])]
    return table.drop(columns="perturbation").reset_index(drop=True)


def _contexts(adata: AnnData, key: str) -> list[str]:
    missing = int(adata.obs[key].isna().sum())
    if missing:
        raise ValueError(
            f"context_key: {key!r} is missing for {missing} cells: leave them out of all objects."
        )
    return [str(v) for v in adata.obs[key]]


def _named(adata: AnnData, name: str, context_key: str | None) -> AnnData:
    """The same cells, which share their matrix, with what was done to them in ``obs``."""
    obs = pd.DataFrame({"perturbation": name}, index=adata.obs_names)
    if context_key is not None:
        obs["context"] = _contexts(adata, context_key)
    return AnnData(adata.X, obs=obs, var=pd.DataFrame(index=adata.var_names))
