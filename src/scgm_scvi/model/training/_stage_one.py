"""Stage one: from where the decoder starts to which weights are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi.model.base import UnsupervisedTrainingMixin

from scgm_scvi.module import FEATURE_KEYS, SCGM_KEYS
from scgm_scvi.train import EMAOfWeights, KeepBest, flush_denormals

from ._diffusion import LatentDiffusionMixin
from ._fingerprint import weights_fingerprint

__all__ = ["StageOneMixin", "require_held_out"]


class StageOneMixin(LatentDiffusionMixin):
    """Train an :class:`scgm_scvi.module.SCGMVAE`, as scvi models train."""

    def _fit_stage_one(
        self,
        *,
        max_epochs: int,
        steps_per_epoch: int,
        n_steps: int | None,
        has_validation: bool,
        early_stopping: bool,
        trainer_kwargs: dict[str, Any],
        **fit: Any,
    ) -> None:
        """Train stage one, and keep the moving average of its weights.

        ``n_steps`` is the length of the run; ``None`` where only the trainer knows.
        """
        if has_validation:
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        trainer_kwargs.setdefault("gradient_clip_val", 100.0)
        averaged_from = (n_steps or max_epochs * steps_per_epoch) // 4
        ema = EMAOfWeights(n_steps, decay=0.998)
        callbacks = [*trainer_kwargs.pop("callbacks", []), ema]
        keep = KeepBest("elbo_validation", first_step=averaged_from)
        if early_stopping:
            callbacks.insert(0, keep)
            trainer_kwargs.setdefault("early_stopping_patience", max(10, max_epochs // 4))
            # an epoch may have a step more than estimated: in no case begin after the average
            trainer_kwargs.setdefault(
                "early_stopping_warmup_epochs", averaged_from // (steps_per_epoch + 1)
            )
        before = weights_fingerprint(self.module.state_dict())
        self.module.train()  # a model that was trained or loaded before is in evaluation mode
        try:
            self._run_stage_one(
                max_epochs=max_epochs,
                early_stopping=early_stopping,
                callbacks=callbacks,
                **fit,
                **trainer_kwargs,
            )
        except BaseException:  # half-trained weights are none, whatever they were before
            self.is_trained_ &= weights_fingerprint(self.module.state_dict()) == before
            self.module.eval()
            raise
        n_epochs = self.trainer.current_epoch
        n_before = len(self.history_.get("elbo_train", ())) - n_epochs
        kept = n_epochs - 1 if keep.best_epoch is None else keep.best_epoch
        is_recorded = has_validation and n_before >= 0  # by one process of several
        self.fitted_["kept_epoch"] = n_before + kept if is_recorded else None

    def _run_stage_one(self, **kwargs: Any) -> None:
        with flush_denormals(), self._trainable(self.module):
            # not that of a class between, which sets its own rates
            UnsupervisedTrainingMixin.train(self, **kwargs)

    @torch.no_grad()
    def _start_from_mean(self) -> None:
        """Start the decoder at the mean expression, and the conditions at their usual values."""
        manager = self.adata_manager
        keys = [key for key in FEATURE_KEYS if key in manager.data_registry]
        means = [np.asarray(manager.get_from_registry(key).mean(axis=0)).ravel() for key in keys]
        self.module.set_mean(torch.as_tensor(np.concatenate(means).clip(0), dtype=torch.float32))
        if self.condition_spec.numeric:
            values = self.adata_manager.get_from_registry(SCGM_KEYS.CONDITION_VALUES_KEY)
            self.module.condition_embedding.set_value_range(
                torch.as_tensor(np.asarray(values, dtype=np.float32))
            )


def require_held_out(early_stopping: bool, has_validation: bool) -> None:
    """Raise ``ValueError`` where there is nothing by which to stop early."""
    if early_stopping and not has_validation:
        raise ValueError(
            "early_stopping needs held-out cells, and none are held out of training. Lower "
            "train_size, raise validation_size, or leave early_stopping out."
        )
