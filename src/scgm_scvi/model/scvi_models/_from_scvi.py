"""A diffusion prior for scvi models that are trained already."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data._utils import _get_adata_minify_type
from scvi.external import POISSONVI
from scvi.model import MULTIVI, PEAKVI, SCANVI, SCVI
from scvi.model.base import BaseModelClass

from scgm_scvi._errors import listed
from scgm_scvi.diffusion import Denoiser
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin
from scgm_scvi.nn import ScoreNetwork

from ._pretrained import DiffusionSCANVI, DiffusionSCVI, PretrainedMixin
from ._pretrained_multi import DiffusionMULTIVI
from ._pretrained_peaks import DiffusionPEAKVI, DiffusionPOISSONVI

__all__ = ["PRETRAINED", "FromSCVIMixin"]

PRETRAINED = {
    SCVI: DiffusionSCVI,
    SCANVI: DiffusionSCANVI,
    PEAKVI: DiffusionPEAKVI,
    POISSONVI: DiffusionPOISSONVI,
    MULTIVI: DiffusionMULTIVI,
}
"""scvi's class to ours; to support another, write such a class and add a line."""

_OURS = ("denoiser.", "missing_sizes.")  # weights that scvi's modules have not
_RECORD = (  # what scvi remembers of the training
    "history_",
    "unsupervised_history_",
    "semisupervised_history_",
    "was_pretrained",
)
_SPLIT = ("train_indices_", "validation_indices_", "test_indices_")


class FromSCVIMixin:
    """Start from a trained scvi model."""

    @classmethod
    def _kin(cls) -> dict[str, type]:
        return {kind.__name__: kind for kind in PRETRAINED.values()}

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: BaseModelClass,
        adata: AnnData | MuData | None = None,
        *,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        denoiser_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
    ) -> PretrainedMixin:
        """Give a trained scvi model a diffusion prior on its own latent.

        The model's weights are copied and never change: its latents, its normalised expression
        and its likelihoods stay what they are. Train stage two by :meth:`train_diffusion`; after
        that :meth:`generate`, :meth:`edit`, :meth:`enhance`, :meth:`classify` and the others work
        as of any :class:`scgm_scvi.SCGM`.

        Parameters
        ----------
        scvi_model
            A trained :class:`scvi.model.SCVI`, :class:`scvi.model.SCANVI`,
            :class:`scvi.model.PEAKVI` or :class:`scvi.external.POISSONVI`, with any of their
            options; or a :class:`scvi.model.MULTIVI` of genes and peaks, without proteins, size
            factors or weights of modalities by cell. It is not changed, and can be used on.
        adata
            Cells to learn the prior from (for MULTIVI a MuData), with the features that the model was trained on, in
            their order, and no batch, covariate or label that it does not know. Registered as the
            model's own data are: besides the columns by which scvi does so, nothing is written.
            Default: the model's data, which may be minified.
        condition_keys, continuous_condition_keys
            Columns of ``obs`` to steer by besides the model's ``labels_key``, categorical and
            numeric (MULTIVI has no labels: name the cell types here). Only the diffusion model knows them, so they may be new to the scvi model.
        denoiser_kwargs, noise
            As of :class:`scgm_scvi.SCGM`.

        Returns
        -------
        :class:`scgm_scvi.model.DiffusionSCVI`, or ``DiffusionSCANVI``, ``DiffusionPEAKVI``,
        ``DiffusionPOISSONVI`` or ``DiffusionMULTIVI``.

        Raises
        ------
        TypeError
            If the model is of another class.
        RuntimeError
            If it is not trained.
        KeyError, ValueError
            If it is of a kind that is not supported, has no data, or data or conditions can't be used; nothing is written then.

        Examples
        --------
        >>> scvi.model.SCVI.setup_anndata(
        ...     adata, batch_key="donor", labels_key="cell_type"
        ... )  # doctest: +SKIP
        >>> scvi_model = scvi.model.SCVI(adata)  # doctest: +SKIP
        >>> scvi_model.train()  # doctest: +SKIP
        >>> model = SCGM.from_scvi_model(scvi_model, condition_keys=["stimulation"])
        ... # doctest: +SKIP
        >>> model.train_diffusion()  # doctest: +SKIP
        >>> cells = model.generate(100, {"stimulation": "IFNb"})  # doctest: +SKIP
        """
        kind = _class_for(scvi_model)
        _check_denoiser(denoiser_kwargs, noise)
        own = adata is None or adata is scvi_model.adata
        cells = _cells(kind, scvi_model, adata)
        given = scvi_model.registry["setup_args"].get("labels_key")
        if condition_keys is not None and not isinstance(condition_keys, str):
            condition_keys = [key for key in condition_keys if key != given]
        with warnings.catch_warnings():  # said before, when the scvi model was set up
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            kind._set_up_as(
                scvi_model,
                cells,
                condition_keys=condition_keys,
                continuous_condition_keys=continuous_condition_keys,
            )
        model = kind(cells, denoiser_kwargs=denoiser_kwargs, noise=noise, **_kwargs(scvi_model))
        _copy_weights(scvi_model, model)
        for name in (*_RECORD, *(_SPLIT if own else ())):
            if hasattr(scvi_model, name):
                setattr(model, name, deepcopy(getattr(scvi_model, name)))
        model.is_trained_ = True
        return model


def _class_for(scvi_model: BaseModelClass) -> type[PretrainedMixin]:
    """Our class of a trained model."""
    known = listed(c.__name__ for c in PRETRAINED)
    if type(scvi_model) not in PRETRAINED:
        hint = ""
        if isinstance(scvi_model, LatentDiffusionMixin):
            hint = " It has a diffusion model already: call its train_diffusion()."
        elif isinstance(scvi_model, type):
            hint = " Pass a trained model, not its class."
        raise TypeError(
            f"scvi_model is of class {type(scvi_model).__name__!r}; a diffusion prior can be given "
            f"to {known} of scvi.model and scvi.external.{hint}"
        )
    if not scvi_model.is_trained_ or scvi_model.module is None:
        raise RuntimeError(
            "The scvi model is not trained, so there is no latent to learn. Call its train() first."
        )
    if scvi_model.registry.get("setup_method_name") == "setup_datamodule":
        raise ValueError(
            "The scvi model was trained from a data module, whose registry does not say which "
            "columns of an AnnData it read. Train it on an AnnData."
        )
    kind = PRETRAINED[type(scvi_model)]
    kind._require_supported(scvi_model)
    return kind


def _check_denoiser(denoiser_kwargs: dict[str, Any] | None, noise: str) -> None:
    """Build a small one, before anything is written."""
    with torch.random.fork_rng(devices=[]):
        Denoiser(ScoreNetwork(2, **(denoiser_kwargs or {})), 2, noise=noise)


def _cells(
    kind: type[PretrainedMixin], scvi_model: BaseModelClass, adata: AnnData | MuData | None
) -> AnnData | MuData:
    """The cells to learn from, checked against what the model knows."""
    adata = scvi_model.adata if adata is None else adata
    if adata is None:
        raise ValueError(
            "The scvi model was loaded without data. Pass the cells that the diffusion model "
            "shall learn from: adata=..."
        )
    obs = kind._checked_obs(scvi_model, adata)
    minified = _get_adata_minify_type(adata) is not None
    latent_key = getattr(kind, "_LATENT_QZM_KEY", None)  # not all of scvi's models can minify
    if minified and latent_key not in adata.obsm:
        raise ValueError(
            f"adata was minified by a model of another class"
            f"{f': adata.obsm has no {latent_key!r}' if latent_key else ''}. Pass cells with counts."
        )
    known = dict(ConditionSpec.from_registry(scvi_model.registry).nuisances)
    labels = scvi_model.registry["setup_args"].get("labels_key")
    if labels is not None:
        state = scvi_model.get_state_registry(REGISTRY_KEYS.LABELS_KEY)
        known[labels] = state["categorical_mapping"]
    for name, categories in known.items():
        if name not in obs or name.startswith("_scvi_"):
            continue  # refused later, or scvi's own
        column = obs[name]
        strange = ~column.isin(categories)
        if name == labels:  # missing ones are unspecified
            strange &= column.notna()
        if strange.any():
            raise ValueError(
                f"{kind._container}.obs[{name!r}] holds {listed(column[strange].unique(), 5)}, "
                f"which the scvi model was not trained on. Known: {listed(categories)}. Leave these cells out, or "
                f"map them to the model first: {type(scvi_model).__name__}.load_query_data."
            )
    return adata


def _kwargs(scvi_model: BaseModelClass) -> dict[str, Any]:
    """The arguments that the model was made with."""
    saved = scvi_model.init_params_
    kwargs = {k: v for part in saved["kwargs"].values() for k, v in part.items()}
    return {k: v for k, v in {**saved["non_kwargs"], **kwargs}.items() if k != "datamodule"}


def _copy_weights(scvi_model: BaseModelClass, model: PretrainedMixin) -> None:
    """Put the weights of one model into the other, on the same device."""
    try:
        missing, unexpected = model.module.load_state_dict(
            scvi_model.module.state_dict(), strict=False
        )
    except RuntimeError as e:
        raise ValueError(f"The scvi model's weights don't fit its own parameters: {e}") from e
    strange = [name for name in missing if not name.startswith(_OURS)] + unexpected
    if strange:
        raise ValueError(
            f"The scvi model's module is not the one its parameters describe: {listed(strange, 5)}."
        )
    model.to_device(scvi_model.device)
    model.module.eval()
