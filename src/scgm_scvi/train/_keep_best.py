"""Keep the weights of the epoch that did best on held-out cells."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["KeepBest"]


class KeepBest(Callback):
    """Restore, at the end of training, the weights with the lowest validation metric.

    In memory, where :class:`scvi.train.SaveCheckpoint` writes whole models to disk.

    Parameters
    ----------
    monitor
        Name of a logged metric, lower is better.
    first_step
        Epochs that end at or before this step are passed over.

    Attributes
    ----------
    best, best_epoch
        Lowest value and its epoch; ``best_epoch`` is ``None`` if nothing was validated.

    Examples
    --------
    >>> from scgm_scvi.train import KeepBest
    >>> KeepBest("elbo_validation").best
    inf
    """

    def __init__(self, monitor: str, first_step: int = 0) -> None:
        self.monitor = monitor
        self.first_step = first_step
        self.best = float("inf")
        self.best_epoch: int | None = None
        self._candidate: dict[str, torch.Tensor] | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a copy of the weights that were validated.

        Here, and not when the metric is known: by then weight averaging, which must come later in
        the list of callbacks, has swapped its average out again.
        """
        module = pl_module.get_submodule("module")
        state: dict[str, torch.Tensor] = {
            k: p for k, p in module.named_parameters() if p.requires_grad
        }
        state |= dict(module.named_buffers())
        if self._candidate is None:
            self._candidate = {k: v.detach().clone() for k, v in state.items()}
        else:
            for k, v in state.items():
                self._candidate[k].copy_(v.detach())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the copy if this epoch is the best so far."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking or trainer.global_step <= self.first_step:
            return
        if not float(value) < self.best:
            return
        self.best, self.best_epoch = float(value), trainer.current_epoch
        self._weights, self._candidate = self._candidate, self._weights

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Put the best weights back."""
        if self._weights is not None:
            module = pl_module.get_submodule("module")
            module.load_state_dict(self._weights, strict=False)  # frozen: not kept
            self._weights = None
