"""Batch and covariates of cells: checked, or, where a cell does not tell, the ones that fit it best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from scgm_scvi._errors import listed, nearest
from scgm_scvi.distributions import log_likelihood
from scgm_scvi.model.requests._spec import ConditionSpec

from ._changes import write_registered

__all__ = ["HiddenNuisances", "check_nuisances", "completed_nuisances", "hide_nuisances"]

Tensors = dict[str, torch.Tensor]
_MOST_TRIED = 32  # combinations of batch and covariates, the most frequent ones


def check_nuisances(
    obs: pd.DataFrame,
    keys: Mapping[str, Sequence[str | None]],
    known: Mapping[str, Collection[Any]],
    name: str,
) -> None:
    """Check that batch, covariates and size factors say something of every cell.

    Parameters
    ----------
    obs
        Attributes of cells.
    keys
        Argument of the set-up to its columns.
    known
        Column to the categories that a trained model knows, where others are of no use.
    name
        What messages call the cells.

    Raises
    ------
    ValueError
        If a value is missing, a size factor is not positive, or a category is not known.
    """
    for argument, column in _columns(keys, "batch_key", "categorical_covariate_keys"):
        place = f"{argument}: {name}.obs[{column!r}]"
        missing = obs[column].isna().to_numpy(dtype=bool)
        if missing.any():
            raise ValueError(
                f"{place} is missing for {_cells(missing, obs)}. Leave these cells out, or give them "
                f"a category of their own: {name}.obs[{column!r}] = "
                f"{name}.obs[{column!r}].astype(object).fillna('unknown').astype('category')."
            )
        if column in known:
            strange = ~obs[column].isin(list(known[column])).to_numpy(dtype=bool)
            if strange.any():
                values = obs[column][strange].unique()
                raise ValueError(
                    f"{place} holds {listed(values, 5)}, which the model was not trained on."
                    f"{nearest(values[0], known[column])} Known: {listed(known[column])}. To go on "
                    "with these cells, fine-tune the model on them: load_query_data(adata, model). "
                    "Latents, classify, ood_score, enhance and impute take them as they are, unless "
                    "the model was made with encode_covariates=True."
                )
    for argument, column in _columns(keys, "continuous_covariate_keys"):
        missing = obs[column].isna().to_numpy(dtype=bool)
        if missing.any():
            raise ValueError(
                f"{argument}: {name}.obs[{column!r}] is missing for {_cells(missing, obs)}. Leave "
                "these cells out, or fill in a number, such as the mean of the others."
            )
    for argument, column in _columns(keys, "size_factor_key"):
        values = obs[column].to_numpy(float, na_value=np.nan)
        wrong = ~(values > 0)
        if wrong.any():
            raise ValueError(
                f"{argument}: {name}.obs[{column!r}] is not above 0 for {_cells(wrong, obs)}; the "
                f"first is {values[wrong][0]:g}. A size factor is what a cell's counts are divided "
                "by. Leave these cells out, or correct it."
            )


def _columns(keys: Mapping[str, Sequence[str | None]], *arguments: str) -> list[tuple[str, str]]:
    return [(a, c) for a in arguments for c in keys.get(a, ()) if c is not None]


def _cells(which: np.ndarray, obs: pd.DataFrame) -> str:
    return f"{int(which.sum())} cells ({listed(obs.index[which], 3)})"


class HiddenNuisances(NamedTuple):
    """Which nuisances of cells are not known, by the key of the registry: arrays ``(n, k)``."""

    unknown: dict[str, np.ndarray]

    def mark(self, manager: AnnDataManager) -> None:
        """Say so in what was registered of the cells: by -1, or NaN of what is no category."""
        for key, unknown in self.unknown.items():
            if not unknown.any():
                continue
            values = np.asarray(manager.get_from_registry(key))
            nothing = np.nan if key == REGISTRY_KEYS.CONT_COVS_KEY else -1
            values = np.where(unknown, nothing, values)
            values = values[:, 0] if key == REGISTRY_KEYS.BATCH_KEY else values
            write_registered(manager, key, values)


def hide_nuisances(
    obs: pd.DataFrame,
    spec: ConditionSpec,
    ignored: Collection[str],
    any_nuisance: bool,
    size_factor: str | None,
) -> tuple[pd.DataFrame, HiddenNuisances]:
    """Give cells a nuisance that a model knows where theirs is not looked at, or may be unknown.

    Returns
    -------
    The table, and where a nuisance is unknown, and stands in for one to be found.
    """
    unknown: dict[str, list[np.ndarray]] = {}
    new: dict[str, Any] = {}
    groups: dict[str, Mapping[str, Any]] = {
        REGISTRY_KEYS.BATCH_KEY: spec.batch,
        REGISTRY_KEYS.CAT_COVS_KEY: spec.covariates,
        REGISTRY_KEYS.CONT_COVS_KEY: dict.fromkeys(spec.numeric_covariates),
    }
    for key, columns in groups.items():
        for column, categories in columns.items():
            if column.startswith("_scvi_"):
                continue
            some = 0.0 if categories is None else categories[0]
            if column in ignored:
                new[column] = some
                continue
            if not any_nuisance:
                continue
            own = obs[column] if column in obs else pd.Series(np.nan, obs.index)
            mask = own.isna() if categories is None else ~own.isin(list(categories))
            mask = mask.to_numpy(dtype=bool)
            if mask.any():
                new[column] = own.astype(object).mask(mask, some)
                if categories is None:
                    new[column] = new[column].astype(float)
            unknown.setdefault(key, []).append(mask)
    if size_factor is not None and size_factor in ignored:
        new[size_factor] = 1.0
    marks = {key: np.stack(masks, axis=1) for key, masks in unknown.items()}
    return obs.assign(**new), HiddenNuisances(marks)


@torch.no_grad()
def completed_nuisances(
    module: Any, tensors: Tensors, design: Mapping[str, np.ndarray], n_conditions: int
) -> Tensors:
    """A minibatch in which unknown nuisances are those that explain each cell's counts best.

    Tried are the combinations of training cells; the likelihood is that of the counts, decoded from
    the mean of the cell's posterior.

    Parameters
    ----------
    module
        Of the model. Its encoder sees no nuisances.
    tensors
        With -1, or NaN, where a nuisance is unknown.
    design
        Attributes of training cells.
    n_conditions
        How many columns of its tokens are conditions; nuisances follow.
    """
    keys = [REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.CAT_COVS_KEY]
    own = torch.cat([tensors[key].long() for key in keys if key in tensors], dim=1)
    numeric = tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
    if numeric is not None and numeric.isnan().any():
        usual = torch.as_tensor(design["numeric"].mean(axis=0), dtype=numeric.dtype)
        numeric = torch.where(numeric.isnan(), usual.to(numeric.device), numeric)
        tensors = {**tensors, REGISTRY_KEYS.CONT_COVS_KEY: numeric}
    rows = (own < 0).any(dim=1)
    if not rows.any():
        return tensors
    seen, n = np.unique(design["tokens"][:, n_conditions:], axis=0, return_counts=True)
    combinations = (
        torch.as_tensor(seen[np.argsort(-n, kind="stable")][:_MOST_TRIED]).to(own.device) - 1
    )
    some = {key: value[rows] for key, value in tensors.items()}
    x, mean = module.features(some), module.encode_state(some)[0]
    fits, tried = [], []
    for combination in combinations:
        nuisances = torch.where(own[rows] < 0, combination, own[rows])
        px = module.decode_state(mean, _with(some, nuisances))
        fits.append(log_likelihood(px, x.to(mean.device)).to(own.device))
        tried.append(nuisances)
    best = torch.stack(fits).argmax(dim=0)
    found = own.clone()
    found[rows] = torch.stack(tried)[best, torch.arange(len(best))]
    return _with(tensors, found)


def _with(tensors: Tensors, nuisances: torch.Tensor) -> Tensors:
    """A minibatch with these codes of batch and covariates."""
    out = {**tensors, REGISTRY_KEYS.BATCH_KEY: nuisances[:, :1]}
    if REGISTRY_KEYS.CAT_COVS_KEY in tensors:
        out[REGISTRY_KEYS.CAT_COVS_KEY] = nuisances[:, 1:]
    return out
