"""The registry field of categorical conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import CategoricalJointObsField

from scgm_scvi._errors import listed, nearest

__all__ = ["ConditionsField", "condition_tokens"]


def condition_tokens(column: pd.Series, categories: np.ndarray, name: str) -> np.ndarray:
    """Tokens of a column: 0 where missing, ``i + 1`` for ``categories[i]``; int64 ``(n,)``.

    Raises
    ------
    ValueError
        If a value is not among the categories.
    """
    codes = pd.Index(categories).get_indexer(column)
    unknown = (codes < 0) & column.notna().to_numpy()
    if unknown.any():
        value = column.to_numpy()[unknown][0]
        raise ValueError(
            f"{value!r} is not a known category of {name!r}. Known: {listed(categories)}."
            f"{nearest(value, categories)} Leave {name!r} out, or give a missing value, for "
            "'unspecified'."
        )
    return codes.astype(np.int64) + 1


class ConditionsField(CategoricalJointObsField):
    """Categorical conditions of cells as tokens in ``obsm``; missing values are "unspecified".

    Unlike its parent it accepts missing values, and new categories always append at the tail.

    Parameters
    ----------
    registry_key
        Key in scvi's data registry.
    attr_keys
        Columns of ``obs``.
    """

    def _write_tokens(self, adata: AnnData, categories: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = [
            condition_tokens(adata.obs[k], categories[k], k)
            if k in adata.obs
            else np.zeros(adata.n_obs, dtype=np.int64)
            for k in self.attr_keys
        ]
        adata.obsm[self.attr_key] = np.stack(columns, axis=1)
        return {
            self.MAPPINGS_KEY: categories,
            self.FIELD_KEYS_KEY: list(self.attr_keys),
            self.N_CATS_PER_KEY: [len(categories[k]) for k in self.attr_keys],
        }

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Take the categories present in ``adata`` and write the tokens."""
        self.validate_field(adata)
        return self._write_tokens(adata, {k: _categories(adata.obs[k]) for k in self.attr_keys})

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
                present = _categories(adata_target.obs[key])
                new = [c for c in present.tolist() if c not in set(known.tolist())]
                known = pd.Index([*known.tolist(), *new]).to_numpy()
            categories[key] = known
        return self._write_tokens(adata_target, categories)


def _categories(column: pd.Series) -> np.ndarray:
    """Categories in use, in their order."""
    return column.astype("category").cat.remove_unused_categories().cat.categories.to_numpy()
