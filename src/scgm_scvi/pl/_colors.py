"""Colours that mean the same in every picture."""

from __future__ import annotations

__all__ = ["GENERATED", "METHODS", "REAL", "SOURCE"]

REAL = "#b0b0b0"
GENERATED = "#d1495b"
SOURCE = "#00798c"  # real cells that an edit begins with
METHODS = (GENERATED, "#00798c", "#edae49", "#66a182", "#8d5a97", "#2e4057", "#b08968", "#e58fb1")
