"""What in an AnnData a model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._utils import _get_adata_minify_type
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from scgm_scvi.module import SCGM_KEYS

from ._fields import ConditionsField
from ._validation import validate_adata, validate_keys, validate_matrix

__all__ = ["SetupMixin"]


class SetupMixin:
    """Register an AnnData of counts."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        is_count_data: bool = True,
        **kwargs: Any,
    ) -> None:
        """Say what in ``adata`` a model learns from.

        All input is checked before anything is written to ``adata``.

        Parameters
        ----------
        adata
            Cells by features, in memory and no view.
        layer
            Layer with raw counts; default ``adata.X``.
        batch_key, categorical_covariate_keys, continuous_covariate_keys
            Columns of ``obs`` with nuisances: removed from the latent, given to the decoder.
        labels_key
            Column with cell types. Missing values are "unspecified".
        condition_keys
            Columns with further categorical attributes to steer by. Missing values are
            "unspecified".
        continuous_condition_keys
            Columns with numeric attributes to steer by (dose, age, time). NaN is "unspecified".
        size_factor_key
            Column with size factors, used in place of the library size.
        is_count_data
            ``False`` for log-normalised values, with ``gene_likelihood="normal"``.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> import scgm_scvi
        >>> adata = scgm_scvi.datasets.pbmc68k()
        >>> scgm_scvi.SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["phase"])
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        minify_type = _get_adata_minify_type(adata) if isinstance(adata, AnnData) else None
        transferred = kwargs.get("source_registry") is not None
        validate_adata(adata)
        lists = {
            "condition_keys": condition_keys,
            "continuous_condition_keys": continuous_condition_keys,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        lists = {argument: _as_list(value, argument) for argument, value in lists.items()}
        labels = [labels_key] if labels_key else []
        keys = {
            "batch_key": [batch_key],
            "labels_key": labels,
            "size_factor_key": [size_factor_key],
            **lists,
        }
        if kwargs.get("extend_categories"):  # a query may lack conditions: unspecified
            del keys["labels_key"], keys["condition_keys"]
        numeric = ("continuous_condition_keys", "size_factor_key", "continuous_covariate_keys")
        validate_keys(adata, keys, numeric)
        if minify_type is None:
            validate_matrix(adata, layer, is_count_data, check_features=not transferred)
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=is_count_data),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
            ConditionsField(SCGM_KEYS.CONDITIONS_KEY, [*labels, *lists["condition_keys"]]),
            NumericalJointObsField(SCGM_KEYS.CONDITION_VALUES_KEY, continuous_condition_keys),
        ]
        if minify_type is not None:
            fields += cls._get_fields_for_adata_minification(minify_type)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)


def _as_list(keys: Sequence[str] | None, argument: str) -> list[str]:
    if isinstance(keys, str):
        raise TypeError(f"{argument} is the string {keys!r}; pass a list: [{keys!r}].")
    return list(keys or [])
