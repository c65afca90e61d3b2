"""Names of perturbations that are sets: ``"A+B"`` is what A and what B did to one cell."""

from __future__ import annotations

__all__ = ["names_nothing", "parts_of"]


def parts_of(name: str, control_value: str, separator: str = "+") -> tuple[str, ...]:
    """What a set consists of, sorted; the control is no part: ``"A+ctrl"`` is ``("A",)``.

    The control's own name is the control, whatever stands in it: ``"non+targeting"`` is no set.
    """
    if name.strip() == control_value.strip():
        return ()
    found = {part.strip() for part in name.split(separator)} - {control_value, ""}
    return tuple(sorted(found))


def names_nothing(name: str, separator: str = "+") -> bool:
    """Whether there is no name in it: ``""``, ``" "`` or ``"+"``, which are no control either."""
    return not any(part.strip() for part in name.split(separator))
