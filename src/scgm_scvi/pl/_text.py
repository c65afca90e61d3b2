"""Names from data, drawn as they are."""

from __future__ import annotations

__all__ = ["literal"]


def literal(name: object) -> str:
    """A name that matplotlib neither reads as a formula nor leaves out of a legend."""
    text = str(name).replace("$", r"\$")
    return f"\u200a{text}" if text.startswith("_") else text
