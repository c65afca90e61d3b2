"""What in a MuData, or in an AnnData of several kinds of features, a model learns from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, CategoricalObsField, MuDataNumericalObsField

from scgm_scvi._errors import listed, nearest

from ._modalities import gathered_obs
from ._mudata_fields import CountsField, GatheredField, MuDataCountsField, is_binary
from ._setup import SetupMixin, as_list
from ._validation import validate_adata, validate_matrix

__all__ = ["Block", "MuDataSetupMixin", "blocks_of"]

_INDICES = "_scvi_indices"
_INTERVAL = re.compile(r"[\w.]+[:_-]\d+[-_]\d+")
_PROBE = 200  # names that are looked at
_ENOUGH = 100  # counts, of which one would be above 1
_COLUMNS = (
    "batch_key",
    "labels_key",
    "condition_keys",
    "continuous_condition_keys",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)


class Block(NamedTuple):
    """Features of one kind: its modality's name, the features', and the layer of their counts."""

    key: str
    names: pd.Index
    layer: str | None


def blocks_of(registry: Mapping[str, Any]) -> list[Block]:
    """The blocks of features that a model was set up with."""
    setup, fields = registry["setup_args"], registry["field_registries"]
    keys = _modality_keys(setup)
    x = fields[REGISTRY_KEYS.X_KEY]["state_registry"]
    names = np.asarray(x[CountsField.COLUMN_NAMES_KEY])
    if registry.get("setup_method_name") == "setup_mudata":
        peaks = fields[REGISTRY_KEYS.ATAC_X_KEY]["state_registry"][CountsField.COLUMN_NAMES_KEY]
        layers = (setup.get("rna_layer"), setup.get("atac_layer"))
        parts = (names, np.asarray(peaks))
    else:
        layers = (setup.get("layer"),) * 2
        parts = np.split(names, np.cumsum(x[CountsField.BLOCKS_KEY])[:-1])
    blocks = zip(keys, parts, layers, strict=True)
    return [Block(key, pd.Index(part), layer) for key, part, layer in blocks]


class MuDataSetupMixin(SetupMixin):
    """Register counts of genes and of peaks, in a MuData or side by side in an AnnData."""

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        rna_key: str = "rna",
        atac_key: str = "atac",
        rna_layer: str | None = None,
        atac_layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        modalities: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what in ``mdata`` a model learns from.

        All input is checked before anything is written to ``mdata``. A cell in whose row a
        modality has no count at all was not measured in it.

        Parameters
        ----------
        mdata
            Modalities of the same cells in the same order, in memory and no view. Those of
            different cells: :func:`scgm_scvi.model.pad_modalities`.
        rna_key, atac_key
            Names of the modalities with genes and with peaks. Their order does not matter, and
            there may be others.
        rna_layer, atac_layer
            Layers with raw counts; default ``X``.
        batch_key, labels_key, condition_keys, continuous_condition_keys, \
        categorical_covariate_keys, continuous_covariate_keys, unlabeled_category
            As in :meth:`scgm_scvi.SCGM.setup_anndata`. Columns are looked for in ``mdata.obs``,
            else in the ``obs`` of the modalities, which must not contradict each other.
        modalities
            Argument to the modality whose ``obs`` has its columns, or ``None`` for ``mdata.obs``:
            ``{"batch_key": "rna"}``. As scvi-tools' users write it, ``"rna_layer"`` and
            ``"atac_layer"`` in it name the modalities themselves.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> MultiSCGM.setup_mudata(mdata, labels_key="cell_type")  # doctest: +SKIP
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        setup = setup_method_args["setup_args"]
        if modalities is not None:  # a plain dict is what is saved
            setup["modalities"] = modalities = dict(modalities)
        transferred = kwargs.get("source_registry") is not None
        _check_mudata(mdata)
        places = _check_modalities(mdata, setup)
        keys = _modality_keys(setup)
        _check_keys(mdata, keys)
        _check_cells(mdata)
        parts = {key: mdata[key] for key in keys}
        _check_names(parts)
        columns = {
            name: argument for argument in _COLUMNS for name in _named(setup[argument], argument)
        }

        def gather(mdata: MuData) -> pd.DataFrame:
            return gathered_obs(mdata, columns, places, keys)

        attributes = cls._attribute_fields(AnnData(obs=gather(mdata)), setup, kwargs, "mdata")
        layers = dict(zip(keys, (rna_layer, atac_layer), strict=True))
        _check_counts(parts, layers, transferred)
        mdata[keys[0]].obs[_INDICES] = np.arange(mdata.n_obs)
        counts = zip((REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.ATAC_X_KEY), layers.items(), strict=True)
        fields = [
            *(
                MuDataCountsField(name, layer, mod_key=key, mod_required=True)
                for name, (key, layer) in counts
            ),
            *(GatheredField(field, gather, keys[0]) for field in attributes),
            MuDataNumericalObsField(
                REGISTRY_KEYS.INDICES_KEY, _INDICES, mod_key=keys[0], required=False
            ),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        modality_key: str = "modality",
        rna_key: str = "Gene Expression",
        atac_key: str = "Peaks",
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what in an AnnData of genes and peaks side by side a model learns from.

        Parameters
        ----------
        adata
            Cells by features, genes before peaks, in memory and no view.
        modality_key
            Column of ``var`` that says what a feature is: ``"feature_types"`` where scanpy read a
            file of 10x Genomics.
        rna_key, atac_key
            What that column says of genes and of peaks.
        layer
            Layer with raw counts; default ``adata.X``.
        batch_key, labels_key, condition_keys, continuous_condition_keys, \
        categorical_covariate_keys, continuous_covariate_keys, unlabeled_category
            As in :meth:`scgm_scvi.SCGM.setup_anndata`.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> adata = sc.read_10x_h5("filtered_feature_bc_matrix.h5", gex_only=False)
        ... # doctest: +SKIP
        >>> MultiSCGM.setup_anndata(adata, modality_key="feature_types")  # doctest: +SKIP
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        setup = setup_method_args["setup_args"]
        transferred = kwargs.get("source_registry") is not None
        if isinstance(adata, MuData):
            raise TypeError("adata is a MuData; use setup_mudata.")
        validate_adata(adata)
        if transferred and modality_key not in adata.var:  # the model's features, in its order
            state = kwargs["source_registry"]["field_registries"][REGISTRY_KEYS.X_KEY]
            sizes = state["state_registry"][CountsField.BLOCKS_KEY]
        else:
            sizes = _block_sizes(adata, modality_key, rna_key, atac_key)
        attributes = cls._attribute_fields(adata, setup, kwargs)
        x = _counts_of(adata, layer, "adata")
        place = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        if not transferred and x is not None:
            for part, key in ((x[:, : sizes[0]], rna_key), (x[:, sizes[0] :], atac_key)):
                _check_part(part, f"{place} of the features with {modality_key!r} {key!r}")
        validate_matrix(adata, layer, True, check_features=not transferred)
        if not transferred:
            _check_genes(x[:, : sizes[0]], f"{place} of the genes")
        fields = [CountsField(REGISTRY_KEYS.X_KEY, layer, sizes), *attributes]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _further_fields(
        cls, labels_key: str | None, unlabeled_category: str | None
    ) -> list[BaseAnnDataField]:
        return [CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None)]  # as MULTIVI has it


def _named(value: str | Sequence[str] | None, argument: str) -> list[str]:
    """Columns that an argument names."""
    if argument.endswith("_key"):
        return [] if value is None else [value]
    return as_list(value, argument)


def _modality_keys(setup: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the modalities with genes and with peaks."""
    named = setup.get("modalities") or {}
    return (
        named.get("rna_layer") or setup["rna_key"],
        named.get("atac_layer") or setup["atac_key"],
    )


def _check_mudata(mdata: Any) -> None:
    if isinstance(mdata, AnnData):
        raise TypeError(
            "mdata is an AnnData; a MuData is needed. One with genes and peaks side by side: "
            "setup_anndata(adata, modality_key=...)."
        )
    if not isinstance(mdata, MuData):
        raise TypeError(f"mdata is a {type(mdata).__name__}; a MuData is needed.")
    if mdata.is_view:
        raise ValueError(
            "mdata is a view of another MuData, which can't be written to. "
            "Pass a copy: mdata = mdata.copy()."
        )
    if mdata.isbacked:
        raise ValueError(
            f"mdata is backed by {str(mdata.filename)!r}; it has to be in memory. "
            "Load it: mdata = mudata.read_h5mu(path)."
        )


def _check_modalities(mdata: MuData, setup: Mapping[str, Any]) -> dict[str, str | None]:
    """Where the columns of arguments are, as far as the user says it."""
    modalities = setup["modalities"] or {}
    known = [*_COLUMNS, "rna_layer", "atac_layer"]
    for argument, key in modalities.items():
        if argument not in known:
            raise ValueError(
                f"modalities: {argument!r} is no argument whose modality could be named."
                f"{nearest(argument, known)} Known: {listed(known)}."
            )
        if key is not None and key not in mdata.mod:
            raise KeyError(
                f"modalities[{argument!r}] is {key!r}, which mdata has not."
                f"{nearest(key, mdata.mod)} Modalities: {listed(mdata.mod)}."
            )
    return {a: key for a, key in modalities.items() if a in _COLUMNS}


def _check_keys(mdata: MuData, keys: tuple[str, str]) -> None:
    for argument, key in zip(("rna_key", "atac_key"), keys, strict=True):
        if key not in mdata.mod:
            raise KeyError(
                f"{argument} is {key!r}, which is no modality of mdata.{nearest(key, mdata.mod)} "
                f"Modalities: {listed(mdata.mod)}."
            )
        validate_adata(mdata[key], name=f"mdata[{key!r}]")
    if keys[0] == keys[1]:
        raise ValueError(f"rna_key and atac_key are both {keys[0]!r}; they must differ.")


def _check_cells(mdata: MuData) -> None:
    """Every modality has all cells, in one order: minibatches are taken by row."""
    names = mdata.obs_names
    lacking = {k: names.difference(a.obs_names, sort=False) for k, a in mdata.mod.items()}
    if any(len(missing) for missing in lacking.values()):
        said = "; ".join(
            f"mdata[{k!r}] lacks {len(missing)} of the {len(names)} cells ({listed(missing, 3)})"
            for k, missing in lacking.items()
            if len(missing)
        )
        raise ValueError(
            f"The modalities have different cells: {said}. To train on cells measured in one "
            "modality too: mdata = scgm_scvi.model.pad_modalities(mdata). To keep those that have "
            "all: muon.pp.intersect_obs(mdata)."
        )
    for key, adata in mdata.mod.items():
        if not adata.obs_names.equals(names):
            raise ValueError(
                f"The cells of mdata[{key!r}] are in another order than those of mdata. Bring them "
                "into one: mdata = scgm_scvi.model.pad_modalities(mdata)."
            )


def _check_names(parts: Mapping[str, AnnData]) -> None:
    """Names of features tell one from the other, and genes from peaks."""
    (rna_key, rna), (atac_key, atac) = parts.items()
    are = [_share_of_intervals(adata.var_names) for adata in (rna, atac)]
    if are[0] > 0.5 > are[1]:
        raise ValueError(
            f"The features of mdata[{rna_key!r}] are intervals of the genome "
            f"({listed(rna.var_names[:2])}), and those of mdata[{atac_key!r}] are not "
            f"({listed(atac.var_names[:2])}): the keys are swapped. Pass rna_key={atac_key!r}, "
            f"atac_key={rna_key!r}."
        )
    shared = rna.var_names.intersection(atac.var_names)
    if len(shared):
        raise ValueError(
            f"mdata[{rna_key!r}] and mdata[{atac_key!r}] share {len(shared)} names of features: "
            f"{listed(shared, 5)}. Rename them in one, such as mdata[{atac_key!r}].var_names = "
            f"'peak_' + mdata[{atac_key!r}].var_names."
        )


def _share_of_intervals(names: pd.Index) -> float:
    some = names[:: max(1, len(names) // _PROBE)]
    return float(np.mean([_INTERVAL.fullmatch(str(name)) is not None for name in some]))


def _check_counts(
    parts: Mapping[str, AnnData], layers: Mapping[str, str | None], transferred: bool
) -> None:
    counted = 0
    for i, (key, adata) in enumerate(parts.items()):
        name, layer = f"mdata[{key!r}]", layers[key]
        place = f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
        x = _counts_of(adata, layer, name)
        if not transferred:
            _check_part(x, place)
        validate_matrix(adata, layer, True, not transferred, check_cells=False, name=name)
        if i == 0 and not transferred:
            _check_genes(x, place)
        counted = counted + np.asarray(x.sum(axis=1)).ravel()
    empty = counted == 0
    if empty.any():
        names = next(iter(parts.values())).obs_names[empty]
        raise ValueError(
            f"{int(empty.sum())} cells have no count in any of {listed(parts)}: "
            f"{listed(names, 5)}. Leave them out."
        )


def _counts_of(adata: AnnData, layer: str | None, name: str) -> Any:
    x = adata.X if layer is None else adata.layers.get(layer)
    if layer is not None and x is None:
        raise KeyError(f"layer: {layer!r} is not in {name}.layers.{nearest(layer, adata.layers)}")
    return x


def _check_part(x: np.ndarray | sparse.spmatrix | None, place: str) -> None:
    values = x.data if sparse.issparse(x) else x
    if values is not None and not np.any(values):
        raise ValueError(f"{place} is all zeros: nothing was measured there.")


def _check_genes(x: np.ndarray | sparse.spmatrix, place: str) -> None:
    n = x.nnz if sparse.issparse(x) else np.count_nonzero(x)
    if n >= _ENOUGH and is_binary(x):
        raise ValueError(
            f"{place} holds no count above 1, so that the expression looks binarised. Give raw "
            "counts of genes."
        )


def _block_sizes(adata: AnnData, modality_key: str, rna_key: str, atac_key: str) -> list[int]:
    """Numbers of genes and of peaks, in this order and not mixed."""
    if modality_key not in adata.var:
        raise KeyError(
            f"modality_key: {modality_key!r} is not a column of adata.var."
            f"{nearest(modality_key, adata.var.columns)} Columns: {listed(adata.var.columns)}."
        )
    kinds = adata.var[modality_key].astype(str).to_numpy()
    for argument, key in (("rna_key", rna_key), ("atac_key", atac_key)):
        if not (kinds == key).any():
            raise ValueError(
                f"{argument} is {key!r}, which adata.var[{modality_key!r}] says of no feature."
                f"{nearest(key, set(kinds))} Values: {listed(sorted(set(kinds)))}."
            )
    other = ~np.isin(kinds, [rna_key, atac_key])
    if other.any():
        raise ValueError(
            f"adata.var[{modality_key!r}] has {int(other.sum())} features that are neither "
            f"{rna_key!r} nor {atac_key!r}: {listed(sorted(set(kinds[other])))}. Leave them out: "
            f"adata = adata[:, adata.var[{modality_key!r}].isin([{rna_key!r}, {atac_key!r}])]"
            ".copy()."
        )
    is_gene = kinds == rna_key
    sizes = [int(is_gene.sum()), int((~is_gene).sum())]
    if not is_gene[: sizes[0]].all():
        raise ValueError(
            "Genes and peaks are mixed in adata, or peaks come first. Sort them: adata = adata[:, "
            f"(adata.var[{modality_key!r}] == {atac_key!r}).to_numpy().argsort(kind='stable')]"
            ".copy()."
        )
    return sizes
