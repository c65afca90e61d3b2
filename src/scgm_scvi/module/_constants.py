"""Names under which conditions travel through scvi's registry and minibatches."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCGM_KEYS"]


class _SCGMKeys(NamedTuple):
    CONDITIONS_KEY: str = "scgm_conditions"
    CONDITION_VALUES_KEY: str = "scgm_condition_values"


SCGM_KEYS = _SCGMKeys()
