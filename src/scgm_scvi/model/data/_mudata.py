"""Cells in a MuData, or in an AnnData of one modality: how a model reads and writes them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scgm_scvi._errors import listed, nearest
from scgm_scvi._mudata import columns_stay
from scgm_scvi.model.requests._conditions import ConditionSpec

from ._containers import AnnDataMixin
from ._h5mu import MuDataWriter
from ._matrices import as_matrix
from ._modalities import gathered_obs, holding, make_mudata, rows_placed
from ._mudata_query import MuDataQueryMixin
from ._mudata_setup import Modality, modalities_of
from ._results import require_writable
from ._tables import held_table
from ._validation import match_features, validate_adata
from ._writing import ChunkWriter

__all__ = ["MuDataMixin"]


class MuDataMixin(MuDataQueryMixin, AnnDataMixin):
    """Cells of a model whose features are of several modalities.

    Comes before ``SetupMixin`` and ``LatentDiffusionModel`` among the bases. Cells that a trained
    model is given may be a MuData with all of its modalities or with some, or an AnnData with the
    features of one, or of all; what they lack was not measured. Cells that it makes come in what it
    was set up with.
    """

    modality_var_: dict[str, pd.DataFrame] | None = None

    @property
    def _is_of_mudata(self) -> bool:
        return self.registry_.get("setup_method_name") == "setup_mudata"

    @property
    def _modalities(self) -> list[Modality]:
        return modalities_of(self.registry_)

    def _set_features(self, data: AnnData | MuData | None) -> None:
        """Remember the tables of features; without data, their names."""
        modalities = self._modalities
        if isinstance(data, AnnData):
            super()._set_features(data)
            return
        names = np.concatenate([modality.names for modality in modalities])
        kinds = np.repeat([b.key for b in modalities], [len(b.names) for b in modalities])
        self.var_ = pd.DataFrame({"modality": pd.Categorical(kinds)}, index=pd.Index(names))
        self.modality_var_ = {
            b.key: pd.DataFrame(index=b.names)
            if data is None
            else held_table(data[b.key].var, f"mdata[{b.key!r}].var")
            for b in modalities
        }

    def _hold_features(self) -> None:
        super()._hold_features()
        for key, table in (self.modality_var_ or {}).items():
            self.modality_var_[key] = held_table(table, f"modality_var_[{key!r}]")

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the features: an array, or a dict of arrays where they come in a MuData."""
        parts = {modality.key: modality.names.to_numpy() for modality in self._modalities}
        if self._is_of_mudata and not legacy_mudata_format:
            return parts
        return np.concatenate(list(parts.values()))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`scvi.model.base.BaseModelClass.save`; ``obs`` of a MuData stays as it is."""
        with columns_stay():
            super().save(*args, **kwargs)

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> MuDataMixin:
        """As ``LoadingMixin`` has it; ``obs`` of a MuData stays as it is."""
        with columns_stay(), warnings.catch_warnings():
            # scvi-tools 1.4 asks a MuData for its modalities in the old way
            warnings.filterwarnings("ignore", "The method mod_names is deprecated")
            return super().load(*args, **kwargs)

    # what is read

    def _way_to_keep_counts(self) -> str:
        if not self._is_of_mudata:
            return super()._way_to_keep_counts()
        key, name = self._modalities[0].key, type(self).__name__
        return (
            f"mdata[{key!r}].layers['counts'] = mdata[{key!r}].X.copy(), and "
            f"{name}.setup_mudata(mdata, rna_layer='counts')."
        )

    def _is_cells(self, data: Any) -> bool:
        return isinstance(data, AnnData | MuData)

    def _obs(self, data: AnnData | MuData) -> pd.DataFrame:
        if isinstance(data, AnnData):
            return data.obs
        setup, spec = self.registry_["setup_args"], ConditionSpec.from_registry(self.registry_)
        named = {k: v for k, v in (setup.get("modalities") or {}).items() if v in data.mod}
        named.pop("rna_layer", None), named.pop("atac_layer", None)
        keys = [modality.key for modality in self._modalities]
        columns = dict.fromkeys([*spec.names, *spec.numeric_covariates], "modalities")
        for argument in named:
            value = setup.get(argument)
            own = [value] if isinstance(value, str) else list(value or [])
            columns.update({name: argument for name in own if name in data[named[argument]].obs})
        found = gathered_obs(data, columns, named, keys)
        return data.obs.assign(**{name: found[name] for name in found})

    def _var_of(self, data: AnnData | MuData) -> pd.DataFrame:
        return self.var_.copy()

    def _counts(self, registered: AnnData | MuData) -> np.ndarray | sparse.spmatrix:
        x = super()._counts(registered)
        if not self._is_of_mudata:
            return x
        manager = self.get_anndata_manager(registered, required=True)
        peaks = manager.get_from_registry(REGISTRY_KEYS.ATAC_X_KEY)
        return sparse.hstack([sparse.csr_matrix(x), sparse.csr_matrix(peaks)], format="csr")

    def _features_of(self, adata: AnnData | MuData | None) -> sparse.spmatrix | np.ndarray:
        if adata is None:
            return super()._features_of(None)
        return sparse.hstack(list(self._matrices(adata).values()), format="csr")

    def _matrices_of(self, data: AnnData | MuData) -> dict[str, sparse.csr_matrix | np.ndarray]:
        return self._matrices(data)

    def _set_up_stand_in(self, matrices: Any, obs: pd.DataFrame) -> AnnData | MuData:
        setup = self.registry_["setup_args"]
        if not self._is_of_mudata:
            names, x = pd.Index(self.var_.index), _side_by_side(list(matrices.values()))
            stand_in = holding(x, names, obs.index, setup.get("layer"))
            stand_in.obs = obs
            type(self).setup_anndata(stand_in, source_registry=self.registry_, **setup)
            return stand_in
        places = {"modalities": {a: b.key for a, b in zip(_LAYERS, self._modalities, strict=True)}}
        stand_in = make_mudata(
            {
                b.key: holding(matrices[b.key], b.names, obs.index, b.layer)
                for b in self._modalities
            },
            obs,
        )
        type(self).setup_mudata(stand_in, source_registry=self.registry_, **{**setup, **places})
        return stand_in

    def _modalities_of(self, mdata: MuData) -> dict[str, AnnData]:
        """What a MuData has of the model's modalities: by their names, or else by their features."""
        out = {}
        for modality in self._modalities:
            if modality.key in mdata.mod:
                out[modality.key] = mdata[modality.key]
                continue
            for part in mdata.mod.values():
                if part.var_names.isin(modality.names).any():
                    out[modality.key] = part
                    break
        return out

    def _matrices(self, data: AnnData | MuData) -> dict[str, sparse.csr_matrix | np.ndarray]:
        """Counts of each modality, of zeros where it was not measured."""
        modalities = self._modalities
        if isinstance(data, MuData):
            if data.isbacked:
                raise ValueError("mdata is backed by a file; load it: mudata.read_h5mu(path).")
            held = self._modalities_of(data)
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
                    f"adata has none of the model's {len(self.var_)} features. Its var_names begin "
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

    # what is handed back

    def _packed(self, adata: AnnData) -> AnnData | MuData:
        adata = super()._packed(adata)
        if not self._is_of_mudata:
            return adata
        mods, start = {}, 0
        for modality in self._modalities:
            stop = start + len(modality.names)
            var = self.modality_var_[modality.key].copy()
            mods[modality.key] = AnnData(adata.X[:, start:stop], obs=adata.obs.copy(), var=var)
            start = stop
        mdata = make_mudata(mods, adata.obs)
        for key, value in adata.obsm.items():
            mdata.obsm[key] = value
        mdata.uns = dict(adata.uns)
        return mdata

    def _unpacked(self, cells: AnnData | MuData) -> AnnData:
        if isinstance(cells, AnnData):
            return cells
        x = _side_by_side([cells[modality.key].X for modality in self._modalities])
        obsm = {self.latent_key: cells.obsm[self.latent_key]}
        return AnnData(x, obs=cells.obs, var=self.var_.copy(), obsm=obsm, uns=dict(cells.uns))

    def _writer(self, path: str | os.PathLike) -> ChunkWriter | MuDataWriter:
        if not self._is_of_mudata:
            return ChunkWriter(path)
        return MuDataWriter(path, self.modality_var_)

    def _require_writable(self, data: AnnData | MuData, key: str) -> None:
        if isinstance(data, AnnData):
            require_writable(data, self.var_.index, key)
            return
        if not isinstance(data, MuData):
            raise TypeError(f"The cells are a {type(data).__name__}; pass a MuData or an AnnData.")
        if data.isbacked:
            raise ValueError(
                "mdata is backed by a file, which results are not written to: load it by "
                "mudata.read_h5mu(path)."
            )
        names = {modality.key: modality.names for modality in self._modalities}
        for name, part in self._modalities_of(data).items():
            require_writable(part, names[name], key, f"mdata[{name!r}]")

    def _write_result(
        self,
        data: AnnData | MuData,
        key: str,
        *,
        layers: Mapping[str, np.ndarray | sparse.csr_matrix],
        latent: np.ndarray,
        obs: Mapping[str, np.ndarray],
        uns: Mapping[str, Any],
        copy: bool,
    ) -> AnnData | MuData | None:
        if isinstance(data, AnnData):
            return super()._write_result(
                data, key, layers=layers, latent=latent, obs=obs, uns=uns, copy=copy
            )
        new = copy or data.is_view
        with columns_stay():
            out = data.copy() if new else data
        for part in self._modalities_of(out).values():
            columns = self.var_.index.get_indexer(part.var_names)
            for suffix, values in layers.items():
                here = _columns(values, columns)
                if not part.obs_names.equals(out.obs_names):
                    here = here[out.obs_names.get_indexer(part.obs_names)]
                part.layers[key + suffix] = here
        out.obsm["X_" + key] = latent
        for suffix, column in obs.items():
            out.obs[key + suffix] = column
        out.uns[key] = dict(uns)
        return out if new else None


_LAYERS = ("rna_layer", "atac_layer")


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
