"""The modalities that a model was set up with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from ._mudata_fields import CountsField

__all__ = ["Modality", "modalities_of", "modality_keys"]


class Modality(NamedTuple):
    """Features of one kind: its modality's name, the features', and the layer of their counts."""

    key: str
    names: pd.Index
    layer: str | None


def modalities_of(registry: Mapping[str, Any]) -> list[Modality]:
    """The modalities of features that a model was set up with."""
    setup, fields = registry["setup_args"], registry["field_registries"]
    keys = modality_keys(setup)
    x = fields[REGISTRY_KEYS.X_KEY]["state_registry"]
    names = np.asarray(x[CountsField.COLUMN_NAMES_KEY])
    if registry.get("setup_method_name") == "setup_mudata":
        peaks = fields[REGISTRY_KEYS.ATAC_X_KEY]["state_registry"][CountsField.COLUMN_NAMES_KEY]
        layers = (setup.get("rna_layer"), setup.get("atac_layer"))
        parts = [names, np.asarray(peaks)]
    else:
        layers = (setup.get("layer"),) * 2
        parts = np.split(names, np.cumsum(x[CountsField.WIDTHS_KEY])[:-1])
    modalities = zip(keys, parts, layers, strict=True)
    return [Modality(key, pd.Index(part), layer) for key, part, layer in modalities]


def modality_keys(setup: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the modalities with genes and with peaks."""
    named = setup.get("modalities") or {}
    return (
        named.get("rna_layer") or setup["rna_key"],
        named.get("atac_layer") or setup["atac_key"],
    )
