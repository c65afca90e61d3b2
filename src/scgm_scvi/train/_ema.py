"""The moving average of the weights, which is what samples and what is kept."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

__all__ = ["EMAOfWeights"]


class EMAOfWeights(EMAWeightAveraging):
    """Exponential moving average of the weights over a run of ``n_steps``.

    Lightning's, with two additions. It starts after a quarter of the run, and until then the
    weights themselves are validated and kept, where Lightning would take the initial ones. And in
    a short run it forgets faster than ``decay`` says: an average that still remembers the first
    steps is worse than none. Buffers are left out.

    Parameters
    ----------
    n_steps
        Optimiser steps of the whole run. ``None``: as many as the trainer says when it begins,
        which in a distributed run it alone knows.
    decay
        Share of the average that survives a step, at most.

    Examples
    --------
    >>> from scgm_scvi.train import EMAOfWeights
    >>> EMAOfWeights(100, 0.999).update_starting_at_step
    25
    """

    def __init__(self, n_steps: int | None, decay: float) -> None:
        self._decay, self._is_planned = decay, n_steps is not None
        self._plan(n_steps or 1)

    def _plan(self, n_steps: int) -> None:
        super().__init__(
            decay=min(self._decay, max(0.0, 1 - 5 / n_steps)),
            use_buffers=False,
            update_starting_at_step=n_steps // 4,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plan the average where that was left open, and make room for it."""
        if not self._is_planned:
            self._plan(int(trainer.estimated_stepping_batches))
            self._is_planned = True
        super().setup(trainer, pl_module, stage)

    def _started(self, trainer: Trainer) -> bool:
        return trainer.global_step > (self.update_starting_at_step or 0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in, once there is one."""
        if self._started(trainer):
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average out again."""
        if self._started(trainer):
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Leave the average in the model, if there is one."""
        if self._started(trainer):
            super().on_train_end(trainer, pl_module)
