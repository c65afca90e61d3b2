"""Where models say how training went."""

from __future__ import annotations

import logging

__all__ = ["logger"]

# Below scvi's logger, so that scvi.settings.verbosity governs it and its handler shows it.
logger = logging.getLogger("scvi.scgm_scvi")
