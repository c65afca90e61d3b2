"""Whether cells are still what was registered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import _MANAGER_UUID_KEY, _SCVI_UUID_KEY

from scgm_scvi._errors import listed
from scgm_scvi.module import FEATURE_KEYS, SCGM_KEYS

from ._fields import MatrixField
from ._matrices import as_matrix, fingerprint, same_fingerprint

__all__ = [
    "changed_matrix",
    "derived",
    "is_current",
    "never_had",
    "is_written",
    "register_again",
    "same_counts",
    "write_registered",
]

# What fields derive from columns of obs and write beside them.
_DERIVED = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.LABELS_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    SCGM_KEYS.CONDITIONS_KEY,
    SCGM_KEYS.CONDITION_VALUES_KEY,
)
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


def same_counts(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two registries are of the same counts, as far as both tell."""
    for key in FEATURE_KEYS:
        fields = [r["field_registries"].get(key, {}).get("state_registry", {}) for r in (a, b)]
        numbers = [state.get(MatrixField.N_OBS_KEY) for state in fields]
        if None not in numbers and numbers[0] != numbers[1]:
            return False
        prints = [state.get(MatrixField.FINGERPRINT_KEY) for state in fields]
        if not any(p is None or _is_of_nothing(p) for p in prints) and not same_fingerprint(
            *prints
        ):
            return False
    return True


def _is_of_nothing(known: Mapping[str, float]) -> bool:
    """Whether there was no value but 0, as in minified cells."""
    return not any(known.values())


def is_written(manager: AnnDataManager) -> bool:
    """Whether what a manager registered of attributes is still beside the columns."""
    if manager.adata.uns.get(_MANAGER_UUID_KEY) != manager.id:  # set up by another since
        return False
    try:
        for key in _DERIVED:
            if key in manager.data_registry:
                manager.get_from_registry(key)
    except (KeyError, ValueError):
        return False
    return True


def is_current(manager: AnnDataManager, obs: pd.DataFrame) -> bool:
    """Whether what a manager registered of attributes is what the columns of ``obs`` say now."""
    if manager.adata.uns.get(_SCVI_UUID_KEY) != manager.adata_uuid:
        return False
    size_factor = manager.data_registry.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if size_factor is not None:  # read where it is, so that nothing derived tells of a change
        column = obs.get(size_factor["attr_key"])
        if column is None or not (pd.to_numeric(column, errors="coerce") > 0).all():
            return False
    try:
        return all(
            np.array_equal(
                np.asarray(manager.get_from_registry(key), dtype=float).ravel(),
                np.asarray(value, dtype=float).ravel(),
                equal_nan=True,
            )
            for key, value in derived(manager, obs).items()
        )
    except (KeyError, TypeError, ValueError):  # a column is gone, or says what is not known
        return False


def register_again(manager: AnnDataManager, obs: pd.DataFrame) -> None:
    """Write what the columns of ``obs`` say in place of what a manager registered.

    Raises
    ------
    KeyError, ValueError
        If a column is gone, or says what the model does not know.
    """
    found = derived(manager, obs)
    manager.adata.uns[_SCVI_UUID_KEY] = manager.adata_uuid  # by which scvi knows the object
    for key, value in found.items():
        write_registered(manager, key, np.asarray(value))


def write_registered(manager: AnnDataManager, key: str, value: np.ndarray) -> None:
    """Put a value where a manager has what it registered under a key."""
    place = manager.data_registry[key]
    mod = getattr(place, "mod_key", None)
    holder = manager.adata if mod is None else manager.adata.mod[mod]
    getattr(holder, place["attr_name"])[place["attr_key"]] = value


def never_had(manager: AnnDataManager, obs: pd.DataFrame) -> list[str]:
    """Conditions without a column, which cells had none of when they were registered either."""
    if SCGM_KEYS.CONDITIONS_KEY not in manager.data_registry:
        return []
    try:
        tokens = np.asarray(manager.get_from_registry(SCGM_KEYS.CONDITIONS_KEY))
    except (KeyError, ValueError):  # what was registered is gone
        return []
    names = manager.get_state_registry(SCGM_KEYS.CONDITIONS_KEY)["field_keys"]
    return [name for j, name in enumerate(names) if name not in obs and not tokens[:, j].any()]


def derived(manager: AnnDataManager, obs: pd.DataFrame) -> dict[str, Any]:
    """What the fields of a manager make of columns, by registry key.

    Raises
    ------
    KeyError, ValueError
        If a column is gone, or says what the model does not know.
    """
    obs = obs.assign(**dict.fromkeys(never_had(manager, obs), np.nan))
    cells, out = AnnData(obs=obs), {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
        # pandas 3 warns before scvi-tools raises
        warnings.filterwarnings("ignore", "Constructing a Categorical with a dtype")
        for field in manager.fields:
            key = field.registry_key
            if key in _DERIVED and not field.is_empty:
                field = getattr(field, "adata_field", field)  # of a MuData
                field.transfer_field(manager.get_state_registry(key).to_dict(), cells)
                out[key] = getattr(cells, field.attr_name)[field.attr_key]
    return out
