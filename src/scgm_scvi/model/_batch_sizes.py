"""How many cells at a time: a minibatch is dense, whatever the cells are kept as."""

from __future__ import annotations

__all__ = ["MEMORY_BUDGET", "default_batch_size", "encoding_batch_size"]

MEMORY_BUDGET = 2**29  # bytes, for decoding a chunk


def default_batch_size(n_features: int) -> int:
    """As many cells as decode within the budget: eight arrays of their features in float32."""
    return max(1, min(2048, MEMORY_BUDGET // (8 * 4 * max(1, n_features))))


def encoding_batch_size(n_features: int) -> int:
    """As many cells as are encoded within half the budget: one array of their features."""
    return max(1, min(1024, MEMORY_BUDGET // (2 * 4 * max(1, n_features))))
