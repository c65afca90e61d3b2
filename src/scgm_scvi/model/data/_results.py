"""Write what became of cells beside them, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi._errors import listed

__all__ = ["require_writable", "used_categories", "write_result"]


def require_writable(adata: AnnData, features: pd.Index, key: str, name: str = "adata") -> None:
    """Check, before anything is computed, that a layer of ``features`` can be written.

    Raises
    ------
    TypeError
        If ``key`` is no string.
    ValueError
        If ``adata`` has features that the model does not know, or is backed by a file.
    """
    if not isinstance(key, str) or not key:
        raise TypeError(f"key_added is {key!r}; it must be a name.")
    if adata.isbacked:
        raise ValueError(
            f"{name} is backed by a file, which results are not written to: pass "
            f"{name}.to_memory()."
        )
    unknown = adata.var_names.difference(features, sort=False)
    if len(unknown):
        raise ValueError(
            f"{name} has {len(unknown)} features that the model does not know, and can say nothing "
            f"of: {listed(unknown, 5)}. Pass adata[:, model.var_.index]."
        )


def used_categories(obs: pd.DataFrame) -> pd.DataFrame:
    """The table without categories that no cell has, which scanpy's functions trip over."""
    columns = obs.select_dtypes("category")
    return obs.assign(**{name: columns[name].cat.remove_unused_categories() for name in columns})


def write_result(
    adata: AnnData,
    key: str,
    *,
    features: pd.Index,
    layers: Mapping[str, np.ndarray | sparse.csr_matrix],
    latent: np.ndarray,
    obs: Mapping[str, np.ndarray],
    uns: Mapping[str, Any],
    copy: bool,
) -> AnnData | None:
    """Write layers, ``obsm["X_" + key]``, columns of ``obs`` and ``uns[key]``.

    Parameters
    ----------
    features
        Of the columns of ``layers``, which are brought into the order of ``adata``.
    layers, obs
        By suffix to ``key``; ``""`` is the key itself.
    copy
        Whether to leave ``adata`` as it is. A view is always left.

    Returns
    -------
    The new object, or ``None`` where ``adata`` was written to.
    """
    new = copy or adata.is_view
    out = adata.copy() if new else adata
    order = features.get_indexer(out.var_names)
    for suffix, values in layers.items():
        same = np.array_equal(order, np.arange(len(order)))
        out.layers[key + suffix] = values if same else values[:, order]
    out.obsm["X_" + key] = latent
    for suffix, column in obs.items():
        out.obs[key + suffix] = column
    out.uns[key] = dict(uns)
    return out if new else None
