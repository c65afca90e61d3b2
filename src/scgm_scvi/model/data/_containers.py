"""What holds cells: how a model reads them, and how it hands them back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from ._features import FeatureReport, align_features
from ._results import require_writable, used_categories, write_result
from ._tables import held_table
from ._validation import validate_adata
from ._writing import ChunkWriter

__all__ = ["AnnDataMixin"]


class AnnDataMixin:
    """Cells in an AnnData. A model of cells in another container overrides these.

    Inside a model, cells are an AnnData of all its features, in its order.
    """

    def _set_features(self, data: Any | None) -> None:
        """Remember the table of features; without cells, their names."""
        if data is None:
            self.var_ = pd.DataFrame(index=pd.Index(self.get_var_names()))
        else:
            self.var_ = held_table(data.var)

    def _hold_features(self) -> None:
        """Bring a table of features that was loaded to what this version, and pandas here, hold."""
        self.var_ = held_table(self.var_, "var_")

    def _is_cells(self, data: Any) -> bool:
        """Whether ``data`` are cells, as opposed to a wish for some."""
        return isinstance(data, AnnData)

    def _obs(self, data: Any) -> pd.DataFrame:
        """The attributes of cells, a row each."""
        return data.obs

    def _var_of(self, data: Any) -> pd.DataFrame:
        """Table of the model's features, as the cells have it."""
        return held_table(data.var.loc[self.var_.index])

    def _counts(self, registered: Any) -> np.ndarray | sparse.spmatrix:
        """What the model reads of registered cells: cells by all its features."""
        manager = self.get_anndata_manager(registered, required=True)
        return manager.get_from_registry(REGISTRY_KEYS.X_KEY)

    def _packed(self, adata: AnnData) -> Any:
        """What a user gets of cells that the model made."""
        adata.obs = used_categories(adata.obs)
        return adata

    def _unpacked(self, cells: Any) -> AnnData:
        """What :meth:`_packed` was given."""
        return cells

    def _writer(self, path: str | os.PathLike) -> ChunkWriter:
        """A file for cells that the model makes."""
        return ChunkWriter(path)

    def _require_writable(self, data: Any, key: str) -> None:
        """Check that results can be written beside cells."""
        require_writable(data, self.var_.index, key)

    def _write_result(
        self,
        data: Any,
        key: str,
        *,
        layers: Mapping[str, np.ndarray | sparse.csr_matrix],
        latent: np.ndarray,
        obs: Mapping[str, np.ndarray],
        uns: Mapping[str, Any],
        copy: bool,
    ) -> Any:
        """Write results beside cells, or into a copy that is returned."""
        return write_result(
            data,
            key,
            features=self.var_.index,
            layers=layers,
            latent=latent,
            obs=obs,
            uns=uns,
            copy=copy,
        )

    def _aligned_query(
        self, data: Any, min_share: float, columns: Sequence[str]
    ) -> tuple[Any, FeatureReport]:
        """Other cells with exactly the model's features, see :func:`align_features`."""
        layer = self.registry_["setup_args"].get("layer")
        return align_features(data, self.var_.index, self.var_, layer, min_share, columns)

    def _check_query(self, data: Any) -> None:
        """Refuse what can't be the data of a model."""
        validate_adata(data)
