"""``scgm train``: a model of a store, or of a file."""

from __future__ import annotations

__all__ = ["train"]
