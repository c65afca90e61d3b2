"""scvi's own models with a diffusion prior on their latent."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from scvi.model import SCANVI, SCVI
from scvi.model.base import BaseModelClass

from scgm_scvi.model._latent_diffusion_model import LatentDiffusionModel
from scgm_scvi.model.data._registry import completed_registry
from scgm_scvi.model.data._setup import SetupMixin
from scgm_scvi.model.data._validation import has_fractions, match_features, validate_adata
from scgm_scvi.model.verbs._expression_getters import ExpressionGettersMixin
from scgm_scvi.module import DiffusionSCANVAE, DiffusionVAE

__all__ = ["DiffusionSCANVI", "DiffusionSCVI", "PretrainedMixin"]

_SETUP = (
    "layer",
    "batch_key",
    "labels_key",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
    "unlabeled_category",
)


class PretrainedMixin(SetupMixin, LatentDiffusionModel):
    """Give an scvi model a denoiser, whatever its own parameters are.

    Comes before the scvi model among the bases. The module is that of the class, built by scvi's
    own ``__init__``; the denoiser is attached right after, so that it is always there when weights
    are loaded.
    """

    _container = "adata"  # what messages call the cells

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        denoiser_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
        **scvi_kwargs: Any,
    ) -> None:
        arguments = dict(locals())
        if adata is None and not scvi_kwargs.get("use_observed_lib_size", True):
            raise ValueError(
                "The model has use_observed_lib_size=False, for which scvi-tools needs the data "
                "that it was trained on: pass adata."
            )
        # not all of scvi's models know a registry, and none needs it where there are data
        data: dict[str, Any] = {"adata": adata}
        if adata is None:
            data["registry"] = completed_registry(registry)
        super().__init__(**data, **scvi_kwargs)
        spec = self.condition_spec
        self.module.init_denoiser(
            self.module.n_latent,
            [len(c) for c in spec.categorical.values()],
            spec.value_widths,
            [len(c) for c in spec.nuisances.values()],
            denoiser_kwargs,
            noise,
        )
        self._attach_labels()
        self._set_features(adata)
        self.scgm_version_ = version("scgm_scvi")
        self._model_summary_string += (
            f"\n{type(self).__name__}: conditions: "
            f"{', '.join([*spec.categorical, *spec.numeric]) or 'none'}."
        )
        self.init_params_ = self._get_init_params(arguments)  # in place of scvi's own

    def train(self, *args: Any, **kwargs: Any) -> None:
        """Train stage one, as the scvi model does; stage two: :meth:`train_diffusion`.

        Parameters
        ----------
        *args, **kwargs
            Of the scvi model's own ``train``.

        Raises
        ------
        ValueError
            If the model's cells are not what was registered.
        """
        if self.adata is not None:
            self._require_current()
        super().train(*args, **kwargs)

    def _attach_labels(self) -> None:
        """Tell the module which label each token of the first condition is."""
        key = self.registry_["setup_args"].get("labels_key")
        codes = []
        if key is not None:
            state = self.registry_["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
            labels = pd.Index(state["categorical_mapping"])
            codes = [-1, *labels.get_indexer(self.condition_spec.categorical[key])]
        self.module.init_labels(np.asarray(codes, dtype=np.int64))

    @classmethod
    def _require_supported(cls, scvi_model: BaseModelClass) -> None:
        """Raise ``ValueError`` for a model of scvi's class that this one can't be made of."""

    @classmethod
    def _checked_obs(cls, scvi_model: BaseModelClass, adata: Any) -> pd.DataFrame:
        """The attributes of cells with just the features that a model was trained on."""
        validate_adata(adata)
        if match_features(adata, pd.Index(scvi_model.get_var_names())) is not adata:
            raise ValueError(
                "adata has features that the model was not trained on, or its own in another order. "
                "Pass adata[:, scvi_model.get_var_names()].copy()."
            )
        return adata.obs

    @classmethod
    def _set_up_as(cls, scvi_model: BaseModelClass, adata: Any, **conditions: Any) -> None:
        """Register cells as those of a trained model are."""
        setup = {k: v for k, v in scvi_model.registry["setup_args"].items() if k in _SETUP}
        counts = getattr(scvi_model.module, "gene_likelihood", None) != "normal"
        cls.setup_anndata(
            adata,
            is_count_data=counts and not has_fractions(adata, setup.get("layer")),
            source_registry=scvi_model.registry,
            **conditions,
            **setup,
        )


class DiffusionSCVI(ExpressionGettersMixin, PretrainedMixin, SCVI):
    """:class:`scvi.model.SCVI` with a diffusion prior on its latent.

    Made by :meth:`scgm_scvi.SCGM.from_scvi_model`. Stage one is scvi's, and so is :meth:`train`;
    stage two and all that it offers are those of :class:`scgm_scvi.SCGM`. ``obsm["X_scgm"]`` of
    generated cells holds latents before scvi transforms them, where it does
    (``latent_distribution="ln"``).

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`.
    registry
        Of saved data, instead of ``adata``.
    denoiser_kwargs, noise
        As of :class:`scgm_scvi.SCGM`.
    **scvi_kwargs
        Of :class:`scvi.model.SCVI`.

    Examples
    --------
    >>> import scgm_scvi
    >>> from scgm_scvi.model import DiffusionSCVI
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> DiffusionSCVI.setup_anndata(adata, labels_key="cell_type")
    >>> model = DiffusionSCVI(adata, n_latent=20)
    >>> model.train()  # doctest: +SKIP
    >>> model.train_diffusion()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "CD19+ B"})  # doctest: +SKIP
    """

    _module_cls = DiffusionVAE


class DiffusionSCANVI(ExpressionGettersMixin, PretrainedMixin, SCANVI):
    """:class:`scvi.model.SCANVI` with a diffusion prior on its latent.

    As :class:`DiffusionSCVI`. Cells of the unlabelled category are cells whose label is
    unspecified, in training as in requests.

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`, with ``labels_key`` and ``unlabeled_category``.
    registry
        Of saved data, instead of ``adata``.
    denoiser_kwargs, noise
        As of :class:`scgm_scvi.SCGM`.
    **scvi_kwargs
        Of :class:`scvi.model.SCANVI`.

    Examples
    --------
    >>> import scgm_scvi
    >>> from scgm_scvi.model import DiffusionSCANVI
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> DiffusionSCANVI.setup_anndata(adata, labels_key="cell_type", unlabeled_category="Unknown")
    >>> model = DiffusionSCANVI(adata)
    >>> model.train()  # doctest: +SKIP
    """

    _module_cls = DiffusionSCANVAE

    def _set_indices_and_labels(self, datamodule: Any = None) -> None:
        if self.adata is not None:
            super()._set_indices_and_labels(datamodule)
        else:  # loaded without data, which scvi does not expect
            state = self.get_state_registry(REGISTRY_KEYS.LABELS_KEY)
            self.original_label_key = state.original_key
            self.unlabeled_category_ = state.unlabeled_category
            self._label_mapping = state.categorical_mapping
            self._code_to_label = dict(enumerate(self._label_mapping))
            self._unlabeled_indices = self._labeled_indices = np.arange(0)
            self.labels_ = np.array([], dtype=object)
        # By these labels scvi counts its classes, and would miscount those of part of the cells.
        self.labels_ = np.append(self.labels_.astype(object), [self.unlabeled_category_])

    def _attach_labels(self) -> None:
        self.labels_ = self.labels_[:-1]
        super()._attach_labels()

    @classmethod
    def _further_fields(
        cls, labels_key: str | None, unlabeled_category: str | None
    ) -> list[BaseAnnDataField]:
        if labels_key is None or unlabeled_category is None:
            raise ValueError(
                "SCANVI needs a labels_key, and the unlabeled_category of cells without a label "
                "(a value that no cell has, where all are labelled)."
            )
        return super()._further_fields(labels_key, unlabeled_category)
