"""What values of a matrix can be, and how exactly they say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = [
    "ABSOLUTE",
    "FEWEST_GENES",
    "INVERSE",
    "LARGEST_LOG",
    "RELATIVE",
    "SCALES",
    "TARGETS",
    "Scale",
    "bounds",
]

SCALES = {
    "counts": "counts",
    "ln_counts": "ln(1 + counts)",
    "log2_counts": "log2(1 + counts)",
    "ln_cp10k": "ln(1 + counts per 10,000)",
    "ln_cpn": "ln(1 + counts per another number)",
    "log2_cpm": "log2(1 + counts per million)",
    "log2_cpn": "log2(1 + counts per another number)",
    "cpm": "counts per million",
    "cpn": "counts per another number",
    "tpm": "other than counts, with a constant sum (TPM, normalised estimates)",
    "ln_tpm": "ln(1 + the same)",
    "log2_tpm": "log2(1 + the same)",
    "estimated_counts": "counts with fractions, as RSEM, salmon and kallisto estimate them",
    "scaled": "residuals or scaled values, some of them negative",
    "unknown": "unknown",
}
"""Names of scales and what they mean."""

INVERSE = {"identity": lambda x: x, "expm1": np.expm1, "exp2m1": lambda x: np.expm1(x * np.log(2))}
TARGETS = (1e3, 1e4, 1e5, 1e6)
# What single precision and a few operations in it do to a value: a part of it, and of one.
RELATIVE, ABSOLUTE = 2.0**-21, 2.0**-23
FEWEST_GENES = 20  # of a cell; the counts of fewer may well have a divisor in common
LARGEST_LOG = 60.0  # no logarithm of an expression value is larger


@dataclass(frozen=True)
class Scale:
    """What the values of a dataset are.

    Parameters
    ----------
    name
        One of :data:`SCALES`.
    transform
        What undoes the logarithm: ``"identity"``, ``"expm1"`` or ``"exp2m1"`` (2^x - 1). Empty
        where unknown.
    target_sum
        What each cell was normalised to; None if to nothing, or unknown.
    integer
        Whether the values, the logarithm undone, are multiples of one number a cell.
    counts_available
        Whether :func:`to_counts` can give the counts.
    reason
        How this was found, in words.
    decimals
        Digits after the point that the values were rounded to; None if they were not.
    """

    name: str
    transform: str = ""
    target_sum: float | None = None
    integer: bool = False
    counts_available: bool = False
    reason: str = ""
    decimals: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain strings and numbers, for JSON."""
        return asdict(self)


def bounds(x: np.ndarray, transform: str, decimals: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Where the values lie, the logarithm undone, before they were rounded."""
    x = x if transform == "identity" else np.minimum(x, LARGEST_LOG)
    error = x * RELATIVE + ABSOLUTE + (0 if decimals is None else 0.5 * 10.0**-decimals)
    return INVERSE[transform](np.maximum(x - error, 0)), INVERSE[transform](x + error)
