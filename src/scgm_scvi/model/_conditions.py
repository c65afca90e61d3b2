"""What a model can be conditioned on, and how a user's request becomes tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.module import SCGM_KEYS

from ._fields import condition_tokens
from ._tables import named_index

__all__ = ["ConditionSpec", "Conditions", "Request", "require_known", "rows_of"]

Conditions = Mapping[str, Any] | pd.DataFrame | None


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
    """

    categorical: dict[str, np.ndarray]
    continuous: list[str]
    batch: dict[str, np.ndarray]
    covariates: dict[str, np.ndarray]
    numeric_covariates: list[str]
    unspecified: dict[str, Any] = field(default_factory=dict)

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
    def parse(cls, spec: ConditionSpec, n_cells: int | None, conditions: Conditions) -> Request:
        """Read what a user passed to ``generate``.

        Raises
        ------
        ValueError
            If the number of cells is missing or contradicted, or a value is unknown.
        KeyError
            If an attribute is unknown.
        """
        table, n = _as_table(n_cells, conditions)
        for name in table:
            require_known(name, spec.names, "conditions")
        names = conditions.index if isinstance(conditions, pd.DataFrame) else None
        if names is not None and not names.is_unique:
            names = None
        return cls(
            spec,
            tokens=_token_columns(table, spec.categorical, n, spec.unspecified),
            values=_value_columns(table, spec.continuous, n),
            nuisances=_token_columns(table, spec.nuisances, n),
            names=None if names is None else named_index(names.astype(str), spec.names),
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
            columns[name] = pd.Categorical.from_codes(tokens[:, j] - 1, categories=categories)
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


def require_known(name: str, known: Sequence[str], argument: str) -> None:
    """Raise ``KeyError`` unless the attribute is one of those that the argument takes."""
    if name not in known:
        raise KeyError(
            f"{argument}: the model knows no attribute {name!r}."
            f"{nearest(name, known)} Known: {listed(known)}."
        )


def rows_of(conditions: Any) -> int | None:
    """How many cells conditions are for, where they tell."""
    if isinstance(conditions, pd.DataFrame):
        return len(conditions)
    values = conditions.values() if isinstance(conditions, Mapping) else ()
    return next((len(v) for v in values if not _is_scalar(v)), None)


def _as_table(n_cells: int | None, conditions: Conditions) -> tuple[dict[str, Sequence], int]:
    """One sequence of equal length per attribute, and that length."""
    if n_cells is not None:
        n_cells = whole_number(n_cells, "n_cells")
    if conditions is None:
        conditions = {}
    if not isinstance(conditions, Mapping | pd.DataFrame):
        raise TypeError(
            f"conditions is a {type(conditions).__name__}; pass a dict of attribute to value, or "
            "a DataFrame with a row a cell."
        )
    lists = {
        str(k): v if isinstance(conditions, pd.DataFrame) or not _is_scalar(v) else None
        for k, v in conditions.items()
    }
    lengths = {k: len(v) for k, v in lists.items() if v is not None}
    if isinstance(conditions, pd.DataFrame):
        lengths["the DataFrame"] = len(conditions)
    n = n_cells if n_cells is not None else rows_of(conditions)
    if n is None:
        raise ValueError("n_cells is missing: say how many cells to generate.")
    for name, length in lengths.items():
        if length != n:
            raise ValueError(
                f"conditions: {name} has {length} values for {n} cells. Give one value for all, "
                "or one per cell."
            )
    return {k: [conditions[k]] * n if v is None else v for k, v in lists.items()}, n


def _is_scalar(value: Any) -> bool:
    return value is None or pd.api.types.is_scalar(value)


def _token_columns(
    table: Mapping[str, Sequence],
    attributes: Mapping[str, np.ndarray],
    n: int,
    unspecified: Mapping[str, Any] = MappingProxyType({}),
) -> np.ndarray:
    columns = [
        condition_tokens(
            pd.Series(np.asarray(table[k], dtype=object)), categories, k, unspecified.get(k)
        )
        if k in table
        else np.zeros(n, dtype=np.int64)
        for k, categories in attributes.items()
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0), dtype=np.int64)


def _value_columns(table: Mapping[str, Sequence], names: Sequence[str], n: int) -> np.ndarray:
    out = np.full((n, len(names)), np.nan, dtype=np.float32)
    for j, name in enumerate(names):
        if name in table:
            try:
                out[:, j] = pd.to_numeric(pd.Series(table[name], dtype=object)).to_numpy(float)
            except (TypeError, ValueError) as e:
                raise ValueError(f"conditions: {name!r} takes numbers: {e}.") from e
            if np.isinf(out[:, j]).any():
                raise ValueError(f"conditions: {name!r} holds infinite values.")
    return out
