"""scvi's model of genes and peaks with a diffusion prior on its latent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.model import MULTIVI

from scgm_scvi._errors import listed
from scgm_scvi.model.data._matrices import Matrix
from scgm_scvi.model.data._modalities import gathered_obs, holding, make_mudata
from scgm_scvi.model.data._modality import modalities_of
from scgm_scvi.model.data._mudata_cells import MuDataCells
from scgm_scvi.model.data._mudata_setup import MuDataSetupMixin
from scgm_scvi.model.data._setup import named_columns
from scgm_scvi.model.data._validation import match_features, validate_adata
from scgm_scvi.model.verbs._multivi_getters import MultiviGettersMixin
from scgm_scvi.model.verbs._translation import TranslationMixin
from scgm_scvi.module import FEATURE_KEYS, DiffusionMULTIVAE

from ._placeholder import PlaceholderMixin, placeholder_obs
from ._pretrained import PretrainedMixin
from ._pretrained_peaks import opened

__all__ = ["DiffusionMULTIVI"]

_COLUMNS = ("batch_key", "categorical_covariate_keys", "continuous_covariate_keys")


class OpenPeakMuDataCells(MuDataCells):
    """Counts of genes, and which peaks are open, as of generated cells."""

    def counts(self, manager: AnnDataManager) -> sparse.csr_matrix:
        return self._opened(super().counts(manager))

    def features(self, data: AnnData | MuData) -> sparse.csr_matrix:
        return self._opened(super().features(data))

    def _opened(self, x: Matrix) -> sparse.csr_matrix:
        x, n = sparse.csr_matrix(x), len(self.modalities[0].names)
        return sparse.hstack([x[:, :n], opened(x[:, n:])], format="csr")


class DiffusionMULTIVI(
    MuDataSetupMixin,
    TranslationMixin,
    MultiviGettersMixin,
    PretrainedMixin,
    PlaceholderMixin,
    MULTIVI,
):
    """:class:`scvi.model.MULTIVI` of genes and peaks with a diffusion prior on its latent.

    Made by :meth:`scgm_scvi.SCGM.from_scvi_model`. Stage one is scvi's, and so is :meth:`train`;
    stage two and all that it offers are those of :class:`scgm_scvi.MultiSCGM`, :meth:`translate`
    among them. Generated cells are a MuData of counts of genes and of open peaks (0 or 1). What is
    diffused beside the latent are the sizes that scvi infers: the log library size of the genes,
    and the log odds of the depth of the peaks.

    Parameters
    ----------
    adata
        MuData registered by :meth:`setup_mudata`.
    registry
        Of saved data, instead of ``adata``.
    denoiser_kwargs, noise
        As of :class:`scgm_scvi.SCGM`.
    **scvi_kwargs
        Of :class:`scvi.model.MULTIVI`.

    Examples
    --------
    >>> from scgm_scvi.model import DiffusionMULTIVI
    >>> DiffusionMULTIVI.setup_mudata(mdata, labels_key="cell_type")  # doctest: +SKIP
    >>> model = DiffusionMULTIVI(mdata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> model.train_diffusion()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP
    """

    _module_cls = DiffusionMULTIVAE
    _cells_cls = OpenPeakMuDataCells
    _container = "mdata"
    minified_data_type = None

    @classmethod
    def _require_supported(cls, scvi_model: MULTIVI) -> None:
        module, setup = scvi_model.module, scvi_model.registry["setup_args"]
        named = setup.get("modalities") or {}
        if module.n_input_proteins or named.get("protein_layer"):
            raise ValueError(
                "The MULTIVI model has proteins, for which there is no diffusion prior. Train one "
                "on genes and peaks: setup_mudata without 'protein_layer'."
            )
        if not (named.get("rna_layer") and named.get("atac_layer")):
            raise ValueError(
                "The MULTIVI model is not one of genes and peaks in a MuData, as set up by "
                "modalities={'rna_layer': ..., 'atac_layer': ...}. For one modality, take SCVI, "
                "PEAKVI or POISSONVI."
            )
        if module.modality_weights == "cell":
            raise ValueError(
                "The MULTIVI model has modality_weights='cell', which are weights of its own cells: "
                "no other cell can be encoded. Train it with 'equal' or 'universal'."
            )
        if setup.get("size_factor_key"):
            raise ValueError(
                "The MULTIVI model has size factors, which are not supported. Train it without "
                "size_factor_key: it infers sizes then."
            )

    @classmethod
    def _checked_obs(cls, scvi_model: MULTIVI, adata: Any) -> pd.DataFrame:
        setup = cls._own_setup(scvi_model)
        if not isinstance(adata, MuData):
            raise TypeError(
                f"adata is a {type(adata).__name__}; a MULTIVI model learns from a MuData with the "
                f"modalities {setup['rna_key']!r} and {setup['atac_key']!r}."
            )
        keys = [setup["rna_key"], setup["atac_key"]]
        for key, field in zip(keys, FEATURE_KEYS, strict=True):
            if key not in adata.mod:
                raise KeyError(f"mdata has no modality {key!r}, but {listed(adata.mod)}.")
            validate_adata(adata[key], name=f"mdata[{key!r}]")
            names = pd.Index(scvi_model.get_state_registry(field)["column_names"])
            if match_features(adata[key], names, name=f"mdata[{key!r}]") is not adata[key]:
                raise ValueError(
                    f"mdata[{key!r}] has features that the model was not trained on, or its own in "
                    "another order. Pass those of the model, as scvi_model.get_var_names() has them."
                )
        columns = named_columns(setup, _COLUMNS)
        return gathered_obs(adata, columns, setup["modalities"], keys)

    @classmethod
    def _set_up_as(cls, scvi_model: MULTIVI, adata: Any, **conditions: Any) -> None:
        setup = cls._own_setup(scvi_model)
        cls.setup_mudata(adata, source_registry=scvi_model.registry, **conditions, **setup)

    @staticmethod
    def _own_setup(scvi_model: MULTIVI) -> dict[str, Any]:
        """What :meth:`setup_mudata` is to be told, in place of MULTIVI's."""
        setup = scvi_model.registry["setup_args"]
        named = dict(setup["modalities"])
        keys = {"rna_key": named["rna_layer"], "atac_key": named["atac_layer"]}
        same = {k: setup.get(k) for k in ("rna_layer", "atac_layer", *_COLUMNS)}
        places = {k: named.get(k) for k in _COLUMNS if setup.get(k)}
        return {**keys, **same, "modalities": places}

    @classmethod
    def _placeholder(cls, registry: Mapping[str, Any]) -> MuData:
        obs, modalities = placeholder_obs(registry), modalities_of(registry)
        x = [np.ones((len(obs), len(b.names)), dtype=np.float32) for b in modalities]
        cells = make_mudata(
            {
                b.key: holding(sparse.csr_matrix(2 * part), b.names, obs.index, b.layer)
                for b, part in zip(modalities, x, strict=True)
            },
            obs,
        )
        keys = dict(zip(("rna_layer", "atac_layer"), (b.key for b in modalities), strict=True))
        setup = {**registry["setup_args"], "modalities": keys}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            cls.setup_mudata(cells, source_registry=registry, **setup)
        return cells
