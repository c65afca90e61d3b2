"""Stage two's training plan: denoising score matching on latents."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule

from scgm_scvi.diffusion import Denoiser
from scgm_scvi.nn import drop_conditions

from ._optimizer import adamw_with_cosine

__all__ = ["DiffusionTrainingPlan"]


class DiffusionTrainingPlan(LightningModule):
    """Train a denoiser; logs ``diffusion_loss_train`` and ``diffusion_loss_validation``.

    Parameters
    ----------
    denoiser
        The denoiser; becomes :attr:`module`, all that weight averaging copies.
    lr, weight_decay, eps, warmup_steps
        Of AdamW and its schedule.
    condition_dropout
        Probability of leaving an attribute of a cell unspecified.
    seed
        Of the noise and of the dropping.

    Examples
    --------
    >>> from scgm_scvi.module import SCGMVAE
    >>> from scgm_scvi.train import DiffusionTrainingPlan
    >>> DiffusionTrainingPlan(SCGMVAE(n_input=10, n_latent=4).denoiser).lr
    0.001
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        eps: float = 1e-8,
        warmup_steps: int = 100,
        condition_dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.module = denoiser
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self.warmup_steps = warmup_steps
        self.condition_dropout = condition_dropout
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def _seed(self, stage: str) -> int:
        """Another one for each process, or they would add the same noise to different cells."""
        return self.seed + (stage == "validation") + 1_000 * self.global_rank

    def _generator(self, stage: str) -> torch.Generator:
        if stage not in self._generators:
            g = torch.Generator(device=self.device)
            self._generators[stage] = g.manual_seed(self._seed(stage))
        return self._generators[stage]

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        """Mean denoising loss of a minibatch ``(state, tokens, values)``."""
        state, tokens, values = batch
        g = self._generator("train")
        embedding = getattr(self.module.network, "conditions", None)
        tokens, values = drop_conditions(
            tokens,
            values,
            self.condition_dropout,
            value_widths=getattr(embedding, "value_widths", None),
            generator=g,
        )
        loss = self.module.loss(state, tokens, values, generator=g).mean()
        self.log(
            "diffusion_loss_train",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(state),
            sync_dist=True,
        )
        return loss

    def on_validation_epoch_start(self) -> None:
        """Validate with the same noise every time."""
        self._generator("validation").manual_seed(self._seed("validation"))

    def validation_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> None:
        """Denoising loss of held-out cells with their conditions, eight noise levels each."""
        batch = tuple(part.repeat(8, 1) for part in batch)
        loss = self.module.loss(*batch, generator=self._generator("validation")).mean()
        self.log(
            "diffusion_loss_validation",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch[0]),
            sync_dist=True,
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, warm-up, cosine decay to zero."""
        return adamw_with_cosine(
            [p for p in self.module.parameters() if p.requires_grad],
            lr=self.lr,
            eps=self.eps,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            n_steps=int(self.trainer.estimated_stepping_batches),
        )
