"""Cells in an AnnData: how a model reads them, and how it hands them back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from ._features import FeatureReport, align_features
from ._fields import MatrixField
from ._matrices import Matrix, as_matrix
from ._results import Results, require_writable, used_categories, write_result
from ._tables import held_table
from ._validation import match_features, validate_adata, validate_matrix
from ._writing import ChunkWriter

__all__ = ["AnnDataCells", "Tables"]

Tables = tuple[pd.DataFrame, dict[str, pd.DataFrame] | None]


@dataclass(frozen=True)
class AnnDataCells:
    """Cells of a model, in an AnnData. Those in another container are a subclass.

    Inside a model, cells are an AnnData of all its features, in its order. What a user passes is
    read and never written to, but for the results of :meth:`write`.

    Attributes
    ----------
    model
        Class whose set-up registers cells.
    registry
        What the model was set up with.
    var
        Table of its features.
    modality_var
        The same by modality, if there are several.
    """

    model: type[Any]
    registry: Mapping[str, Any]
    var: pd.DataFrame
    modality_var: dict[str, pd.DataFrame] | None = None

    @property
    def setup(self) -> Mapping[str, Any]:
        """Arguments of the set-up."""
        return self.registry["setup_args"]

    # features

    def names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the features."""
        state = self.registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        return np.asarray(state[MatrixField.COLUMN_NAMES_KEY]).astype(str)

    def feature_tables(self, data: Any | None) -> Tables:
        """Tables of features, of all and by modality; without cells, their names."""
        if data is None:
            return pd.DataFrame(index=pd.Index(self.names())), None
        return held_table(data.var), None

    def held_tables(self) -> Tables:
        """The tables, of what files can hold."""
        return held_table(self.var, "var_"), self.modality_var

    # what is read

    def is_cells(self, data: Any) -> bool:
        """Whether ``data`` are cells, as opposed to a request for some."""
        return isinstance(data, AnnData)

    def obs(self, data: Any) -> pd.DataFrame:
        """The attributes of cells, a row each."""
        return data.obs

    def var_of(self, data: Any) -> pd.DataFrame:
        """Table of the model's features, as the cells have it."""
        return held_table(data.var.loc[self.var.index])

    def counts(self, manager: AnnDataManager) -> Matrix:
        """What the model reads of registered cells: cells by all its features."""
        return manager.get_from_registry(REGISTRY_KEYS.X_KEY)

    def features(self, data: Any) -> Matrix:
        """Counts of other cells, checked: cells by all the model's features."""
        validate_adata(data, may_be_view=True)
        data, layer = match_features(data, pd.Index(self.var.index)), self.setup.get("layer")
        validate_matrix(data, layer, self.setup.get("is_count_data", True), check_features=False)
        x = as_matrix(data.X if layer is None else data.layers[layer], "the counts of adata")
        return x.tocsr() if sparse.issparse(x) else x

    def matrices(self, data: Any) -> Any:
        """The counts of other cells, checked: what :meth:`stand_in` is made of."""
        validate_adata(data, may_be_view=True)
        data, layer = match_features(data, pd.Index(self.names())), self.setup.get("layer")
        x = data.X if layer is None else data.layers.get(layer)
        if x is None:  # set-up says so, in its words
            return None, data.var[[]].copy()
        x = as_matrix(x, "adata.X" if layer is None else f"adata.layers[{layer!r}]")
        return (x.tocsr() if sparse.issparse(x) else x), data.var[[]].copy()

    def with_obs(self, data: Any, obs: pd.DataFrame) -> AnnData:
        """The same cells with other attributes, of which the model reads the same counts."""
        layer = self.setup.get("layer")
        layers = {} if layer is None or layer not in data.layers else {layer: data.layers[layer]}
        x = None if layers else data.X  # shared, not copied
        return AnnData(x, obs=obs, var=data.var[[]], layers=layers)

    def stand_in(self, matrices: Any, obs: pd.DataFrame) -> Any:
        """Cells of these counts and attributes, set up as the model's own data were."""
        (x, var), layer = matrices, self.setup.get("layer")
        stand_in = AnnData(
            x if layer is None else None,
            obs=obs,
            var=var,
            layers=None if layer is None or x is None else {layer: x},
        )
        self.model.setup_anndata(stand_in, source_registry=self.registry, **self.setup)
        return stand_in

    def check_query(self, data: Any) -> None:
        """Refuse what can't be the data of a model."""
        validate_adata(data)

    def align_query(
        self, data: Any, min_share: float, columns: Sequence[str]
    ) -> tuple[Any, FeatureReport]:
        """Other cells with exactly the model's features, see :func:`align_features`."""
        layer = self.setup.get("layer")
        return align_features(data, self.var.index, self.var, layer, min_share, columns)

    def way_to_keep_counts(self) -> str:
        """How to normalise in place, and keep what the model reads."""
        return (
            f"adata.layers['counts'] = adata.X.copy(), and {self.model.__name__}.setup_anndata("
            "adata, layer='counts')."
        )

    # what is handed back

    def pack(self, adata: AnnData) -> Any:
        """What a user gets of cells that the model made."""
        adata.obs = used_categories(adata.obs)
        return adata

    def unpack(self, cells: Any) -> AnnData:
        """What :meth:`pack` was given."""
        return cells

    def writer(self, path: str | os.PathLike) -> Any:
        """A file for cells that the model makes."""
        return ChunkWriter(path)

    def require_writable(self, data: Any, key: str) -> None:
        """Check that results can be written beside cells."""
        require_writable(data, self.var.index, key)

    def write(self, data: Any, key: str, **results: Unpack[Results]) -> Any:
        """Write results beside cells, or into a copy that is returned."""
        return write_result(data, key, features=self.var.index, **results)
