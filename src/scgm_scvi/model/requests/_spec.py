"""Which attributes a model knows, and their categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS

from scgm_scvi._perturbations import Perturbations
from scgm_scvi.module import SCGM_KEYS

from ._kinds import NumericCondition

__all__ = ["ConditionSpec"]


@dataclass(frozen=True)
class ConditionSpec:
    """Attributes a model knows: what steers it, and the nuisances it was trained to remove.

    Attributes
    ----------
    categorical
        Condition to its categories, in token order.
    numeric
        Conditions that networks read as numbers, by name.
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
    perturbations
        Which of the categorical conditions says what was done to cells, if one does.
    """

    categorical: dict[str, np.ndarray]
    numeric: dict[str, NumericCondition]
    batch: dict[str, np.ndarray]
    covariates: dict[str, np.ndarray]
    numeric_covariates: list[str]
    unspecified: dict[str, Any] = field(default_factory=dict)
    ordered: list[str] = field(default_factory=list)
    met: dict[str, np.ndarray] = field(default_factory=dict)
    perturbations: Perturbations | None = None

    @classmethod
    def from_registry(cls, registry: Mapping[str, Any]) -> ConditionSpec:
        """Read scvi's registry; a field that a model does not have is empty."""
        fields = registry["field_registries"]

        def state(key: str) -> Mapping[str, Any]:
            return fields.get(key, {}).get("state_registry", {})

        batch, values = state(REGISTRY_KEYS.BATCH_KEY), state(SCGM_KEYS.CONDITION_VALUES_KEY)
        learnt = dict.fromkeys(values.get("columns", [])) | values.get("learnt", {})
        return cls(
            categorical=dict(state(SCGM_KEYS.CONDITIONS_KEY).get("mappings", {})),
            numeric={
                name: NumericCondition(values.get("kinds", {}).get(name, "continuous"), known)
                for name, known in learnt.items()
            },
            batch={batch["original_key"]: np.asarray(batch["categorical_mapping"])},
            covariates=dict(state(REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {})),
            numeric_covariates=list(state(REGISTRY_KEYS.CONT_COVS_KEY).get("columns", [])),
            unspecified=dict(state(SCGM_KEYS.CONDITIONS_KEY).get("unspecified", {})),
            ordered=list(state(SCGM_KEYS.CONDITIONS_KEY).get("ordered", [])),
            perturbations=Perturbations.from_setup(registry.get("setup_args", {})),
        )

    @property
    def nuisances(self) -> dict[str, np.ndarray]:
        """Categorical nuisances: the batch, then the covariates."""
        return {**self.batch, **self.covariates}

    @property
    def steered(self) -> list[str]:
        """What guidance can strengthen: the conditions proper."""
        return [*self.categorical, *self.numeric]

    @property
    def names(self) -> list[str]:
        """Everything that may be named in a request."""
        names = [*self.steered, *self.nuisances]
        return [name for name in names if not name.startswith("_scvi_")]

    def position(self, name: str) -> int:
        """Column of a categorical condition among the tokens."""
        return list(self.categorical).index(name)

    @property
    def value_widths(self) -> list[int]:
        """How many columns of numbers each numeric condition takes."""
        return [condition.width for condition in self.numeric.values()]

    @property
    def value_columns(self) -> dict[str, slice]:
        """Where each numeric condition is among the columns of numbers."""
        ends = np.cumsum([0, *self.value_widths]).tolist()
        return {name: slice(*ends[j : j + 2]) for j, name in enumerate(self.numeric)}
