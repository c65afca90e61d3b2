"""Checks of cells with several modalities, made before anything is written to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed, nearest
from scgm_scvi.model.requests._kinds import further_arguments

from ._matrices import Matrix
from ._mudata_fields import is_binary
from ._validation import validate_adata, validate_matrix

__all__ = [
    "COLUMN_ARGUMENTS",
    "modality_widths",
    "check_cells",
    "check_counts",
    "check_expression",
    "check_keys",
    "check_measured",
    "check_mudata",
    "check_names",
    "counts_of",
    "places_of_columns",
]

COLUMN_ARGUMENTS = (
    "batch_key",
    "labels_key",
    "condition_keys",
    "continuous_condition_keys",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)
_INTERVAL = re.compile(r"[\w.]+[:_-]\d+[-_]\d+")
_PROBE = 200  # names that are looked at
_ENOUGH = 100  # counts, of which one would be above 1


def check_mudata(mdata: Any) -> None:
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


def places_of_columns(mdata: MuData, setup: Mapping[str, Any]) -> dict[str, str | None]:
    """Where the columns of arguments are, as far as the user says it."""
    modalities = setup["modalities"] or {}
    columns = [*COLUMN_ARGUMENTS, *further_arguments()]
    known = [*columns, "rna_layer", "atac_layer"]
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
    return {a: key for a, key in modalities.items() if a in columns}


def check_keys(mdata: MuData, keys: tuple[str, str]) -> None:
    for argument, key in zip(("rna_key", "atac_key"), keys, strict=True):
        if key not in mdata.mod:
            raise KeyError(
                f"{argument} is {key!r}, which is no modality of mdata.{nearest(key, mdata.mod)} "
                f"Modalities: {listed(mdata.mod)}."
            )
        validate_adata(mdata[key], name=f"mdata[{key!r}]")
    if keys[0] == keys[1]:
        raise ValueError(f"rna_key and atac_key are both {keys[0]!r}; they must differ.")


def check_cells(mdata: MuData) -> None:
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


def check_names(parts: Mapping[str, AnnData]) -> None:
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


def check_counts(
    parts: Mapping[str, AnnData], layers: Mapping[str, str | None], transferred: bool
) -> None:
    counted = []
    for i, (key, adata) in enumerate(parts.items()):
        name, layer = f"mdata[{key!r}]", layers[key]
        place = f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
        x = counts_of(adata, layer, name)
        if not transferred:
            check_measured(x, place)
        validate_matrix(adata, layer, True, not transferred, check_cells=False, name=name)
        if i == 0 and not transferred:
            check_expression(x, place)
        counted.append(np.asarray(x.sum(axis=1)).ravel())
    empty = np.sum(counted, axis=0) == 0
    if empty.any():
        names = next(iter(parts.values())).obs_names[empty]
        raise ValueError(
            f"{int(empty.sum())} cells have no count in any of {listed(parts)}: "
            f"{listed(names, 5)}. Leave them out."
        )


def counts_of(adata: AnnData, layer: str | None, name: str) -> Any:
    x = adata.X if layer is None else adata.layers.get(layer)
    if layer is not None and x is None:
        raise KeyError(f"layer: {layer!r} is not in {name}.layers.{nearest(layer, adata.layers)}")
    return x


def check_measured(x: Matrix | None, place: str) -> None:
    if x is not None and not np.any(x.data if sparse.issparse(x) else x):
        raise ValueError(f"{place} is all zeros: nothing was measured there.")


def check_expression(x: Matrix, place: str) -> None:
    n = x.nnz if sparse.issparse(x) else np.count_nonzero(x)
    if n >= _ENOUGH and is_binary(x):
        raise ValueError(
            f"{place} holds no count above 1, so that the expression looks binarised. Give raw "
            "counts of genes."
        )


def modality_widths(adata: AnnData, modality_key: str, rna_key: str, atac_key: str) -> list[int]:
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
