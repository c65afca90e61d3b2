"""Models of scvi's that can't be made without data, made of cells that stand in for them."""

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

from ._conditions import ConditionSpec

__all__ = ["StandInMixin", "stand_in"]

_N = 2  # cells: scvi-tools squeezes arrays of one


class StandInMixin:
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
        if adata is not None or registry is None:
            super().__init__(adata, **scvi_kwargs)
            return
        cells = self._stand_in(registry)
        super().__init__(cells, **scvi_kwargs)
        self.deregister_manager(cells)
        self._adata = self._adata_manager = None
        self.registry_ = registry
        self.summary_stats = AnnDataManager._get_summary_stats_from_registry(registry)

    @classmethod
    def _stand_in(cls, registry: Mapping[str, Any]) -> Any:
        """Cells that are registered as ``registry`` says."""
        cells = stand_in(registry)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            cls.setup_anndata(cells, source_registry=registry, **registry["setup_args"])
        return cells


def stand_in(registry: Mapping[str, Any]) -> AnnData:
    """Cells with a count of each feature, of the first of all categories that a registry has."""
    setup, spec = registry["setup_args"], ConditionSpec.from_registry(registry)
    categories = {**spec.nuisances, **spec.categorical}
    obs = {name: next(iter(known), np.nan) for name, known in categories.items()}
    obs |= dict.fromkeys([*spec.continuous, *spec.numeric_covariates], 0.0)
    if setup.get("size_factor_key"):
        obs[setup["size_factor_key"]] = 1.0
    obs = {name: value for name, value in obs.items() if not name.startswith("_scvi_")}
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    names, layer = pd.Index(state["column_names"]), setup.get("layer")
    x = sparse.csr_matrix(np.ones((_N, len(names)), dtype=np.float32))
    return AnnData(
        x if layer is None else None,
        obs=pd.DataFrame(obs, index=[f"stand-in {i}" for i in range(_N)]),
        var=pd.DataFrame(index=names),
        layers=None if layer is None else {layer: x},
    )
