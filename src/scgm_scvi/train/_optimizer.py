"""The optimiser of both stages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

__all__ = ["adamw_with_cosine"]


def adamw_with_cosine(
    params: Iterable[Any],
    *,
    lr: float,
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    n_steps: int,
) -> OptimizerLRSchedulerConfig:
    """AdamW with linear warm-up, then half a cosine down to zero at ``n_steps``.

    Parameters
    ----------
    params
        Parameters, or groups of them, as :class:`torch.optim.AdamW` takes them.
    lr, eps, weight_decay
        Of groups that do not set their own.
    warmup_steps, n_steps
        Of the schedule.

    Returns
    -------
    What ``configure_optimizers`` of a Lightning module returns.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.train import adamw_with_cosine
    >>> rates = {"lr": 1.0, "eps": 1e-8, "weight_decay": 0.0}
    >>> made = adamw_with_cosine([torch.ones(1)], **rates, warmup_steps=10, n_steps=100)
    >>> made["lr_scheduler"]["scheduler"].get_last_lr()
    [0.1]
    """
    optimizer = torch.optim.AdamW(params, lr=lr, eps=eps, weight_decay=weight_decay, fused=True)
    factor = partial(_factor, warmup_steps=warmup_steps, n_steps=n_steps)  # can be pickled
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }


def _factor(step: int, *, warmup_steps: int, n_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, n_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * done))
