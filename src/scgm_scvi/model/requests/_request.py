"""What a user asks of cells, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from scgm_scvi._errors import listed, shown

from ._attributes import Attributes
from ._condition_tables import Conditions, read_table
from ._names import named_index
from ._spec import ConditionSpec
from ._tokens import condition_tokens

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """A request for cells, one row a cell.

    Attributes
    ----------
    tokens, values
        Conditions, ``(n, n_categorical)`` with 0 and ``(n, n_values)`` with NaN where
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
            values=_value_columns(table, spec, n),
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
    ) -> Attributes:
        """Attributes of the cells, complete.

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
        nuisances = torch.as_tensor(np.where(self.nuisances == 0, drawn, self.nuisances) - 1)
        numeric = torch.as_tensor(design["numeric"][rows])
        return Attributes(
            self.spec,
            torch.as_tensor(self.tokens),
            torch.as_tensor(self.values),
            nuisances[:, :1],
            nuisances[:, 1:] if self.spec.covariates else None,
            numeric if self.spec.numeric_covariates else None,
        )

    def instead_of(self, own: Attributes) -> Attributes:
        """The conditions that the request has for cells, in place of their ``own``.

        What the request leaves out is unspecified; batch and covariates are the cells' own where
        it does not name them.
        """
        asked = torch.as_tensor(self.nuisances).to(own.batch.device)
        batch, covariates = asked[:, :1], own.covariates
        if covariates is not None:
            covariates = torch.where(asked[:, 1:] > 0, asked[:, 1:] - 1, covariates.long())
        return replace(
            own,
            tokens=torch.as_tensor(self.tokens),
            values=torch.as_tensor(self.values),
            batch=torch.where(batch > 0, batch - 1, own.batch.long()),
            covariates=covariates,
        )

    def over(self, own: Attributes, named: Collection[str]) -> Attributes:
        """The ``own`` attributes of cells with those in ``named`` as the request has them."""
        asked, spec = self.instead_of(own), self.spec
        tokens = torch.tensor([name not in named for name in spec.categorical], dtype=torch.bool)
        kept = np.repeat([name not in named for name in spec.numeric], spec.value_widths)
        values = torch.tensor(kept.astype(bool))
        return replace(
            asked,
            tokens=torch.where(tokens, own.tokens, asked.tokens),
            values=torch.where(values, own.values, asked.values),
        )

    def index(self, start: int, n: int) -> pd.Index:
        """Names of ``n`` cells from ``start`` on."""
        if self.names is not None:
            return self.names[start : start + n]
        return pd.Index([f"generated_{i}" for i in range(start, start + n)])

    def rows(self, start: int, stop: int) -> Request:
        """The cells from ``start`` to ``stop``."""
        part = slice(start, stop)
        return Request(self.spec, self.tokens[part], self.values[part], self.nuisances[part])


def _token_columns(
    table: Mapping[str, list | np.ndarray],
    attributes: Mapping[str, np.ndarray],
    n: int,
    spec: ConditionSpec,
) -> np.ndarray:
    out = np.zeros((n, len(attributes)), dtype=np.int64)
    for j, (name, categories) in enumerate(attributes.items()):
        if name in table:
            column = pd.Series(np.asarray(table[name], dtype=object))
            column = _as_seen(name, column, categories, spec)
            _require_seen(name, column, categories, spec)
            out[:, j] = condition_tokens(column, categories, name, spec.unspecified.get(name))
            _require_met(name, out[:, j], categories, spec.met.get(name))
    return out


def _as_seen(
    name: str, column: pd.Series, categories: np.ndarray, spec: ConditionSpec
) -> pd.Series:
    """Sets of perturbations in the order in which cells have them, as parts have none."""
    perturbations = spec.perturbations
    if perturbations is None or perturbations.key != name:
        return column
    seen = {perturbations.parts(c): c for c in reversed(categories)}
    seen.pop((), None)  # the control has one name
    strange = column.map(lambda v: isinstance(v, str)) & ~column.isin(list(categories))
    found = column[strange].map(lambda v: seen.get(perturbations.parts(v), v))
    return column.where(~strange, found)


def _require_seen(
    name: str, column: pd.Series, categories: np.ndarray, spec: ConditionSpec
) -> None:
    """Raise for a perturbation that no cell had: networks were never shown it."""
    perturbations = spec.perturbations
    if perturbations is None or perturbations.key != name:
        return
    seen = {part for c in categories for part in perturbations.parts(c)}
    for value in column[column.notna() & ~column.isin(list(categories))].unique():
        parts = perturbations.parts(value)
        if parts and all(p in seen or p in perturbations.vectors.index for p in parts):
            raise ValueError(
                f"No training cell had {name!r} {shown(value)}. model.predict(controls, [...]) and "
                f"model.edit(controls, {{{name!r}: ...}}) answer for what was not seen."
            )


def _require_met(
    name: str, tokens: np.ndarray, categories: np.ndarray, met: np.ndarray | None
) -> None:
    """Raise for a category that is known by name alone, such as an unused one of a column."""
    if met is None:
        return
    strange = tokens[(tokens > 0) & ~np.isin(tokens, met)]
    if len(strange):
        raise ValueError(
            f"{shown(categories[strange[0] - 1])} is a category of {name!r} that no training cell "
            f"has, so that the model learnt nothing of it. Trained on: "
            f"{listed(categories[met[met > 0] - 1])}."
        )


def _value_columns(
    table: Mapping[str, list | np.ndarray], spec: ConditionSpec, n: int
) -> np.ndarray:
    out = np.full((n, sum(spec.value_widths)), np.nan, dtype=np.float32)
    for name, columns in spec.value_columns.items():
        if name in table:
            column = pd.Series(table[name], dtype=object)
            out[:, columns] = spec.numeric[name].numbers(column, name)
    return out
