"""Stage one's training plan."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan

from ._optimizer import adamw_with_cosine
from ._replay import Replay

__all__ = ["SCGMTrainingPlan"]


class SCGMTrainingPlan(TrainingPlan):
    """scvi's plan with AdamW, fast dispersions and a cosine schedule.

    The dispersions learn ten times as fast and without weight decay: where they lag behind the
    means, generated genes are over-dispersed, which is what a classifier sees first.

    Parameters
    ----------
    module
        The module to train.
    lr
        Peak learning rate.
    dispersion_lr_factor
        How much faster parameters called ``px_r...`` learn.
    weight_decay, eps
        Of AdamW.
    warmup_steps
        Steps of linear warm-up.
    max_kl_weight
        Weight of the KL term. Below 1 because stage two replaces the prior by a better one; much
        below, the latent carries each cell's own noise and the decoder adds its own again.
    replay
        Cells to train on beside those of each minibatch.
    n_epochs_kl_warmup, **kwargs
        See :class:`scvi.train.TrainingPlan`.

    Examples
    --------
    >>> from scgm_scvi.module import SCGMVAE
    >>> from scgm_scvi.train import SCGMTrainingPlan
    >>> SCGMTrainingPlan(SCGMVAE(n_input=10, n_latent=4)).lr
    0.0005
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 5e-4,
        dispersion_lr_factor: float = 10.0,
        weight_decay: float = 1e-4,
        eps: float = 1e-8,
        warmup_steps: int = 100,
        max_kl_weight: float = 0.7,
        replay: Replay | None = None,
        n_epochs_kl_warmup: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            max_kl_weight=max_kl_weight,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            **kwargs,
        )
        self.dispersion_lr_factor = dispersion_lr_factor
        self.warmup_steps = warmup_steps
        self.replay = replay

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Mean loss of a minibatch, and of replayed cells beside it; metrics are of the former."""
        loss = super().training_step(batch, batch_idx)
        if self.replay is None:
            return loss
        state, tensors = self.replay.beside(batch)
        replayed = self.module.replay_loss(state, tensors, self.kl_weight)
        share = self.replay.ratio / (1 + self.replay.ratio)
        return (1 - share) * loss + share * replayed

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Two parameter groups; warm-up, then cosine decay to zero over all steps."""
        named = [(k, p) for k, p in self.module.named_parameters() if p.requires_grad]
        fast = [p for k, p in named if k.startswith("px_r")]
        rest = [p for k, p in named if not k.startswith("px_r")]
        groups = [
            {"params": rest},
            {"params": fast, "lr": self.lr * self.dispersion_lr_factor, "weight_decay": 0.0},
        ]
        return adamw_with_cosine(
            [group for group in groups if group["params"]],
            lr=self.lr,
            eps=self.eps,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            n_steps=int(self.trainer.estimated_stepping_batches),
        )
