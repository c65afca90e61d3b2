"""Values out of other people's JSON, where a field may be absent, null, or of another type."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["count", "dicts", "several", "texts"]


def count(value: Any) -> int | None:
    """A whole number, or None where there is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and math.isfinite(value) else None


def several(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty one, anything else as a list of it.

    Examples
    --------
    >>> several(["a"]), several("a"), several(None)
    (['a'], ['a'], [])
    """
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def dicts(value: Any) -> list[dict[str, Any]]:
    """Those of a list that are objects."""
    return [v for v in several(value) if isinstance(v, dict)]


def texts(value: Any) -> tuple[str, ...]:
    """Each text of a list once, without the empty ones.

    Examples
    --------
    >>> texts(["lung", None, "", "lung", 3])
    ('lung', '3')
    """
    return tuple(dict.fromkeys(str(v) for v in several(value) if v not in (None, "")))
