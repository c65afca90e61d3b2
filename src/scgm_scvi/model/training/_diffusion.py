"""Stage two for any scvi model whose module has a denoiser."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer as LightningTrainer
from scvi.train import Trainer, TrainRunner
from torch import nn

from scgm_scvi._errors import require_keywords, whole_number
from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._registration import RegistrationMixin
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.train import (
    DiffusionTrainingPlan,
    DiffusionTrainRunner,
    EMAOfWeights,
    LatentDataModule,
    flush_denormals,
)

from ._datamodule import TrainingDataModule
from ._encoded import MAX_DESIGN_ROWS, Encoded, LatentTable, encode_cells
from ._fingerprint import stage_one_fingerprint, weights_fingerprint

__all__ = [
    "TRAINERS",
    "LatentDiffusionMixin",
]

TRAINERS = (Trainer.__init__, LightningTrainer.__init__, TrainRunner.__init__)  # who take options


class LatentDiffusionMixin(RegistrationMixin):
    """Train a diffusion model on the latents of a trained scvi model.

    Needs a module with :class:`scgm_scvi.module.LatentDiffusionModuleMixin`; knows nothing of
    what the features are.
    """

    @property
    def prior(self) -> LatentPrior:
        """The diffusion model of latents as an engine, without cells; untrained, it makes noise."""
        return LatentPrior(self.module, self.condition_spec, self.fitted_.get("design", {}))

    @property
    def history(self) -> dict[str, pd.DataFrame] | None:
        """Metrics of training by epoch, of both stages."""
        stage_two = self.fitted_.get("history")
        return {**(self.history_ or {}), **stage_two} if stage_two else self.history_

    @property
    def is_diffusion_trained(self) -> bool:
        """Whether stage two has been trained on the encoder as it is now."""
        known = self.fitted_.get("fingerprint")
        return known is not None and known == stage_one_fingerprint(self.module)

    @leaves_random_state
    def train_diffusion(
        self,
        max_steps: int | None = None,
        *,
        batch_size: int = 256,
        lr: float | None = None,
        ema_decay: float = 0.999,
        condition_dropout: float = 0.1,
        seed: int = 0,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict[str, Any] | None = None,
        datamodule: TrainingDataModule | None = None,
        latent_cache: str | os.PathLike | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train stage two: a score-based diffusion model of the cells' latents.

        Cells are encoded once; each minibatch draws fresh posterior samples of them. Cells held
        out in stage one stay held out. Sampling uses an exponential moving average of the weights.

        Parameters
        ----------
        max_steps
            Number of optimiser steps. Default: 20 passes over the cells, but between 5,000 and
            100,000 steps; 3,000 where a model of :meth:`load_query_data` is fine-tuned.
        batch_size
            Cells in a minibatch.
        lr
            Peak learning rate, decayed to zero by a cosine. Default: 0.001; 0.005 in fine-tuning.
        ema_decay
            Of the moving average; smaller in a short run.
        condition_dropout
            Probability of leaving each attribute of each cell unspecified, which is what makes
            partial conditions and guidance possible.
        seed
            Same seed, same device, same weights.
        accelerator, devices
            As in :meth:`scvi.model.SCVI.train`.
        plan_kwargs
            Passed to :class:`scgm_scvi.train.DiffusionTrainingPlan`.
        datamodule
            Where a model that was made without an AnnData finds its cells.
        latent_cache
            Folder for the latents of a data module's cells, half a kilobyte to a kilobyte each at
            256 dimensions; they stay there. Default: a temporary one, removed at the end.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        RuntimeError
            If stage one is not trained.
        TypeError
            If there is no such argument, neither here nor of the trainer.
        ValueError
            If the model was loaded without data, or cells can't be encoded.

        Examples
        --------
        >>> model.train_diffusion(max_steps=2000)  # doctest: +SKIP

        References
        ----------
        Song et al. 2021, arXiv:2011.13456; Rombach et al. 2022, arXiv:2112.10752;
        Karras et al. 2022, arXiv:2206.00364.
        """
        if not self.is_trained_:
            raise RuntimeError(
                "Stage one is not trained, so there are no latents to learn. Call model.train()."
            )
        if max_steps is not None:
            max_steps = whole_number(max_steps, "max_steps")
        self._require_diffusion_keywords(
            {**trainer_kwargs, "plan_kwargs": plan_kwargs}, "train_diffusion"
        )
        cells = self._latent_table(
            seed, datamodule, latent_cache, trainer_kwargs.get("enable_progress_bar", True)
        )
        with self._until_it_is_whole(), cells as table:
            default_steps, defaults = self._diffusion_defaults(table.n_cells, batch_size)
            self._fit_denoiser(
                table,
                default_steps if max_steps is None else max_steps,
                batch_size=batch_size,
                ema_decay=ema_decay,
                condition_dropout=condition_dropout,
                seed=seed,
                plan_kwargs=defaults | (plan_kwargs or {}) | ({} if lr is None else {"lr": lr}),
                **{"accelerator": accelerator, "devices": devices, **trainer_kwargs},
            )
            self.fitted_["design"] = table.design
            self.fitted_["met"] = self._met(table)
        self.fitted_["fingerprint"] = stage_one_fingerprint(self.module)

    def _require_diffusion_keywords(self, keywords: Mapping[str, Any], place: str) -> None:
        """Raise ``TypeError`` for what neither :meth:`train_diffusion` nor the trainer takes."""
        require_keywords(keywords, place, type(self).train_diffusion, *TRAINERS)
        plan = keywords.get("plan_kwargs") or {}
        require_keywords(plan, f"{place}: plan_kwargs", DiffusionTrainingPlan.__init__)

    @contextmanager
    def _until_it_is_whole(self) -> Iterator[None]:
        """Within it stage two is not trained; nor after an error that left it half-trained."""
        fingerprint, denoiser = self.fitted_.get("fingerprint"), self.module.denoiser
        before = weights_fingerprint(denoiser.state_dict())
        self.fitted_["fingerprint"] = None
        try:
            yield
        except BaseException:
            if weights_fingerprint(denoiser.state_dict()) == before:
                self.fitted_["fingerprint"] = fingerprint
            raise

    def _fit_denoiser(
        self,
        table: LatentTable,
        max_steps: int,
        *,
        batch_size: int,
        ema_decay: float,
        condition_dropout: float,
        seed: int,
        plan_kwargs: dict[str, Any],
        **trainer_kwargs: Any,
    ) -> None:
        """Train the denoiser on what the table holds."""
        denoiser = self.module.denoiser
        steps_per_epoch = min(100, max_steps)
        data = table.data(batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed)
        plan = DiffusionTrainingPlan(
            denoiser, condition_dropout=condition_dropout, seed=seed, **plan_kwargs
        )
        callbacks = [*trainer_kwargs.pop("callbacks", []), EMAOfWeights(max_steps, ema_decay)]
        runner = DiffusionTrainRunner(
            self,
            training_plan=plan,
            data_splitter=data,
            max_epochs=-(-max_steps // steps_per_epoch),
            max_steps=max_steps,
            callbacks=callbacks,
            check_val_every_n_epoch=trainer_kwargs.pop("check_val_every_n_epoch", 5),
            gradient_clip_val=trainer_kwargs.pop("gradient_clip_val", 1.0),
            **trainer_kwargs,
        )
        denoiser.requires_grad_(True).train()
        try:
            with flush_denormals(), self._trainable(denoiser, "denoiser."):
                runner()
        finally:
            denoiser.requires_grad_(False)
            self.module.eval()

    @contextmanager
    def _latent_table(
        self,
        seed: int,
        datamodule: TrainingDataModule | None = None,
        latent_cache: str | os.PathLike | None = None,
        progress_bar: bool = True,
    ) -> Iterator[LatentTable]:
        """The cells as stage two reads them."""
        if datamodule is not None:
            raise ValueError(
                f"{type(self).__name__} learns from an AnnData in memory; leave out datamodule."
            )
        cells = self._encode_cells()
        own, validation = self._stage_one_split(len(cells.mean))
        cells, train = self._begin_diffusion(cells, own, seed)
        mean, variance, design = cells
        shift, scale = (b.cpu() for b in (self.module.denoiser.shift, self.module.denoiser.scale))
        data = partial(
            LatentDataModule,
            (mean - shift) / scale,
            variance / scale**2,
            torch.as_tensor(design["tokens"]),
            torch.as_tensor(design["values"]),
            train,
            validation,
        )
        keep = np.random.default_rng(seed).permutation(np.unique(train))
        keep = np.sort(keep[:MAX_DESIGN_ROWS])
        met = [np.unique(column) for column in design["tokens"][train].T]
        yield LatentTable(data, len(own), {k: v[keep] for k, v in design.items()}, met)

    def _met(self, table: LatentTable) -> dict[str, np.ndarray]:
        """Tokens of each categorical attribute that stage two was trained on."""
        spec = ConditionSpec.from_registry(self.registry)
        return dict(zip([*spec.categorical, *spec.nuisances], table.met, strict=True))

    def _diffusion_defaults(self, n_cells: int, batch_size: int) -> tuple[int, dict[str, float]]:
        """Number of steps, and what the training plan takes."""
        return int(np.clip(20 * n_cells / batch_size, 5_000, 100_000)), {"lr": 1e-3}

    def _begin_diffusion(
        self, cells: Encoded, train: np.ndarray, seed: int
    ) -> tuple[Encoded, np.ndarray]:
        """What stage two trains on: the cells, and those rows of them; sets its units."""
        mean, variance, design = cells
        self._standardize(mean[train], variance[train], design["values"][train])
        return cells, train

    def _trainable(self, part: nn.Module, prefix: str = "") -> AbstractContextManager:
        """Within it ``part`` of the module, whose parameters have ``prefix``, trains: all of it."""
        return nullcontext()

    def _encode_cells(self) -> Encoded:
        """Mean and variance of every cell's state, and its conditions and nuisances."""
        if self.adata is None:
            raise ValueError(
                "The model was loaded without data, so there are no cells to learn. Load it with "
                "an AnnData, or pass the data module that it was trained from: datamodule=..."
            )
        self._require_current()
        size = encoding_batch_size(len(self.var_))
        return encode_cells(self.module, self._make_data_loader(adata=self.adata, batch_size=size))

    def _stage_one_split(self, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows of stage one; all cells train where it left none."""
        split = (self.train_indices, self.validation_indices, self.test_indices)
        train, validation, test = (np.asarray([] if i is None else i, dtype=int) for i in split)
        if not len(train) or len(train) + len(validation) + len(test) != n_cells:
            return np.arange(n_cells), np.arange(0)  # other data than stage one's, or no split
        return train, validation

    def _standardize(self, mean: torch.Tensor, variance: torch.Tensor, values: np.ndarray) -> None:
        """Set the denoiser's units: zero mean and unit variance of posterior samples."""
        denoiser = self.module.denoiser
        total = mean.var(dim=0, correction=0) + variance.mean(dim=0)
        denoiser.shift.copy_(mean.mean(dim=0))
        denoiser.scale.copy_(total.sqrt().clamp(min=1e-4))
        denoiser.network.conditions.set_value_range(torch.as_tensor(values))

    def _require_diffusion(self) -> None:
        """Raise unless stage two is trained on the encoder as it is."""
        if self.fitted_.get("fingerprint") is None:
            raise RuntimeError(
                "Stage two is not trained, or its training was cut short, so nothing can be "
                "generated. Call "
                "model.train_diffusion() after stage one; SCGM's model.train() trains both."
            )
        if not self.is_diffusion_trained:
            raise RuntimeError(
                "Stage two is stale: stage one changed after it was trained, so its latents are "
                "no longer the model's. Call model.train_diffusion()."
            )
