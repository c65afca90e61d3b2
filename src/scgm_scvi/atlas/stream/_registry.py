"""Attributes of the cells of a training store, as scvi-tools registers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch

from scgm_scvi._perturbed import check_perturbations, name_perturbations

from ._training_cells import TrainingCells

__all__ = ["Attributes", "categorical_column"]

# scgm_scvi.module.SCGM_KEYS: the atlas imports no model
_CONDITIONS, _CONDITION_VALUES = "scgm_conditions", "scgm_condition_values"


@dataclass(frozen=True)
class _Codes:
    """Category of each cell, by its number; -1 is missing."""

    codes: np.ndarray
    categories: np.ndarray

    @classmethod
    def of(cls, column: pd.Categorical, missing: str | None = None) -> _Codes:
        """Only categories that occur, in their order."""
        codes = np.asarray(column.codes)
        sizes = np.bincount(codes[codes >= 0], minlength=len(column.categories))
        kept = np.flatnonzero((sizes > 0) & (np.asarray(column.categories) != missing))
        table = np.full(len(sizes) + 1, -1, dtype=codes.dtype)  # its last entry is for -1
        table[kept] = np.arange(len(kept))
        return cls(table[codes], column.categories.to_numpy(dtype=object)[kept])


class Attributes:
    """Columns of ``obs`` in memory, a few bytes a cell.

    Parameters
    ----------
    cells
        The store.
    labels_key, batch_key, condition_keys, continuous_condition_keys, categorical_covariate_keys, \
    continuous_covariate_keys, unlabeled_category, perturbation_key, control, \
    perturbation_separator, dose_key, condition_embeddings
        Of :class:`AtlasDataModule`.

    Attributes
    ----------
    batches, label_names
        Their names, in the order of their numbers.
    labels
        Number of each cell's label; -1 is unspecified.
    """

    def __init__(
        self,
        cells: TrainingCells,
        *,
        labels_key: str | None,
        batch_key: str | None,
        condition_keys: Sequence[str],
        continuous_condition_keys: Sequence[str],
        categorical_covariate_keys: Sequence[str],
        continuous_covariate_keys: Sequence[str],
        unlabeled_category: str | None,
        perturbation_key: str | None = None,
        control: str | None = None,
        perturbation_separator: str = "+",
        dose_key: str | None = None,
        condition_embeddings: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        lists = {
            "condition_keys": condition_keys,
            "continuous_condition_keys": continuous_condition_keys,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        for argument, keys in lists.items():
            if isinstance(keys, str):
                raise TypeError(f"{argument} is the string {keys!r}; pass a list: [{keys!r}].")
        self._setup_args = {
            "layer": None,
            "batch_key": batch_key,
            "labels_key": labels_key,
            **{argument: list(keys) or None for argument, keys in lists.items()},
            "size_factor_key": None,
            "is_count_data": True,
            "unlabeled_category": None if labels_key is None else unlabeled_category,
            "perturbation_key": perturbation_key,
            "control": control,
            "perturbation_separator": perturbation_separator,
            "dose_key": dose_key,
            "condition_embeddings": condition_embeddings,
        }
        name_perturbations(self._setup_args)
        if perturbation_key is not None and control == unlabeled_category:
            raise ValueError(
                f"control and unlabeled_category are both {control!r}: control cells would be "
                "unspecified. Pass another unlabeled_category, or None."
            )
        condition_keys = self._setup_args["condition_keys"] or ()
        continuous_condition_keys = self._setup_args["continuous_condition_keys"] or ()
        conditions = [*([labels_key] if labels_key else []), *condition_keys]
        self._conditions = {
            key: _Codes.of(categorical_column(cells, key), unlabeled_category) for key in conditions
        }
        self._values = {key: _numbers(cells, key) for key in continuous_condition_keys}
        self._batch = None if batch_key is None else _Codes.of(categorical_column(cells, batch_key))
        self._covariates = {
            key: _Codes.of(categorical_column(cells, key)) for key in categorical_covariate_keys
        }
        self._numeric = {key: _numbers(cells, key) for key in continuous_covariate_keys}
        nuisances = dict(self._covariates) | ({batch_key: self._batch} if batch_key else {})
        incomplete = {key: (nuisance.codes < 0).sum() for key, nuisance in nuisances.items()}
        incomplete |= {key: np.isnan(values).sum() for key, values in self._numeric.items()}
        for key, n_missing in incomplete.items():
            if n_missing:
                raise ValueError(
                    f"obs[{key!r}] of the training store is missing for {n_missing} of "
                    f"{cells.n_obs} cells. Batch and covariates need a value for each cell; "
                    "conditions do not."
                )
        if perturbation_key is not None:
            check_perturbations(self._obs(), self._setup_args, "store", is_first=True)
        self.batches = np.array([0]) if self._batch is None else self._batch.categories
        label = self._conditions.get(labels_key)
        self.labels = np.full(cells.n_obs, -1, np.int8) if label is None else label.codes
        names = np.array([], dtype=object) if label is None else label.categories
        if len(self.labels) and self.labels.min() < 0:  # scvi-tools has no null token
            names = np.append(names, unlabeled_category or "unlabeled")
        self.label_names = names

    def _obs(self) -> pd.DataFrame:
        """The conditions of all cells, as a model is told them."""
        columns = {
            key: pd.Categorical.from_codes(c.codes, c.categories)
            for key, c in self._conditions.items()
        }
        return pd.DataFrame({**columns, **self._values}, copy=False)

    def tensors(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Attributes of some cells, under the names of scvi-tools' registry."""
        n = len(rows)
        batch = np.zeros(n, np.int64) if self._batch is None else self._batch.codes[rows]
        label = self.labels[rows].astype(np.int64)
        label[label < 0] = len(self.label_names) - 1
        out = {"batch": _integers([batch], n), "labels": _integers([label], n)}
        if self._conditions:
            tokens = [c.codes[rows].astype(np.int64) + 1 for c in self._conditions.values()]
            out[_CONDITIONS] = _integers(tokens, n)
        if self._values:
            out[_CONDITION_VALUES] = _floats([v[rows] for v in self._values.values()])
        if self._covariates:
            codes = [c.codes[rows] for c in self._covariates.values()]
            out["extra_categorical_covs"] = _integers(codes, n)
        if self._numeric:
            out["extra_continuous_covs"] = _floats([v[rows] for v in self._numeric.values()])
        return out

    def registry(self, n_obs: int, genes: np.ndarray) -> dict[str, Any]:
        """As ``setup_anndata`` of :class:`scgm_scvi.SCGM` writes it for cells in memory."""
        keys = self._setup_args
        missing = keys["unlabeled_category"]
        fields = {
            "X": _field(
                {"attr_name": "X", "attr_key": None},
                {"n_obs": n_obs, "n_vars": len(genes), "column_names": genes},
                {"n_vars": len(genes), "n_cells": n_obs},
            ),
            "batch": _field(
                {"attr_name": "obs", "attr_key": "_scvi_batch"},
                {
                    "categorical_mapping": self.batches,
                    "original_key": keys["batch_key"] or "_scvi_batch",
                },
                {"n_batch": len(self.batches)},
            ),
            "labels": _field(
                {"attr_name": "obs", "attr_key": "_scvi_labels"},
                {
                    "categorical_mapping": self.label_names,
                    "original_key": keys["labels_key"] or "_scvi_labels",
                },
                {"n_labels": len(self.label_names)},
            ),
            "size_factor": _field({}, {}, {}),
            "extra_categorical_covs": _joint(
                "extra_categorical_covs", _categories(self._covariates)
            ),
            "extra_continuous_covs": _joint("extra_continuous_covs", _columns(self._numeric)),
            _CONDITIONS: _joint(
                _CONDITIONS,
                _categories(self._conditions)
                and {
                    **_categories(self._conditions),
                    "unspecified": {} if missing is None else {keys["labels_key"]: missing},
                    "ordered": [],  # a store keeps the names of categories alone
                },
            ),
            _CONDITION_VALUES: _joint(_CONDITION_VALUES, _columns(self._values)),
        }
        return {
            "scvi_version": version("scvi-tools"),
            "model_name": "SCGM",
            "setup_args": dict(keys),
            "field_registries": fields,
            "setup_method_name": "setup_datamodule",
        }


def _field(data: dict, state: dict, stats: dict) -> dict[str, dict]:
    return {"data_registry": data, "state_registry": state, "summary_stats": stats}


def _joint(key: str, state: dict) -> dict[str, dict]:
    """A field of several columns, or of none."""
    data = {"attr_name": "obsm", "attr_key": f"_scvi_{key}"} if state else {}
    n = len(state.get("field_keys", state.get("columns", ())))
    return _field(data, state, {f"n_{key}": n})


def _categories(columns: dict[str, _Codes]) -> dict[str, Any]:
    if not columns:
        return {}
    return {
        "mappings": {key: c.categories for key, c in columns.items()},
        "field_keys": list(columns),
        "n_cats_per_key": [len(c.categories) for c in columns.values()],
    }


def _columns(values: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"columns": np.array(list(values), dtype=object)} if values else {}


def _integers(columns: list[np.ndarray], n: int) -> torch.Tensor:
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int64).reshape(n, -1))


def _floats(columns: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(columns, axis=1))


def categorical_column(cells: TrainingCells, key: str) -> pd.Categorical:
    """A column of ``obs`` that has to be categorical."""
    column = cells.column(key)
    if not isinstance(column, pd.Categorical):
        raise TypeError(
            f"obs[{key!r}] of the training store is numeric. Name it among the continuous keys, or "
            "make it categorical before the store is written."
        )
    return column


def _numbers(cells: TrainingCells, key: str) -> np.ndarray:
    column = cells.column(key)
    if isinstance(column, pd.Categorical):
        raise TypeError(
            f"obs[{key!r}] of the training store is categorical. Name it among the categorical keys, "
            "or make it numeric before the store is written."
        )
    if np.isinf(column).any():
        raise ValueError(f"obs[{key!r}] of the training store holds infinite values.")
    return column
