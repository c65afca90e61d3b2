"""What samplers have in common: what they are given and what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = ["Callback", "Denoise", "SamplerOutput"]

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Callback = Callable[[int, torch.Tensor, torch.Tensor], None]


class SamplerOutput(NamedTuple):
    """What a sampler returns.

    Attributes
    ----------
    x
        Samples of shape ``(n, d)``, float64, at the last noise level of the grid.
    n_evaluations
        How often ``denoise`` was called.
    """

    x: torch.Tensor
    n_evaluations: int


def steps(sigmas: torch.Tensor) -> list[tuple[int, float, float]]:
    """``(step, level, next level)`` of every step, once the grid is found in order."""
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(f"sigmas must decrease and hold at least two levels, got {sigmas}.")
    levels = sigmas.tolist()
    return list(zip(range(len(levels) - 1), levels[:-1], levels[1:], strict=True))


def normal_like(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Standard normal numbers of the shape, type and device of ``x``."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
