"""The registry fields of numbers of cells: covariates, and conditions of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import NumericalJointObsField

from scgm_scvi.model.requests._kinds import KINDS, NumericCondition
from scgm_scvi.model.requests._spec import ConditionSpec

__all__ = ["ConditionValuesField", "NumbersField"]


class NumbersField(NumericalJointObsField):
    """Columns of numbers as float64, whatever their dtype; missing ones are NaN.

    Not as the float32 that scvi-tools reads: where pandas 3 need not convert, torch gets a read-only
    array, and warns.
    """

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Write the columns, side by side, to ``obsm``."""
        self.validate_field(adata)
        adata.obsm[self.attr_key] = pd.DataFrame(
            {key: adata.obs[key].to_numpy(np.float64, na_value=np.nan) for key in self.attr_keys},
            index=adata.obs_names,
        )
        return {self.COLUMNS_KEY: np.asarray(self.attr_keys, dtype=object)}


class ConditionValuesField(NumericalJointObsField):
    """Conditions that networks read as numbers, side by side in ``obsm``; missing ones are NaN.

    Parameters
    ----------
    registry_key
        Key in scvi's data registry.
    conditions
        Column of ``obs`` to the name of its kind in :data:`scgm_scvi.model.KINDS`, and what the set-up
        was told of it.
    """

    KINDS_KEY, LEARNT_KEY = "kinds", "learnt"

    def __init__(self, registry_key: str, conditions: Mapping[str, tuple[str, Any]]) -> None:
        self.kinds = {name: kind for name, (kind, _) in conditions.items()}
        self.told = {name: told for name, (_, told) in conditions.items()}
        super().__init__(registry_key, list(self.kinds))

    def check(self, obs: pd.DataFrame, source: Mapping[str, Any] | None) -> None:
        """Raise for values that make no sense, before anything is written.

        Parameters
        ----------
        source
            Registry of the model that the cells are for, if they are not the first.
        """
        known = {} if source is None else ConditionSpec.from_registry(source).numeric
        for name, condition in self._conditions(obs, known).items():
            condition.numbers(obs[name], name)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Learn what the kinds need to know, and write the numbers."""
        self.validate_field(adata)
        return self._write(adata, self._conditions(adata.obs, {}))

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Write the numbers as another object's are."""
        self.validate_field(adata_target)
        learnt = state_registry.get(self.LEARNT_KEY, {})
        known = {name: NumericCondition(self.kinds[name], told) for name, told in learnt.items()}
        return self._write(adata_target, self._conditions(adata_target.obs, known))

    def _conditions(
        self, obs: pd.DataFrame, known: Mapping[str, NumericCondition]
    ) -> dict[str, NumericCondition]:
        """Those that are known, and what is to be learnt of the others."""
        return {
            name: known.get(name)
            or NumericCondition(kind, KINDS[kind].learn(obs[name], self.told[name]))
            for name, kind in self.kinds.items()
        }

    def _write(self, adata: AnnData, conditions: Mapping[str, NumericCondition]) -> dict[str, Any]:
        parts = {name: c.numbers(adata.obs[name], name) for name, c in conditions.items()}
        columns = [
            name if values.shape[1] == 1 else f"{name}[{i}]"
            for name, values in parts.items()
            for i in range(values.shape[1])
        ]
        numbers = np.concatenate(list(parts.values()), axis=1)
        adata.obsm[self.attr_key] = pd.DataFrame(numbers, columns=columns, index=adata.obs_names)
        state: dict[str, Any] = {self.COLUMNS_KEY: np.asarray(self.attr_keys, dtype=object)}
        further = {name: kind for name, kind in self.kinds.items() if kind != "continuous"}
        if further:
            learnt = {name: condition.learnt for name, condition in conditions.items()}
            state |= {self.KINDS_KEY: further, self.LEARNT_KEY: learnt}
        return state
