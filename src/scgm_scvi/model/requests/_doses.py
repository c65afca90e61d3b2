"""Doses as users pass them."""

from __future__ import annotations

import math
import numbers
from typing import Any

__all__ = ["require_dose"]


def require_dose(amount: Any, name: str = "dose") -> float:
    """The dose as a number.

    Raises
    ------
    ValueError
        If it is none, or below zero; the message calls it ``name``.
    """
    is_number = isinstance(amount, numbers.Real) and not isinstance(amount, bool)
    if not is_number or not 0 <= float(amount) < math.inf:
        raise ValueError(f"{name} is {amount!r}; it must be a number, zero or above.")
    return float(amount)
