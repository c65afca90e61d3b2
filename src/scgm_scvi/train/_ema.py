"""The moving average of the weights, which is what samples and what is kept."""

from __future__ import annotations

from lightning.pytorch.callbacks import EMAWeightAveraging

__all__ = ["ema_of_weights"]


def ema_of_weights(n_steps: int, decay: float) -> EMAWeightAveraging:
    """Exponential moving average of the weights over a run of ``n_steps``.

    It starts after a quarter of the run, and in a short run forgets faster than ``decay`` says:
    an average that still remembers the first steps is worse than none. Buffers are left out.

    Parameters
    ----------
    n_steps
        Optimiser steps of the whole run.
    decay
        Share of the average that survives a step, at most.

    Examples
    --------
    >>> from scgm_scvi.train import ema_of_weights
    >>> ema_of_weights(100, 0.999).update_starting_at_step
    25
    """
    return EMAWeightAveraging(
        decay=min(decay, max(0.0, 1 - 5 / n_steps)),
        use_buffers=False,
        update_starting_at_step=n_steps // 4,
    )
