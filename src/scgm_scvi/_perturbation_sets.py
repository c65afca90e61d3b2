"""Names of perturbations that are sets: ``"A+B"`` is what A and what B did to one cell."""

from __future__ import annotations

__all__ = ["parts_of"]


def parts_of(name: str, control_value: str, separator: str = "+") -> tuple[str, ...]:
    """What a set consists of, sorted; the control is no part: ``"A+ctrl"`` is ``("A",)``."""
    found = {part.strip() for part in name.split(separator)} - {control_value, ""}
    return tuple(sorted(found))
