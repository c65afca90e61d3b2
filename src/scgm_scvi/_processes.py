"""The processes of a distributed run."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

__all__ = ["gathered", "process"]


def process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gathered(value: Any) -> list[Any]:
    """What each process has, in the order of their ranks."""
    _, world_size = process()
    if world_size == 1:
        return [value]
    values = [None] * world_size
    dist.all_gather_object(values, value)
    return values
