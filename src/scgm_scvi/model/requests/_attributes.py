"""Attributes of cells as networks read them: the one currency between requests and engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.module import SCGM_KEYS

from ._spec import ConditionSpec

__all__ = ["Attributes"]

Rows = slice | torch.Tensor


@dataclass(frozen=True)
class Attributes:
    """What is known of cells besides their features, a row a cell.

    Attributes
    ----------
    spec
        Which attributes there are; names go by it.
    tokens
        Categorical conditions ``(n, n_categorical)``, int64; 0 is unspecified, category ``i`` is
        ``i + 1``.
    values
        Numeric conditions ``(n, n_values)``, float32, each of one column or several; NaN is
        unspecified.
    batch
        Codes ``(n, 1)`` of the batch.
    covariates, numeric
        Codes ``(n, n_covariates)`` of categorical covariates, and numbers of continuous ones;
        ``None`` where there are none.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from scgm_scvi.model.requests._attributes import Attributes
    >>> from scgm_scvi.model.requests._kinds import NumericCondition
    >>> from scgm_scvi.model.requests._spec import ConditionSpec
    >>> spec = ConditionSpec(
    ...     categorical={"cell_type": np.array(["B", "T"])},
    ...     numeric={"dose": NumericCondition("continuous")},
    ...     batch={"donor": np.array(["d1"])},
    ...     covariates={},
    ...     numeric_covariates=[],
    ... )
    >>> cells = Attributes(
    ...     spec, torch.tensor([[1], [2]]), torch.ones(2, 1), torch.zeros(2, 1).long()
    ... )
    >>> cells.with_category("cell_type", 1).tokens.ravel()
    tensor([2, 2])
    >>> cells.without({"cell_type"}).specified
    ['dose']
    """

    spec: ConditionSpec
    tokens: torch.Tensor
    values: torch.Tensor
    batch: torch.Tensor
    covariates: torch.Tensor | None = None
    numeric: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, spec: ConditionSpec, tensors: Mapping[str, torch.Tensor]) -> Attributes:
        """Those of a minibatch; conditions that it has no entry of are unspecified."""
        batch = tensors[REGISTRY_KEYS.BATCH_KEY]
        tokens = tensors.get(SCGM_KEYS.CONDITIONS_KEY)
        values = tensors.get(SCGM_KEYS.CONDITION_VALUES_KEY)
        if tokens is None:
            tokens = batch.new_zeros(len(batch), len(spec.categorical))
        if values is None:
            values = torch.full((len(batch), sum(spec.value_widths)), torch.nan)
            values = values.to(batch.device)
        return cls(
            spec,
            tokens.long(),
            values.float(),
            batch,
            tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        )

    @classmethod
    def joined(cls, parts: Sequence[Attributes]) -> Attributes:
        """Cells of several parts, one after the other."""
        first, *others = (part._columns for part in parts)
        return parts[0]._with(
            {k: torch.cat([c, *(o[k] for o in others)]) for k, c in first.items()}
        )

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """A minibatch without features, as modules read it."""
        entries = {
            SCGM_KEYS.CONDITIONS_KEY: self.tokens,
            SCGM_KEYS.CONDITION_VALUES_KEY: self.values,
            REGISTRY_KEYS.BATCH_KEY: self.batch,
            REGISTRY_KEYS.CAT_COVS_KEY: self.covariates,
            REGISTRY_KEYS.CONT_COVS_KEY: self.numeric,
        }
        return {key: value for key, value in entries.items() if value is not None}

    @property
    def specified(self) -> list[str]:
        """Conditions that at least one cell specifies."""
        tokens, values = (self.tokens > 0).any(dim=0), (~self.values.isnan()).any(dim=0)
        known = dict(zip(self.spec.categorical, tokens.tolist(), strict=True))
        known |= {name: bool(values[c].any()) for name, c in self.spec.value_columns.items()}
        return [name for name, is_known in known.items() if is_known]

    def rows(self, rows: Rows) -> Attributes:
        """Those of some cells."""
        return self._each(lambda column: column[rows])

    def repeat(self, times: int) -> Attributes:
        """All cells, and all of them again."""
        return self._each(lambda column: column.repeat(times, 1))

    def to(self, device: torch.device) -> Attributes:
        """The same on a device."""
        return self._each(lambda column: column.to(device))

    def without(self, names: Collection[str]) -> Attributes:
        """With some conditions unspecified."""
        tokens, values = self.tokens.clone(), self.values.clone()
        tokens[:, [j for j, name in enumerate(self.spec.categorical) if name in names]] = 0
        for name, columns in self.spec.value_columns.items():
            if name in names:
                values[:, columns] = torch.nan
        return replace(self, tokens=tokens, values=values)

    def with_category(self, name: str, category: int | np.ndarray | torch.Tensor) -> Attributes:
        """With a category of one condition, by its number: one for all cells, or one for each."""
        tokens = self.tokens.clone()
        tokens[:, self.spec.position(name)] = torch.as_tensor(category, device=tokens.device) + 1
        return replace(self, tokens=tokens)

    def where(self, chosen: torch.Tensor, other: Attributes) -> Attributes:
        """Those of ``other`` for ``chosen`` cells ``(n, 1)``, its own for the rest."""
        new = other._columns
        return self._with(
            {k: torch.where(chosen, new[k].to(c.dtype), c) for k, c in self._columns.items()}
        )

    def differs(self, other: Attributes) -> torch.Tensor:
        """Which cells have an attribute that is another in ``other``, ``(n,)``."""
        out = torch.zeros(len(self), dtype=torch.bool)
        for name, own in self._columns.items():
            a, b = (c.double().nan_to_num(nan=-torch.inf) for c in (own, other._columns[name]))
            out |= (a != b).any(dim=1)
        return out

    def obs(self, index: pd.Index) -> pd.DataFrame:
        """Columns that describe the cells, as a table of rows ``index`` has them."""
        spec, columns = self.spec, {}
        own = {name: column.numpy() for name, column in self._columns.items()}
        for j, (name, categories) in enumerate(spec.categorical.items()):
            dtype = pd.CategoricalDtype(categories, ordered=name in spec.ordered)
            columns[name] = pd.Categorical.from_codes(own["tokens"][:, j] - 1, dtype=dtype)
        for name, place in spec.value_columns.items():
            columns[name] = spec.numeric[name].described(own["values"][:, place])
        for name, categories in spec.batch.items():
            if name in spec.names:
                columns[name] = pd.Categorical.from_codes(own["batch"][:, 0], categories=categories)
        for j, (name, categories) in enumerate(spec.covariates.items()):
            codes = own["covariates"][:, j]
            columns[name] = pd.Categorical.from_codes(codes, categories=categories)
        for j, name in enumerate(spec.numeric_covariates):
            columns[name] = own["numeric"][:, j]
        return pd.DataFrame(columns, index=index)

    @property
    def _columns(self) -> dict[str, torch.Tensor]:
        """Those that there are."""
        columns = {
            k: getattr(self, k) for k in ("tokens", "values", "batch", "covariates", "numeric")
        }
        return {name: column for name, column in columns.items() if column is not None}

    def _with(self, columns: Mapping[str, torch.Tensor]) -> Attributes:
        return Attributes(self.spec, **columns)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Attributes:
        return self._with({name: change(column) for name, column in self._columns.items()})
