"""Models of scvi's that can't be made without data, made of placeholder cells."""

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

from scgm_scvi.model.data._base import ModelBase
from scgm_scvi.model.data._modalities import holding
from scgm_scvi.model.requests._spec import ConditionSpec

__all__ = ["PlaceholderMixin", "placeholder", "placeholder_obs"]

_N = 2  # cells: scvi-tools squeezes arrays of one


class PlaceholderMixin(ModelBase):
    """Let an scvi model be made of a registry alone, as of a saved model without its data.

    Comes right before the scvi model among the bases. Of the data such a model reads how many
    features and categories there are, which a registry tells as well.
    """

    def __init__(
        self,
        adata: Any | None = None,
        registry: Mapping[str, Any] | None = None,
        **scvi_kwargs: Any,
    ) -> None:
        alone = registry if adata is None else None
        cells = adata if alone is None else self._placeholder(alone)
        with warnings.catch_warnings():  # MULTIVI makes layers of proteins where there are none
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            super().__init__(cells, **scvi_kwargs)
        if alone is None:
            return
        self.deregister_manager(cells)
        self._adata = self._adata_manager = None
        self.registry_ = alone
        self.summary_stats = AnnDataManager._get_summary_stats_from_registry(alone)

    @classmethod
    def _placeholder(cls, registry: Mapping[str, Any]) -> Any:
        """Cells that are registered as ``registry`` says."""
        cells = placeholder(registry)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            cls.setup_anndata(cells, source_registry=registry, **registry["setup_args"])
        return cells


def placeholder(registry: Mapping[str, Any]) -> AnnData:
    """Cells with a count of each feature that a registry has."""
    obs, layer = placeholder_obs(registry), registry["setup_args"].get("layer")
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    names = pd.Index(state["column_names"])
    x = sparse.csr_matrix(np.ones((len(obs), len(names)), dtype=np.float32))
    cells = holding(x, names, obs.index, layer)
    cells.obs = obs
    return cells


def placeholder_obs(registry: Mapping[str, Any]) -> pd.DataFrame:
    """Cells of the first of all categories that a registry has."""
    spec = ConditionSpec.from_registry(registry)
    categories = {**spec.nuisances, **spec.categorical}
    obs = {name: next(iter(known), np.nan) for name, known in categories.items()}
    obs |= dict.fromkeys(spec.numeric, np.nan) | dict.fromkeys(spec.numeric_covariates, 0.0)
    if key := registry["setup_args"].get("size_factor_key"):
        obs[key] = 1.0
    obs = {name: value for name, value in obs.items() if not name.startswith("_scvi_")}
    return pd.DataFrame(obs, index=[f"placeholder {i}" for i in range(_N)])
