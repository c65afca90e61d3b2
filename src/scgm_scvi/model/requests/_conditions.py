"""What a model can be conditioned on, and how a user's request becomes tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi._errors import listed, shown
from scgm_scvi.module import SCGM_KEYS

from ._condition_tables import Conditions, read_table, require_known, rows_of
from ._names import named_index
from ._tokens import condition_tokens

__all__ = ["ConditionSpec", "Conditions", "Request", "require_known", "rows_of"]

_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "empty")


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


@dataclass(frozen=True)
class Request:
    """A request for cells, one row a cell.

    Attributes
    ----------
    tokens, values
        Conditions, ``(n, n_categorical)`` with 0 and ``(n, n_continuous)`` with NaN where
        unspecified.
    nuisances
        Tokens of batch and covariates, ``(n, n_nuisances)``, 0 where to be drawn.
    names
        Obs names if the request came with them.
    """

    spec: ConditionSpec
    tokens: np.ndarray
    values: np.ndarray
    nuisances: np.ndarray
    names: pd.Index | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def parse(
        cls,
        spec: ConditionSpec,
        n_cells: int | None,
        conditions: Conditions,
        cells: pd.Index | None = None,
    ) -> Request:
        """Read what a user passed.

        Parameters
        ----------
        n_cells
            How many; ``None`` where ``conditions`` or ``cells`` say so.
        cells
            Names of the cells that it is for, where there are any. Tables go by these names.

        Raises
        ------
        ValueError
            If the number of cells is missing or contradicted, a value is unknown, or a table is
            of other cells.
        KeyError
            If an attribute is unknown.
        TypeError
            If ``conditions`` is no table, or a value is no list.
        """
        table, n, names = read_table(spec.names, n_cells, conditions, cells)
        return cls(
            spec,
            tokens=_token_columns(table, spec.categorical, n, spec),
            values=_value_columns(table, spec.continuous, n),
            nuisances=_token_columns(table, spec.nuisances, n, spec),
            names=None if names is None else named_index(names, spec.names),
        )

    @classmethod
    def of_design(
        cls, spec: ConditionSpec, design: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> Request:
        """Cells with the attributes of training cells, given by ``rows`` of the design."""
        tokens, n = design["tokens"][rows], len(spec.categorical)
        return cls(spec, tokens[:, :n], design["values"][rows], tokens[:, n:])

    def draw_nuisances(
        self, design: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Complete the request to a minibatch without features.

        Batch and covariates that the request leaves open are those of a training cell drawn among
        the cells with the requested conditions: a cell of the model's own data where there is one,
        else one that fine-tuning replayed, else any.

        Parameters
        ----------
        design
            Of training cells, with a row a cell: ``"tokens"`` of conditions and nuisances,
            ``"numeric"`` covariates, and, after fine-tuning, which were ``"replayed"``.
        rng
            Source of randomness.
        """
        asked, known = np.concatenate([self.tokens, self.nuisances], axis=1), design["tokens"]
        rows = np.empty(len(self), dtype=np.int64)
        is_own = ~design.get("replayed", np.zeros(len(known), dtype=bool))
        patterns, inverse = np.unique(asked, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            cells = np.flatnonzero(inverse.ravel() == i)
            match = ((known == pattern) | (pattern == 0)).all(axis=1)
            among = next(m for m in (match & is_own, match, is_own) if m.any())
            rows[cells] = rng.choice(np.flatnonzero(among), size=len(cells))
        drawn = known[rows, self.tokens.shape[1] :]
        nuisances = np.where(self.nuisances == 0, drawn, self.nuisances)
        numeric = design["numeric"][rows]
        tensors = {
            SCGM_KEYS.CONDITIONS_KEY: torch.as_tensor(self.tokens),
            SCGM_KEYS.CONDITION_VALUES_KEY: torch.as_tensor(self.values),
            REGISTRY_KEYS.BATCH_KEY: torch.as_tensor(nuisances[:, :1] - 1),
        }
        if self.spec.covariates:
            tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.as_tensor(nuisances[:, 1:] - 1)
        if self.spec.numeric_covariates:
            tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.as_tensor(numeric)
        return tensors

    def conditions(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The minibatch ``tensors`` with the conditions that the request has for its cells.

        What the request leaves out is unspecified; batch and covariates are the cells' own where
        it does not name them.
        """
        nuisances = {REGISTRY_KEYS.BATCH_KEY: self.nuisances[:, :1]}
        if self.spec.covariates:
            nuisances[REGISTRY_KEYS.CAT_COVS_KEY] = self.nuisances[:, 1:]
        named = {k: torch.as_tensor(v).to(tensors[k].device) for k, v in nuisances.items()}
        return {
            **tensors,
            SCGM_KEYS.CONDITIONS_KEY: torch.as_tensor(self.tokens),
            SCGM_KEYS.CONDITION_VALUES_KEY: torch.as_tensor(self.values),
            **{k: torch.where(v > 0, v - 1, tensors[k].long()) for k, v in named.items()},
        }

    def over(
        self, tensors: Mapping[str, torch.Tensor], named: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """The minibatch ``tensors`` with the attributes in ``named`` as the request has them."""
        asked, own = self.conditions(tensors), dict(tensors)
        columns = {
            SCGM_KEYS.CONDITIONS_KEY: list(self.spec.categorical),
            SCGM_KEYS.CONDITION_VALUES_KEY: list(self.spec.continuous),
        }
        for key, names in columns.items():
            keep = torch.tensor([name not in named for name in names], dtype=torch.bool)
            if key in own:  # a loader leaves out what has no columns
                asked[key] = torch.where(keep, own[key].to(asked[key].dtype), asked[key])
        return asked

    def obs(self, tensors: Mapping[str, torch.Tensor], start: int = 0) -> pd.DataFrame:
        """Columns that describe the cells: conditions, and nuisances as they were drawn."""
        columns: dict[str, Any] = {}
        tokens = tensors[SCGM_KEYS.CONDITIONS_KEY].numpy()
        for j, (name, categories) in enumerate(self.spec.categorical.items()):
            dtype = pd.CategoricalDtype(categories, ordered=name in self.spec.ordered)
            columns[name] = pd.Categorical.from_codes(tokens[:, j] - 1, dtype=dtype)
        for j, name in enumerate(self.spec.continuous):
            columns[name] = tensors[SCGM_KEYS.CONDITION_VALUES_KEY].numpy()[:, j]
        for name, categories in self.spec.batch.items():
            if name in self.spec.names:
                codes = tensors[REGISTRY_KEYS.BATCH_KEY].numpy()[:, 0]
                columns[name] = pd.Categorical.from_codes(codes, categories=categories)
        for j, (name, categories) in enumerate(self.spec.covariates.items()):
            codes = tensors[REGISTRY_KEYS.CAT_COVS_KEY].numpy()[:, j]
            columns[name] = pd.Categorical.from_codes(codes, categories=categories)
        for j, name in enumerate(self.spec.numeric_covariates):
            columns[name] = tensors[REGISTRY_KEYS.CONT_COVS_KEY].numpy()[:, j]
        n = len(tokens)
        if self.names is not None:
            index = self.names[start : start + n]
        else:
            index = pd.Index([f"generated_{i}" for i in range(start, start + n)])
        return pd.DataFrame(columns, index=index)

    def rows(self, start: int, stop: int) -> Request:
        """The cells from ``start`` to ``stop``."""
        part = slice(start, stop)
        return Request(self.spec, self.tokens[part], self.values[part], self.nuisances[part])


def _token_columns(
    table: Mapping[str, Sequence],
    attributes: Mapping[str, np.ndarray],
    n: int,
    spec: ConditionSpec,
) -> np.ndarray:
    out = np.zeros((n, len(attributes)), dtype=np.int64)
    for j, (name, categories) in enumerate(attributes.items()):
        if name in table:
            column = pd.Series(np.asarray(table[name], dtype=object))
            out[:, j] = condition_tokens(column, categories, name, spec.unspecified.get(name))
            _require_met(name, out[:, j], categories, spec.met.get(name))
    return out


def _require_met(
    name: str, tokens: np.ndarray, categories: np.ndarray, met: np.ndarray | None
) -> None:
    """Raise for a category that is known by name alone, such as an unused one of a column."""
    strange = tokens[(tokens > 0) & ~np.isin(tokens, tokens if met is None else met)]
    if len(strange):
        raise ValueError(
            f"{shown(categories[strange[0] - 1])} is a category of {name!r} that no training cell "
            f"has, so that the model learnt nothing of it. Trained on: "
            f"{listed(categories[met[met > 0] - 1])}."
        )


def _value_columns(table: Mapping[str, Sequence], names: Sequence[str], n: int) -> np.ndarray:
    out = np.full((n, len(names)), np.nan, dtype=np.float32)
    for j, name in enumerate(names):
        if name in table:
            column = pd.Series(table[name], dtype=object)
            if pd.api.types.infer_dtype(column, skipna=True) not in _NUMBERS:
                raise ValueError(
                    f"conditions: {name!r} takes numbers, not {listed(column.unique(), 3)}."
                )
            out[:, j] = pd.to_numeric(column).to_numpy(float)
            if np.isinf(out[:, j]).any():
                raise ValueError(f"conditions: {name!r} holds infinite values.")
    return out
