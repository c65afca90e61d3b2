"""Which attributes a model knows, and their categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS

from scgm_scvi.module import SCGM_KEYS

__all__ = ["ConditionSpec"]


@dataclass(frozen=True)
class ConditionSpec:
    """Attributes a model knows: what steers it, and the nuisances it was trained to remove.

    Attributes
    ----------
    categorical
        Condition to its categories, in token order.
    continuous
        Names of continuous conditions.
    batch, covariates
        Nuisance to its categories; ``batch`` has one entry.
    numeric_covariates
        Names of continuous covariates.
    unspecified
        Condition to a value that says as much, such as ``"Unknown"``.
    ordered
        Conditions whose categories have an order.
    met
        Categorical attribute to the tokens that stage two was trained on, where that is known.
    """

    categorical: dict[str, np.ndarray]
    continuous: list[str]
    batch: dict[str, np.ndarray]
    covariates: dict[str, np.ndarray]
    numeric_covariates: list[str]
    unspecified: dict[str, Any] = field(default_factory=dict)
    ordered: list[str] = field(default_factory=list)
    met: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_registry(cls, registry: Mapping[str, Any]) -> ConditionSpec:
        """Read scvi's registry; a field that a model does not have is empty."""
        fields = registry["field_registries"]

        def state(key: str) -> Mapping[str, Any]:
            return fields.get(key, {}).get("state_registry", {})

        batch = state(REGISTRY_KEYS.BATCH_KEY)
        return cls(
            categorical=dict(state(SCGM_KEYS.CONDITIONS_KEY).get("mappings", {})),
            continuous=list(state(SCGM_KEYS.CONDITION_VALUES_KEY).get("columns", [])),
            batch={batch["original_key"]: np.asarray(batch["categorical_mapping"])},
            covariates=dict(state(REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {})),
            numeric_covariates=list(state(REGISTRY_KEYS.CONT_COVS_KEY).get("columns", [])),
            unspecified=dict(state(SCGM_KEYS.CONDITIONS_KEY).get("unspecified", {})),
            ordered=list(state(SCGM_KEYS.CONDITIONS_KEY).get("ordered", [])),
        )

    @property
    def nuisances(self) -> dict[str, np.ndarray]:
        """Categorical nuisances: the batch, then the covariates."""
        return {**self.batch, **self.covariates}

    @property
    def steered(self) -> list[str]:
        """What guidance can strengthen: the conditions proper."""
        return [*self.categorical, *self.continuous]

    @property
    def names(self) -> list[str]:
        """Everything that may be named in a request."""
        names = [*self.steered, *self.nuisances]
        return [name for name in names if not name.startswith("_scvi_")]

    def position(self, name: str) -> int:
        """Column of a categorical condition among the tokens."""
        return list(self.categorical).index(name)
