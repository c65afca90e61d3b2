"""The registry fields of counts, of categorical conditions, and of scvi's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    BaseAnnDataField,
    CategoricalJointObsField,
    CategoricalObsField,
    LabelsWithUnlabeledObsField,
    LayerField,
)

from scgm_scvi._errors import listed
from scgm_scvi.model.requests._tokens import condition_tokens, without_unspecified

from ._matrices import fingerprint

__all__ = [
    "ConditionsField",
    "LabelsField",
    "MatrixField",
    "labels_state",
]


class MatrixField(LayerField):
    """Cells by features, in one order of features, and what tells their values from others.

    Values are checked before any field is registered, so that they are not looked at here: scvi's
    parent field draws twenty of them by numpy's global state.
    """

    FINGERPRINT_KEY = "fingerprint"

    def validate_field(self, adata: AnnData) -> None:
        """Check that there are values."""
        BaseAnnDataField.validate_field(self, adata)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """As scvi does, and take a fingerprint."""
        x = self.get_field_data(adata)
        self.correct_data_format = isinstance(x, np.ndarray)  # into C order
        return {**super().register_field(adata), self.FINGERPRINT_KEY: fingerprint(x)}

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """As scvi does, and refuse features that are not the same in the same order."""
        names = pd.Index(np.asarray(state_registry[self.COLUMN_NAMES_KEY]))
        have = adata_target.var_names
        if not have.equals(names):
            lacking = names.difference(have, sort=False)
            what = (
                f"lacks {len(lacking)} of them: {listed(lacking, 5)}"
                if len(lacking)
                else "has others besides"
                if len(have) > len(names)
                else "has them in another order"
            )
            raise ValueError(
                f"The model was trained on {len(names)} features, and adata.var_names {what}. Pass "
                "adata[:, names].copy(), where names = model.get_var_names()."
            )
        return super().transfer_field(state_registry, adata_target, **kwargs)


class ConditionsField(CategoricalJointObsField):
    """Categorical conditions of cells as tokens in ``obsm``; missing values are "unspecified".

    Unlike its parent it accepts missing values, and new categories always append at the tail.

    Parameters
    ----------
    registry_key
        Key in scvi's data registry.
    attr_keys
        Columns of ``obs``.
    unspecified
        Column to a value of it that counts as missing, as of cells that wait for a label.
    """

    UNSPECIFIED_KEY = "unspecified"
    ORDERED_KEY = "ordered"

    def __init__(
        self,
        registry_key: str,
        attr_keys: list[str] | None,
        unspecified: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(registry_key, attr_keys)
        self.unspecified = dict(unspecified or {})

    def _write_tokens(
        self, adata: AnnData, categories: dict[str, np.ndarray], ordered: list[str]
    ) -> dict[str, Any]:
        columns = [
            condition_tokens(adata.obs[k], categories[k], k, self.unspecified.get(k))
            if k in adata.obs
            else np.zeros(adata.n_obs, dtype=np.int64)
            for k in self.attr_keys
        ]
        adata.obsm[self.attr_key] = np.stack(columns, axis=1)
        return {
            self.MAPPINGS_KEY: categories,
            self.FIELD_KEYS_KEY: list(self.attr_keys),
            self.N_CATS_PER_KEY: [len(categories[k]) for k in self.attr_keys],
            self.UNSPECIFIED_KEY: self.unspecified,
            self.ORDERED_KEY: ordered,
        }

    def _present(self, adata: AnnData, key: str) -> np.ndarray:
        """Categories in use, in their order."""
        return _in_use(without_unspecified(adata.obs[key], self.unspecified.get(key)))

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Take the categories present in ``adata`` and write the tokens."""
        self.validate_field(adata)
        ordered = [k for k in self.attr_keys if getattr(adata.obs[k].dtype, "ordered", False)]
        categories = {k: self._present(adata, k) for k in self.attr_keys}
        return self._write_tokens(adata, categories, ordered)

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Use another object's categories; new ones append, or are an error.

        With ``extend_categories`` a column that the target lacks is unspecified throughout.
        """
        if not extend_categories:
            self.validate_field(adata_target)
        categories = {}
        for key in self.attr_keys:
            known = np.asarray(state_registry[self.MAPPINGS_KEY][key])
            if extend_categories and key in adata_target.obs:
                present = self._present(adata_target, key)
                new = [c for c in present.tolist() if c not in set(known.tolist())]
                known = pd.Index([*known.tolist(), *new]).to_numpy()
            categories[key] = known
        known = state_registry[self.MAPPINGS_KEY]
        ordered = [  # where a new one belongs is not known
            k
            for k in state_registry.get(self.ORDERED_KEY, [])
            if len(categories[k]) == len(known[k])
        ]
        return self._write_tokens(adata_target, categories, ordered)


class LabelsField(LabelsWithUnlabeledObsField):
    """scvi's labels, which cells may lack.

    Parameters
    ----------
    registry_key
        Key in scvi's data registry.
    obs_key
        Column of ``obs``; ``None``: all cells are the same.
    unlabeled_category
        Value of cells that are not labelled, which then has the last code, as in scvi's parent
        field; missing values are taken for it. ``None``: there is none, and the code of missing
        values is -1.
    """

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Take the labels in use, in their order, and write their codes."""
        if self.is_default:
            return CategoricalObsField.register_field(self, adata)
        self.validate_field(adata)
        column = adata.obs[self._original_attr_key]
        state = labels_state(
            self._original_attr_key,
            _in_use(without_unspecified(column, self._unlabeled_category)),
            self._unlabeled_category,
        )
        self._write_codes(adata, state[self.CATEGORICAL_MAPPING_KEY])
        return state

    def _write_codes(self, adata: AnnData, mapping: np.ndarray) -> None:
        key, unlabeled = self._original_attr_key, self._unlabeled_category
        codes = condition_tokens(adata.obs[key], mapping, key) - 1
        if unlabeled is not None:
            codes[codes < 0] = mapping.tolist().index(unlabeled)
        adata.obs[self.attr_key] = codes

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: AnnData,
        extend_categories: bool = False,
        allow_missing_labels: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Use another object's labels; new ones are an error, or append where scvi lets them."""
        unlabeled = self._unlabeled_category
        absent = self._original_attr_key not in adata_target.obs
        if self.is_default:
            return CategoricalObsField.transfer_field(self, state_registry, adata_target)
        if absent and allow_missing_labels and unlabeled is not None:
            adata_target.obs[self._original_attr_key] = unlabeled
        elif absent and allow_missing_labels:
            adata_target.obs[self.attr_key] = np.full(adata_target.n_obs, -1)
            return dict(state_registry)
        self.validate_field(adata_target)
        column = adata_target.obs[self._original_attr_key]
        known = state_registry[self.CATEGORICAL_MAPPING_KEY].tolist()
        if unlabeled is not None and unlabeled not in known:
            known.append(unlabeled)
        elif unlabeled is None and extend_categories:
            known += [c for c in column.dropna().unique().tolist() if c not in set(known)]
        mapping = pd.Index(known).to_numpy()
        self._write_codes(adata_target, mapping)
        state = {**state_registry, self.CATEGORICAL_MAPPING_KEY: mapping}
        return state if unlabeled is None else {**state, self.UNLABELED_CATEGORY: unlabeled}


def labels_state(
    key: str | None, labels: np.ndarray, unlabeled_category: Any = None
) -> dict[str, Any]:
    """What scvi's registry says of labels; the unlabelled category comes last.

    Parameters
    ----------
    key
        Their column of ``obs``; ``None`` if there is none.
    labels
        The labels in order, without the unlabelled category.
    """
    state = {
        LabelsField.CATEGORICAL_MAPPING_KEY: np.asarray(labels),
        LabelsField.ORIGINAL_ATTR_KEY: f"_scvi_{REGISTRY_KEYS.LABELS_KEY}" if key is None else key,
    }
    if unlabeled_category is None:
        return state
    mapping = pd.Index([*np.asarray(labels).tolist(), unlabeled_category]).to_numpy()
    return {
        **state,
        LabelsField.CATEGORICAL_MAPPING_KEY: mapping,
        LabelsField.UNLABELED_CATEGORY: unlabeled_category,
    }


def _in_use(column: pd.Series) -> np.ndarray:
    """Categories that occur, in their order."""
    return column.astype("category").cat.remove_unused_categories().cat.categories.to_numpy()
