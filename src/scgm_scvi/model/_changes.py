"""Whether cells are still what was registered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.data import AnnDataManager

from scgm_scvi._errors import listed
from scgm_scvi.module import FEATURE_KEYS

from ._fields import MatrixField
from ._matrices import as_matrix, fingerprint, same_fingerprint

__all__ = ["changed_matrix"]

_LOG_MAX = 15.0  # of logarithms of anything that is counted in cells


def changed_matrix(manager: AnnDataManager) -> str | None:
    """What is different of the counts that a manager registered; ``None`` if nothing is."""
    for key in FEATURE_KEYS:
        if key not in manager.data_registry:
            continue
        field, state = manager.data_registry[key], manager.get_state_registry(key)
        mod = getattr(field, "mod_key", None)
        part, name = manager.adata, "adata"
        if mod is not None:
            if mod not in manager.adata.mod:
                return f"modality {mod!r} is gone"
            part, name = manager.adata.mod[mod], f"mdata[{mod!r}]"
        layer = field["attr_key"]
        place = f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
        found = _changed(part, layer, name, place, state)
        if found is not None:
            return found
    return None


def _changed(adata: AnnData, layer: str | None, name: str, place: str, state: Any) -> str | None:
    names = pd.Index(np.asarray(state[MatrixField.COLUMN_NAMES_KEY]))
    if not adata.var_names.equals(names):
        lost = names.difference(adata.var_names, sort=False)
        if len(lost):
            return f"{name}.var_names lacks {len(lost)} of {len(names)} features: {listed(lost, 3)}"
        further = len(adata.var_names) - len(names)
        return f"{name}.var_names has " + (
            f"{further} features more" if further else "another order"
        )
    n = state[MatrixField.N_OBS_KEY]
    if adata.n_obs != n:
        return f"{name} has {adata.n_obs} cells, and had {n}"
    x = adata.X if layer is None else adata.layers.get(layer)
    if x is None:
        return f"{place} is gone"
    known = state.get(MatrixField.FINGERPRINT_KEY)
    if known is None or same_fingerprint(known, fingerprint(x)):
        return None
    x = as_matrix(x, place)
    values = x.data if sparse.issparse(x) else x.ravel()
    odd = values[values != np.rint(values)]
    said = f" ({odd[0]:.6g} is one)" if len(odd) else ""
    if len(odd) and values.min() >= 0 and values.max() < _LOG_MAX:
        said += ", which look like logarithms"
    return f"{place} holds other values{said}"
