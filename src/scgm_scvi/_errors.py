"""Help for error messages: name the value, the place and the remedy."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping

import numpy as np

__all__ = ["listed", "nearest", "require_keywords", "shown", "whole_number"]


def shown(value: object) -> str:
    """A name as one would type it: numbers and truth values as such, all else in quotes."""
    value = value.item() if isinstance(value, np.generic) else value
    return repr(value) if isinstance(value, numbers.Number) else repr(str(value))


def listed(names: Iterable[object], most: int = 10) -> str:
    """The first few of many names, as :func:`shown` has them."""
    names = list(names)
    more = f", … ({len(names) - most} more)" if len(names) > most else ""
    return (", ".join(map(shown, names[:most])) + more) or "none"


def nearest(name: object, known: Iterable[object]) -> str:
    """``" Did you mean 'x'?"``, or how it differs from what is known, or nothing.

    A name of another kind than all that are known is told its kind: '1' is not 1.
    """
    known = list(known)
    kinds = dict.fromkeys(map(_kind, known))
    if known and _kind(name) not in kinds:
        many = " or ".join(f"{kind}s" for kind in kinds)
        return f" {shown(name)} is a {_kind(name)}; those known are {many}."
    spelt = {str(k).lower(): k for k in known if str(k) != str(name)}
    found = difflib.get_close_matches(str(name).lower(), spelt, n=1, cutoff=0.6)
    return f" Did you mean {shown(spelt[found[0]])}?" if found else ""


def whole_number(value: object, name: str, least: int = 1) -> int:
    """``value`` as an int of at least ``least``, or an error that names it."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value != value // 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")
    return int(value)


def require_keywords(
    keywords: Iterable[str], place: str, *takers: Callable[..., object], also: Iterable[str] = ()
) -> None:
    """Raise ``TypeError`` for a keyword that none of ``takers`` has, nor ``also`` names."""
    known = {p.name for f in takers for p in inspect.signature(f).parameters.values() if _named(p)}
    known = sorted((known | set(also)) - {"self", "cls"})
    for name in keywords:
        if name not in known:
            raise TypeError(
                f"{place} takes no {name!r}.{nearest(name, known)} Known: {listed(known, 99)}."
            )


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


_KINDS: Mapping[type, str] = {
    bool: "boolean",
    str: "string",
    numbers.Integral: "whole number",
    numbers.Real: "number",
}


def _kind(value: object) -> str:
    """What a value is, in words; a number that is whole counts as such however it is stored."""
    value = value.item() if isinstance(value, np.generic) else value
    return next((w for t, w in _KINDS.items() if isinstance(value, t)), type(value).__name__)
