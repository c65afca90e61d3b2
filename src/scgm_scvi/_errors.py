"""Help for error messages: name the value, the place and the remedy."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable

__all__ = ["listed", "nearest", "whole_number"]


def listed(names: Iterable[object], most: int = 10) -> str:
    """Names in quotes, the first few of many."""
    names = [repr(str(n)) for n in names]
    more = f", … ({len(names) - most} more)" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"


def nearest(name: object, known: Iterable[object]) -> str:
    """``" Did you mean 'x'?"``, or nothing where no known name is near."""
    known = [str(k) for k in known]
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    return f" Did you mean {lower[found[0]]!r}?" if found else ""


def whole_number(value: object, name: str) -> int:
    """``value`` as an int of at least 1, or an error that names it."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value != value // 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")
    return int(value)
