"""Names under which conditions and features travel through scvi's registry and minibatches."""

from __future__ import annotations

from typing import NamedTuple

from scvi import REGISTRY_KEYS

__all__ = ["FEATURE_KEYS", "SCGM_KEYS"]


class _SCGMKeys(NamedTuple):
    CONDITIONS_KEY: str = "scgm_conditions"
    CONDITION_VALUES_KEY: str = "scgm_condition_values"


SCGM_KEYS = _SCGMKeys()

FEATURE_KEYS = (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.ATAC_X_KEY)
"""Of the counts of a cell, in the order of a module's features."""
