"""Cells in a MuData, or in an AnnData of one modality: how a model reads and writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from scgm_scvi._errors import listed, nearest
from scgm_scvi._mudata import columns_stay
from scgm_scvi.model.requests._spec import ConditionSpec

from ._anndata_cells import AnnDataCells, Tables
from ._features import FeatureReport
from ._h5mu import MuDataWriter
from ._matrices import Matrix, as_matrix
from ._modalities import gathered_obs, holding, make_mudata, rows_placed
from ._modality import Modality, modalities_of
from ._mudata_query import align_mudata, check_mudata_query
from ._results import Results, require_writable
from ._tables import held_table
from ._validation import match_features, validate_adata
from ._writing import ChunkWriter

__all__ = ["MuDataCells"]

_LAYERS = ("rna_layer", "atac_layer")


class MuDataCells(AnnDataCells):
    """Cells of a model whose features are of several modalities.

    Cells that a trained model is given may be a MuData with all of its modalities or with some, or
    an AnnData with the features of one, or of all; what they lack was not measured. Cells that it
    makes come in what it was set up with.
    """

    @property
    def is_of_mudata(self) -> bool:
        """Whether the model was set up with a MuData."""
        return self.registry.get("setup_method_name") == "setup_mudata"

    @property
    def modalities(self) -> list[Modality]:
        """The modalities of the model, in the order of its features."""
        return modalities_of(self.registry)

    # features

    def names(self, legacy_mudata_format: bool = False) -> Any:
        parts = {modality.key: modality.names.to_numpy() for modality in self.modalities}
        if self.is_of_mudata and not legacy_mudata_format:
            return parts
        return np.concatenate(list(parts.values()))

    def feature_tables(self, data: AnnData | MuData | None) -> Tables:
        modalities = self.modalities
        if isinstance(data, AnnData):
            return super().feature_tables(data)
        names = np.concatenate([modality.names for modality in modalities])
        kinds = np.repeat([m.key for m in modalities], [len(m.names) for m in modalities])
        var = pd.DataFrame({"modality": pd.Categorical(kinds)}, index=pd.Index(names))
        return var, {
            m.key: pd.DataFrame(index=m.names)
            if data is None
            else held_table(data[m.key].var, f"mdata[{m.key!r}].var")
            for m in modalities
        }

    def held_tables(self) -> Tables:
        var, tables = super().held_tables()
        if tables is None:
            return var, None
        return var, {k: held_table(t, f"modality_var_[{k!r}]") for k, t in tables.items()}

    # what is read

    def is_cells(self, data: Any) -> bool:
        return isinstance(data, AnnData | MuData)

    def obs(self, data: AnnData | MuData) -> pd.DataFrame:
        if isinstance(data, AnnData):
            return data.obs
        setup, spec = self.setup, ConditionSpec.from_registry(self.registry)
        named = {k: v for k, v in (setup.get("modalities") or {}).items() if v in data.mod}
        named.pop("rna_layer", None), named.pop("atac_layer", None)
        keys = [modality.key for modality in self.modalities]
        columns = dict.fromkeys([*spec.names, *spec.numeric_covariates], "modalities")
        for argument in named:
            value = setup.get(argument)
            own = [value] if isinstance(value, str) else list(value or [])
            columns.update({name: argument for name in own if name in data[named[argument]].obs})
        found = gathered_obs(data, columns, named, keys)
        return data.obs.assign(**{name: found[name] for name in found})

    def var_of(self, data: AnnData | MuData) -> pd.DataFrame:
        return self.var.copy()

    def counts(self, manager: AnnDataManager) -> Matrix:
        x = super().counts(manager)
        if not self.is_of_mudata:
            return x
        peaks = manager.get_from_registry(REGISTRY_KEYS.ATAC_X_KEY)
        return sparse.hstack([sparse.csr_matrix(x), sparse.csr_matrix(peaks)], format="csr")

    def features(self, data: AnnData | MuData) -> Matrix:
        return sparse.hstack(list(self.by_modality(data).values()), format="csr")

    def matrices(self, data: AnnData | MuData) -> dict[str, Matrix]:
        return self.by_modality(data)

    def with_obs(self, data: AnnData | MuData, obs: pd.DataFrame) -> AnnData:
        x = self.features(data)
        layers = {m.layer: x for m in self.modalities if m.layer is not None}
        return AnnData(x, obs=obs, var=pd.DataFrame(index=self.var.index), layers=layers)

    def stand_in(self, matrices: Any, obs: pd.DataFrame) -> AnnData | MuData:
        setup = self.setup
        if not self.is_of_mudata:
            names, x = pd.Index(self.var.index), _side_by_side(list(matrices.values()))
            stand_in = holding(x, names, obs.index, setup.get("layer"))
            stand_in.obs = obs
            self.model.setup_anndata(stand_in, source_registry=self.registry, **setup)
            return stand_in
        modalities = self.modalities
        places = {"modalities": {a: m.key for a, m in zip(_LAYERS, modalities, strict=True)}}
        stand_in = make_mudata(
            {m.key: holding(matrices[m.key], m.names, obs.index, m.layer) for m in modalities},
            obs,
        )
        self.model.setup_mudata(stand_in, source_registry=self.registry, **{**setup, **places})
        return stand_in

    def held(self, mdata: MuData) -> dict[str, AnnData]:
        """What a MuData has of the model's modalities: by their names, or else their features."""
        out = {}
        for modality in self.modalities:
            if modality.key in mdata.mod:
                out[modality.key] = mdata[modality.key]
                continue
            for part in mdata.mod.values():
                if part.var_names.isin(modality.names).any():
                    out[modality.key] = part
                    break
        return out

    def by_modality(self, data: AnnData | MuData) -> dict[str, sparse.csr_matrix | np.ndarray]:
        """Counts of each modality, of zeros where it was not measured."""
        modalities = self.modalities
        if isinstance(data, MuData):
            if data.isbacked:
                raise ValueError("mdata is backed by a file; load it: mudata.read_h5mu(path).")
            held = self.held(data)
            if not held:
                raise KeyError(
                    f"mdata has none of the model's modalities {listed(b.key for b in modalities)}."
                    f"{nearest(modalities[0].key, data.mod)} It has {listed(data.mod)}."
                )
            names, called = data.obs_names, "mdata[{!r}]"
        else:
            validate_adata(data, may_be_view=True)
            held = {b.key: data for b in modalities if data.var_names.isin(b.names).any()}
            names, called = data.obs_names, "adata"
            if not held:
                raise ValueError(
                    f"adata has none of the model's {len(self.var)} features. Its var_names begin "
                    f"{listed(data.var_names[:3])}; those of the model, "
                    + " and ".join(f"{listed(b.names[:3])} ({b.key})" for b in modalities)
                    + "."
                )
        out = {}
        for modality in modalities:
            if modality.key not in held:
                shape = (len(names), len(modality.names))
                out[modality.key] = sparse.csr_matrix(shape, dtype=np.float32)
                continue
            part, name = held[modality.key], called.format(modality.key)
            validate_adata(part, may_be_view=True, name=name)
            part = match_features(part, modality.names, name=name)
            x = part.X if modality.layer is None else part.layers.get(modality.layer)
            if x is None:
                raise KeyError(
                    f"{name} has no counts in "
                    f"{'X' if modality.layer is None else f'layers[{modality.layer!r}]'}, where the model "
                    "was given them."
                )
            x = as_matrix(x, f"the counts of {name}")
            if not part.obs_names.equals(names):  # not all cells were measured in it
                x = rows_placed(x, part.obs_names.get_indexer(names))
            out[modality.key] = x.tocsr() if sparse.issparse(x) else x
        return out

    def check_query(self, data: Any) -> None:
        if self.is_of_mudata:
            check_mudata_query(data, self.modalities)
        else:
            super().check_query(data)

    def align_query(
        self, data: AnnData | MuData, min_share: float, columns: Sequence[str]
    ) -> tuple[AnnData | MuData, FeatureReport]:
        if not self.is_of_mudata:
            return super().align_query(data, min_share, columns)
        return align_mudata(
            data, self.modalities, self.modality_var or {}, self.obs(data), min_share, columns
        )

    def way_to_keep_counts(self) -> str:
        if not self.is_of_mudata:
            return super().way_to_keep_counts()
        key, name = self.modalities[0].key, self.model.__name__
        return (
            f"mdata[{key!r}].layers['counts'] = mdata[{key!r}].X.copy(), and "
            f"{name}.setup_mudata(mdata, rna_layer='counts')."
        )

    # what is handed back

    def pack(self, adata: AnnData) -> AnnData | MuData:
        adata = super().pack(adata)
        if not self.is_of_mudata:
            return adata
        tables, mods, start = self.modality_var or {}, {}, 0
        for modality in self.modalities:
            stop = start + len(modality.names)
            var = tables[modality.key].copy()
            mods[modality.key] = AnnData(adata.X[:, start:stop], obs=adata.obs.copy(), var=var)
            start = stop
        mdata = make_mudata(mods, adata.obs)
        for key, value in adata.obsm.items():
            mdata.obsm[key] = value
        mdata.uns = dict(adata.uns)
        return mdata

    def unpack(self, cells: AnnData | MuData) -> AnnData:
        if isinstance(cells, AnnData):
            return cells
        x = _side_by_side([cells[modality.key].X for modality in self.modalities])
        obsm = {key: value for key, value in cells.obsm.items() if key not in cells.mod}
        return AnnData(x, obs=cells.obs, var=self.var.copy(), obsm=obsm, uns=dict(cells.uns))

    def writer(self, path: str | os.PathLike) -> ChunkWriter | MuDataWriter:
        if not self.is_of_mudata:
            return ChunkWriter(path)
        return MuDataWriter(path, self.modality_var or {})

    def require_writable(self, data: AnnData | MuData, key: str) -> None:
        if isinstance(data, AnnData):
            require_writable(data, self.var.index, key)
            return
        if not isinstance(data, MuData):
            raise TypeError(f"The cells are a {type(data).__name__}; pass a MuData or an AnnData.")
        if data.isbacked:
            raise ValueError(
                "mdata is backed by a file, which results are not written to: load it by "
                "mudata.read_h5mu(path)."
            )
        names = {modality.key: modality.names for modality in self.modalities}
        for name, part in self.held(data).items():
            require_writable(part, names[name], key, f"mdata[{name!r}]")

    def write(
        self, data: AnnData | MuData, key: str, **results: Unpack[Results]
    ) -> AnnData | MuData | None:
        if isinstance(data, AnnData):
            return super().write(data, key, **results)
        new = results["copy"] or data.is_view
        with columns_stay():
            out = data.copy() if new else data
        for part in self.held(out).values():
            columns = self.var.index.get_indexer(part.var_names)
            for suffix, values in results["layers"].items():
                here = _columns(values, columns)
                if not part.obs_names.equals(out.obs_names):
                    here = here[out.obs_names.get_indexer(part.obs_names)]
                part.layers[key + suffix] = here
        out.obsm["X_" + key] = results["latent"]
        for suffix, column in results["obs"].items():
            out.obs[key + suffix] = column
        out.uns[key] = dict(results["uns"])
        return out if new else None


def _side_by_side(parts: Sequence[np.ndarray | sparse.spmatrix]) -> np.ndarray | sparse.csr_matrix:
    """Modalities side by side, sparse if any is."""
    if any(sparse.issparse(part) for part in parts):
        return sparse.hstack([sparse.csr_matrix(part) for part in parts], format="csr")
    return np.concatenate(parts, axis=1)


def _columns(
    values: np.ndarray | sparse.csr_matrix, columns: np.ndarray
) -> np.ndarray | sparse.csr_matrix:
    """Columns, by a slice where they follow each other: to gather 100,000 takes long."""
    if len(columns) and (np.diff(columns) == 1).all():
        return values[:, columns[0] : columns[-1] + 1]
    return values[:, columns]
