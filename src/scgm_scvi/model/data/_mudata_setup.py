"""What in a MuData, or in an AnnData of several kinds of features, a model learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, CategoricalObsField, MuDataNumericalObsField

from scgm_scvi._perturbed import name_perturbations
from scgm_scvi.model.requests._kinds import further_arguments

from ._modalities import gathered_obs
from ._modality import modality_keys
from ._mudata_checks import (
    COLUMN_ARGUMENTS,
    check_cells,
    check_counts,
    check_expression,
    check_keys,
    check_measured,
    check_mudata,
    check_names,
    counts_of,
    modality_widths,
    places_of_columns,
)
from ._mudata_fields import CountsField, GatheredField, MuDataCountsField
from ._setup import SetupMixin, check_keywords, named_columns, take_further
from ._validation import validate_adata, validate_matrix

__all__ = ["MuDataSetupMixin"]

_INDICES = "_scvi_indices"


class MuDataSetupMixin(SetupMixin):
    """Register counts of genes and of peaks, in a MuData or side by side in an AnnData."""

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        rna_key: str = "rna",
        atac_key: str = "atac",
        rna_layer: str | None = None,
        atac_layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        modalities: Mapping[str, str | None] | None = None,
        perturbation_key: str | None = None,
        control: str | None = None,
        perturbation_separator: str = "+",
        dose_key: str | None = None,
        condition_embeddings: Mapping[str, pd.DataFrame] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what in ``mdata`` a model learns from.

        All input is checked before anything is written to ``mdata``. A cell in whose row a
        modality has no count at all was not measured in it.

        Parameters
        ----------
        mdata
            Modalities of the same cells in the same order, in memory and no view. Those of
            different cells: :func:`scgm_scvi.model.pad_modalities`.
        rna_key, atac_key
            Names of the modalities with genes and with peaks. Their order does not matter, and
            there may be others.
        rna_layer, atac_layer
            Layers with raw counts; default ``X``.
        batch_key, labels_key, condition_keys, continuous_condition_keys, \
        categorical_covariate_keys, continuous_covariate_keys, unlabeled_category
            As in :meth:`scgm_scvi.SCGM.setup_anndata`. Columns are looked for in ``mdata.obs``,
            else in the ``obs`` of the modalities, which must not contradict each other.
        modalities
            Argument to the modality whose ``obs`` has its columns, or ``None`` for ``mdata.obs``:
            ``{"batch_key": "rna"}``. As scvi-tools' users write it, ``"rna_layer"`` and
            ``"atac_layer"`` in it name the modalities themselves.
        perturbation_key, control, perturbation_separator, dose_key, condition_embeddings
            As in :meth:`scgm_scvi.SCGM.setup_anndata`. They are further conditions, and are where
            ``condition_keys`` and ``continuous_condition_keys`` are. Responses, of all modalities,
            are learnt of cells that were measured in all.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> MultiSCGM.setup_mudata(mdata, labels_key="cell_type")  # doctest: +SKIP
        """
        check_keywords(kwargs, cls.setup_mudata)
        setup_method_args = cls._get_setup_method_args(**locals())
        setup = setup_method_args["setup_args"]
        setup |= take_further(kwargs)
        name_perturbations(setup)
        if modalities is not None:  # a plain dict is what is saved
            setup["modalities"] = modalities = dict(modalities)
        transferred = kwargs.get("source_registry") is not None
        check_mudata(mdata)
        places = places_of_columns(mdata, setup)
        keys = modality_keys(setup)
        check_keys(mdata, keys)
        check_cells(mdata)
        parts = {key: mdata[key] for key in keys}
        check_names(parts)
        columns = named_columns(setup, (*COLUMN_ARGUMENTS, *further_arguments()))

        def gather(mdata: MuData) -> pd.DataFrame:
            return gathered_obs(mdata, columns, places, keys)

        attributes = cls._attribute_fields(AnnData(obs=gather(mdata)), setup, kwargs, "mdata")
        layers = dict(zip(keys, (rna_layer, atac_layer), strict=True))
        check_counts(parts, layers, transferred)
        mdata[keys[0]].obs[_INDICES] = np.arange(mdata.n_obs)
        counts = zip((REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.ATAC_X_KEY), layers.items(), strict=True)
        fields = [
            *(
                MuDataCountsField(name, layer, mod_key=key, mod_required=True)
                for name, (key, layer) in counts
            ),
            *(GatheredField(field, gather, keys[0]) for field in attributes),
            MuDataNumericalObsField(
                REGISTRY_KEYS.INDICES_KEY, _INDICES, mod_key=keys[0], required=False
            ),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_anndata(  # type: ignore[override]  # needs to know of genes and peaks besides
        cls,
        adata: AnnData,
        modality_key: str = "modality",
        rna_key: str = "Gene Expression",
        atac_key: str = "Peaks",
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        perturbation_key: str | None = None,
        control: str | None = None,
        perturbation_separator: str = "+",
        dose_key: str | None = None,
        condition_embeddings: Mapping[str, pd.DataFrame] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what in an AnnData of genes and peaks side by side a model learns from.

        Parameters
        ----------
        adata
            Cells by features, genes before peaks, in memory and no view.
        modality_key
            Column of ``var`` that says what a feature is: ``"feature_types"`` where scanpy read a
            file of 10x Genomics.
        rna_key, atac_key
            What that column says of genes and of peaks.
        layer
            Layer with raw counts; default ``adata.X``.
        batch_key, labels_key, condition_keys, continuous_condition_keys, \
        categorical_covariate_keys, continuous_covariate_keys, unlabeled_category, \
        perturbation_key, control, perturbation_separator, dose_key, condition_embeddings
            As in :meth:`scgm_scvi.SCGM.setup_anndata`.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> adata = sc.read_10x_h5("filtered_feature_bc_matrix.h5", gex_only=False)
        ... # doctest: +SKIP
        >>> MultiSCGM.setup_anndata(adata, modality_key="feature_types")  # doctest: +SKIP
        """
        check_keywords(kwargs, cls.setup_anndata)
        setup_method_args = cls._get_setup_method_args(**locals())
        setup = setup_method_args["setup_args"]
        setup |= take_further(kwargs)
        name_perturbations(setup)
        transferred = kwargs.get("source_registry") is not None
        if isinstance(adata, MuData):
            raise TypeError("adata is a MuData; use setup_mudata.")
        validate_adata(adata)
        if transferred and modality_key not in adata.var:  # the model's features, in its order
            state = kwargs["source_registry"]["field_registries"][REGISTRY_KEYS.X_KEY]
            sizes = state["state_registry"][CountsField.WIDTHS_KEY]
        else:
            sizes = modality_widths(adata, modality_key, rna_key, atac_key)
        attributes = cls._attribute_fields(adata, setup, kwargs)
        x = counts_of(adata, layer, "adata")
        place = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        if not transferred and x is not None:
            for part, key in ((x[:, : sizes[0]], rna_key), (x[:, sizes[0] :], atac_key)):
                check_measured(part, f"{place} of the features with {modality_key!r} {key!r}")
        validate_matrix(adata, layer, True, check_features=not transferred)
        if not transferred:
            check_expression(x[:, : sizes[0]], f"{place} of the genes")
        fields = [CountsField(REGISTRY_KEYS.X_KEY, layer, sizes), *attributes]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _further_fields(
        cls, labels_key: str | None, unlabeled_category: str | None
    ) -> list[BaseAnnDataField]:
        return [CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None)]  # as MULTIVI has it
