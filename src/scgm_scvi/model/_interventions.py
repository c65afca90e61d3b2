"""Genes that an edit forces or holds."""

from __future__ import annotations

from typing import Any

__all__ = ["GeneTarget", "Intervention"]

GeneTarget = str | float


class Intervention:
    """What an edit asks of single features."""

    @classmethod
    def parse(cls, names: Any, **asked: Any) -> Intervention | None:
        """``None``, as long as nothing is asked for."""
        if any(value is not None for value in asked.values()):
            raise NotImplementedError("genes, guide and preserve are not there yet.")
        return None
