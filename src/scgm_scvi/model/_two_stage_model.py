"""Both stages in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from scvi.model.base import UnsupervisedTrainingMixin

from scgm_scvi._errors import require_keywords, whole_number

from ._latent_diffusion_model import LatentDiffusionModel
from .data._setup import SetupMixin
from .training._datamodule import TrainingDataModule
from .training._diffusion import TRAINERS
from .training._disk_training import DiskTrainingMixin
from .training._fine_tuning import FINE_TUNING_STEPS
from .training._stage_one import require_held_out
from .training._transfer import TransferMixin
from .verbs._diagnostics import DiagnosticsMixin
from .verbs._prediction import PredictionMixin

__all__ = ["TwoStageModel"]

_OF_THE_MODULE = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "dropout_rate",
    "dispersion",
    "encode_covariates",
    "n_components",
    "condition_dropout",
    "denoiser_kwargs",
    "noise",
    "adapter_rank",
    "n_memory",
)
_FEWEST_CELLS = 3  # of fewer, scvi's splitter leaves none to train on


class TwoStageModel(
    SetupMixin,
    TransferMixin,
    DiskTrainingMixin,
    PredictionMixin,
    LatentDiffusionModel,
    DiagnosticsMixin,
):
    """A model whose stage one is this package's own: all that :class:`scgm_scvi.SCGM` does.

    Needs an scvi model after it, and a module that is an :class:`scgm_scvi.module.SCGMVAE`.
    """

    _n_steps = 12_000  # of stage one, where a user does not say
    _most_epochs = 400

    def _build(
        self, adata: Any, arguments: Mapping[str, Any], summary: str, *args: Any, **own: Any
    ) -> None:
        """Make the module of what the model was asked for, and of what its cells are like.

        Parameters
        ----------
        arguments
            Of the model's ``__init__``, by name.
        summary
            What sets the model apart, in its description.
        *args, **own
            Of the module, besides those that all have.
        """
        spec = self.condition_spec
        self.module = self._module_cls(
            *args,
            n_batch=self.summary_stats.n_batch,
            n_continuous_cov=len(spec.numeric_covariates),
            n_cats_per_cov=[len(c) for c in spec.covariates.values()] or None,
            n_conditions=[len(c) for c in spec.categorical.values()],
            n_condition_values=spec.value_widths,
            **{name: arguments[name] for name in _OF_THE_MODULE if name in arguments},
            **own,
        )
        self._set_features(adata)
        self.scgm_version_ = version("scgm_scvi")
        n_latent, n_layers, n_hidden = (arguments[f"n_{k}"] for k in ("latent", "layers", "hidden"))
        self._model_summary_string = (
            f"{type(self).__name__}: {n_latent} latent dimensions, {n_layers} x {n_hidden} hidden"
            f"{summary}; conditions: "
            f"{', '.join([*spec.categorical, *spec.numeric]) or 'none'}."
        )
        self.init_params_ = self._get_init_params(arguments)

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        diffusion: bool = True,
        diffusion_kwargs: dict[str, Any] | None = None,
        datamodule: TrainingDataModule | None = None,
        max_steps: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages, and write the latent means to ``adata.obsm["X_scgm"]``.

        Parameters
        ----------
        max_epochs
            Of stage one. Default: as many as make 12,000 steps, between 20 and 400; for models of
            peaks 6,000 steps, and 75 epochs at most. With a ``datamodule``: 20, or as many as make
            12,000 steps, but not more than 100,000 steps.
        accelerator, devices, train_size, validation_size, shuffle_set_split, batch_size
            As in :meth:`scvi.model.SCVI.train`.
        early_stopping
            Stop stage one when held-out cells stop improving, and keep the (moving average of
            the) weights that were best for them after the first quarter of the schedule. Off by
            default: the likelihood of held-out cells is best long before the decoder has learnt
            the spread of cells within a type, and cells generated from the end of the schedule
            are harder to tell from real ones.
        plan_kwargs
            Passed to :class:`scgm_scvi.train.SCGMTrainingPlan`.
        diffusion
            Whether to go on with stage two.
        diffusion_kwargs
            Passed to :meth:`train_diffusion`.
        datamodule
            Where a model that was made without an AnnData finds its cells, such as
            :class:`scgm_scvi.atlas.AtlasDataModule`. It says which cells train, and how many are in
            a minibatch; latents are not written anywhere. Responses to perturbations are learnt of
            the cells to train on.
        max_steps
            Optimiser steps of stage one, at most.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`, for stage one.

        Raises
        ------
        TypeError
            If there is no such argument, neither here nor of the trainer.
        ValueError
            If there are no cells to train on, or too few, or two kinds of them; or none are held
            out by which to stop early.

        Examples
        --------
        >>> model.train()  # doctest: +SKIP
        >>> model.train(max_epochs=50, diffusion_kwargs={"max_steps": 2000})  # doctest: +SKIP
        >>> SCGM(registry=dm.registry).train(datamodule=dm)  # doctest: +SKIP
        """
        known = (type(self).train, UnsupervisedTrainingMixin.train, *TRAINERS)
        require_keywords(trainer_kwargs, "train", *known)
        if diffusion:
            self._require_diffusion_keywords(diffusion_kwargs or {}, "diffusion_kwargs")
        fit = {"accelerator": accelerator, "devices": devices, "plan_kwargs": plan_kwargs}
        if datamodule is not None:
            split = {"train_size": train_size, "validation_size": validation_size}
            if given := [name for name, value in split.items() if value is not None]:
                raise ValueError(f"{' and '.join(given)}: the data module says which cells train.")
            self._train_from_disk(
                datamodule,
                max_epochs,
                max_steps,
                fit,
                diffusion,
                diffusion_kwargs,
                early_stopping,
                trainer_kwargs,
            )
            if self._predicts_responses:
                self._learn_responses(datamodule.inference_dataloader("train"))
            if len(self.condition_spec.categorical) > 1:
                self._learn_groups(datamodule.inference_dataloader("train"))
            return
        if self.adata is None:
            raise ValueError(
                "The model has no cells to train on. Load it with an AnnData, or pass the data "
                "module that it was made for: model.train(datamodule=...)."
            )
        self._require_current()
        has_validation = self._has_validation(
            train_size, validation_size, trainer_kwargs.get("datasplitter_kwargs")
        )
        require_held_out(early_stopping, has_validation)
        steps_per_epoch = max(1, round((train_size or 0.9) * self.adata.n_obs / batch_size))
        if max_epochs is None:
            n_steps = self._n_steps if self.fine_tuning_ is None else FINE_TUNING_STEPS
            max_epochs = int(np.clip(round(n_steps / steps_per_epoch), 20, self._most_epochs))
        if self.fine_tuning_ is not None:
            fit["plan_kwargs"] = {**self._begin_stage_one(seed=0), **(plan_kwargs or {})}
        elif not self.is_trained_:
            self._start_from_mean()
        n_steps = max_epochs * steps_per_epoch
        if max_steps is not None:
            trainer_kwargs["max_steps"] = whole_number(max_steps, "max_steps")
            n_steps = min(n_steps, max_steps)
        self._fit_stage_one(
            max_epochs=max_epochs,
            steps_per_epoch=steps_per_epoch,
            n_steps=n_steps,
            has_validation=has_validation,
            early_stopping=early_stopping,
            trainer_kwargs=trainer_kwargs,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            **fit,
        )
        if diffusion:
            self.train_diffusion(
                **{"accelerator": accelerator, "devices": devices, **(diffusion_kwargs or {})}
            )
        self._replay = None
        if self._predicts_responses:
            self._learn_responses()
        self._learn_groups()
        latent = self.get_latent_representation()
        self.adata.obsm[self.latent_key] = latent
        self._report(latent)

    def _has_validation(
        self,
        train_size: float | None,
        validation_size: float | None,
        splitter: dict[str, Any] | None,
    ) -> bool:
        """Whether scvi's splitter will hold cells out of training; whether there are enough."""
        n_cells, own = self.adata.n_obs, (splitter or {}).get("external_indexing")
        if n_cells < _FEWEST_CELLS:
            raise ValueError(
                f"The model has {n_cells} cells to train on; at least {_FEWEST_CELLS} are needed."
            )
        if own is not None:
            return len(own) > 1 and len(own[1]) > 0
        if validation_size is None:
            return math.ceil((train_size or 0.9) * n_cells) < n_cells
        return math.floor(validation_size * n_cells) > 0
