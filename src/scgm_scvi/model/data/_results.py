"""Write what became of cells beside them, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import listed

from ._matrices import Matrix

__all__ = ["Results", "require_writable", "used_categories", "write_result"]


class Results(TypedDict):
    """What became of cells, and whether to write it into a copy. A view is always left as it is.

    Attributes
    ----------
    layers, obs
        By suffix to the key that they are written under; ``""`` is the key itself.
    """

    layers: Mapping[str, Matrix]
    latent: np.ndarray
    obs: Mapping[str, np.ndarray]
    uns: Mapping[str, Any]
    copy: bool


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
    adata: AnnData, key: str, *, features: pd.Index, **results: Unpack[Results]
) -> AnnData | None:
    """Write layers, ``obsm["X_" + key]``, columns of ``obs`` and ``uns[key]``.

    Parameters
    ----------
    features
        Of the columns of ``layers``, which are brought into the order of ``adata``.
    **results
        See :class:`Results`.

    Returns
    -------
    The new object, or ``None`` where ``adata`` was written to.
    """
    new = results["copy"] or adata.is_view
    out = adata.copy() if new else adata
    order = features.get_indexer(out.var_names)
    for suffix, values in results["layers"].items():
        same = np.array_equal(order, np.arange(values.shape[1]))
        out.layers[key + suffix] = values if same else values[:, order]
    out.obsm["X_" + key] = results["latent"]
    for suffix, column in results["obs"].items():
        out.obs[key + suffix] = column
    out.uns[key] = dict(results["uns"])
    return out if new else None
