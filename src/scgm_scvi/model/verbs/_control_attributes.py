"""Attributes of control cells: what a model makes of their values, and how they are handed back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._perturbations import Perturbations
from scgm_scvi.model.requests._spec import ConditionSpec

__all__ = ["as_given", "known_values", "treated_cells", "values_of_contexts"]


def treated_cells(perturbations: Perturbations, obs: pd.DataFrame) -> np.ndarray:
    """Which cells are known to be no controls: at no dose all are, whatever they are called."""
    if perturbations.key not in obs:
        return np.zeros(len(obs), dtype=bool)
    column = obs[perturbations.key]
    of = {v: bool(perturbations.parts(v)) for v in column.dropna().unique()}
    treated = np.array([of.get(v, False) for v in column], dtype=bool)
    if perturbations.dose_key in obs:
        treated &= (obs[perturbations.dose_key] != 0).to_numpy(dtype=bool)
    return treated


def known_values(column: pd.Series, categories: Iterable[Any]) -> pd.Series:
    """The category that each value is, however it is stored; ``None`` where it is none.

    A value is the category that is written alike, or is the same number: ``"1"`` and ``1.0`` are 1.
    """
    written = {str(c): c for c in categories}
    of = {}
    for value in column.dropna().unique():
        found = next((s for s in _spellings(value) if s in written), None)
        of[value] = None if found is None else written[found]
    return pd.Series([of.get(v) for v in column.astype(object)], column.index, dtype=object)


def _spellings(value: Any) -> Iterator[str]:
    yield str(value)
    if isinstance(value, (bool, np.bool_)):
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        return
    if number.is_integer():
        yield str(int(number))
        yield str(number)


def values_of_contexts(categories: np.ndarray, said: Sequence[str | None]) -> pd.Categorical:
    """What contexts are of a condition; as strings, where one is of a value that is not known."""
    own = {str(c): c for c in categories}
    if not own.keys() >= {v for v in said if v is not None}:
        own = {str(c): str(c) for c in [*categories, *filter(None, said)]}
    values = [None if v is None else own[v] for v in said]
    return pd.Categorical(values, categories=list(own.values()))


def as_given(
    obs: pd.DataFrame, spec: ConditionSpec, contexts: dict[str, pd.Categorical]
) -> pd.DataFrame:
    """Attributes of cells as they came, in the model's order.

    Those that the cells lack are left out, since nothing is known of them; but for the perturbation
    and its dose, which are empty.

    Parameters
    ----------
    contexts
        Conditions of each cell, by name.
    """
    perturbations = spec.perturbations
    assert perturbations is not None
    columns: dict[str, Any] = {}
    for name in [*spec.names, *spec.numeric_covariates]:
        if name in (perturbations.key, perturbations.dose_key):
            columns[name] = np.full(len(obs), np.nan)
        elif name in obs:
            columns[name] = contexts.get(name, obs[name])
            if name in spec.nuisances:
                columns[name] = _categorical(obs[name])
    return pd.DataFrame(columns, index=obs.index)


def _categorical(column: pd.Series) -> pd.Categorical:
    """A column as categories, which files can hold: of one kind."""
    values = column.astype(object)
    if values.dropna().map(type).nunique() > 1:
        values = values.map(str, na_action="ignore")
    return pd.Categorical(values)
