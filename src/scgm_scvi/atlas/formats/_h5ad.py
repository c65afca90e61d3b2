"""AnnData's h5ad files, those of CELLxGENE first."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest
from scgm_scvi.atlas.formats._reading import Reading

from ._blocks import EntrySpool, rechunked
from ._columns import gene_table, is_ensembl, plain
from ._errors import no_damage
from ._guides import GUIDES, guide_table
from ._h5 import compressed_blocks, dense_slabs, indptr_of, open_h5, read_run

__all__ = ["read_h5ad"]

SYMBOLS = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "symbol",
    "gene_names",
    "gene_name",
    "gene_short_name",
    "Symbol",
    "SYMBOL",
)
IDS = ("gene_ids", "gene_id", "ensembl_ids", "ensembl_id", "feature_id", "ENSEMBL", "Accession")
ORGANISMS = {"NCBITaxon:9606": "Homo sapiens", "NCBITaxon:10090": "Mus musculus"}
# what uns says of all cells alike, put beside what obs says of each
OF_ALL = ("organism", "organism_ontology_term_id", "is_pre_analysis")
NORMAL = "PATO:0000461"
CSC_RUN = 1 << 22  # entries of a CSC matrix read at once


def read_h5ad(path: Path | str, *, layer: str | None = None) -> Reading:
    """Genes and cells of an AnnData file.

    The values are those of ``raw.X`` where there is one, as CELLxGENE has its counts there, else
    those of ``X``. A CSR or dense matrix is read a block at a time as blocks are asked for. A CSC
    matrix is sorted by cells first: up to 8 million entries in memory (100 MB), more than these
    in temporary files. Files of AnnData 0.6 and older are read too.

    Columns of ``obs`` stand as they are, categories as strings. What CELLxGENE's schemas call
    otherwise is there under its standard name as well: ``donor_id`` as ``donor``, the organism of
    ``uns`` (schema 6 and later) in ``obs``, and ``disease`` ``"normal"`` where only its term is.
    What ``uns`` says of the guides of a screen (schema 7.1) is the reading's ``guides``.

    Parameters
    ----------
    path
        The file.
    layer
        Name of a layer to read in place of ``raw.X`` and ``X``; ``"X"`` for ``X`` in spite of
        ``raw``.

    Returns
    -------
    ``var`` by Ensembl ids where the file has any, in the index or in a column, with symbols.

    Raises
    ------
    ValueError
        The file is damaged, no h5ad file, or its matrix does not fit its tables.
    KeyError
        There is no such layer.
    """
    path = Path(path)
    with no_damage(path), open_h5(path) as f:
        if "obs" not in f or "X" not in f:
            raise ValueError(f"{path}: no AnnData in it; it holds {listed(f)}.")
        layers = list(f.get("layers", ()))
    if layer not in (None, "X", *layers):
        hint = nearest(layer, layers)
        raise KeyError(f"layer {layer!r} is not in {path}; its layers: {listed(layers)}.{hint}")
    with no_damage(path), open_h5(path) as f:
        name, raw = _matrix_name(f, layer)
        categories = f["uns"] if isinstance(f.get("uns"), h5py.Group) else {}
        obs = _frame(f["obs"], categories)
        var = _frame(f["var"], categories)
        raw_var = f.get("raw/var", f.get("raw.var")) if raw else None
        if raw_var is not None:
            # symbols are often in var alone
            own = _frame(raw_var, categories)
            var = own.join(var[var.columns.difference(own.columns)]) if var.index.is_unique else own
        uns = {k: _text(categories[k]) for k in OF_ALL if k in categories}
        guides = guide_table(ad.io.read_elem(categories[GUIDES])) if GUIDES in categories else None
        shape = (len(obs), len(var))
        kind = _check(f[name], shape, path)

    def in_blocks(size: int):
        if kind == "csr":
            return compressed_blocks(path, name, shape, size)
        return rechunked(dense_slabs(path, name, cells_axis=0), size)

    if kind == "csc":
        spool = _spooled(path, name, shape)
        blocks = lambda size: spool.blocks(size, n_genes=shape[1])
    else:
        blocks = in_blocks
    obs, var = _standard(plain(obs), uns), _genes(plain(var))
    return Reading(obs=obs, var=var, blocks=blocks, guides=guides)


def _matrix_name(f: h5py.File, layer: str | None) -> tuple[str, bool]:
    """Where the values are, and whether raw.var names their genes."""
    if layer is None:
        # before AnnData 0.7, "raw.X" was a name
        return next(((n, True) for n in ("raw/X", "raw.X") if n in f), ("X", False))
    return "X" if layer == "X" else f"layers/{layer}", False


def _frame(element: h5py.Group | h5py.Dataset, uns: Any) -> pd.DataFrame:
    """``obs`` or ``var``, of any age."""
    if isinstance(element, h5py.Dataset):  # AnnData 0.6 and older: a table, categories in uns
        table = pd.DataFrame({n: element[n] for n in element.dtype.names})
        table = table.set_index("index" if "index" in table else table.columns[0])
        for column in table.columns:
            named = uns.get(f"{column}_categories")
            if named is not None:
                values = pd.Index([_decoded(v) for v in np.atleast_1d(named[()])])
                codes = table[column].to_numpy()
                table[column] = pd.Categorical.from_codes(codes, values)
            elif table[column].dtype == object:
                table[column] = [_decoded(v) for v in table[column]]
        table.index = [_decoded(v) for v in table.index]
        return table
    with warnings.catch_warnings():  # of the age of the file
        warnings.simplefilter("ignore")
        return ad.io.read_elem(element)


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _text(dataset: h5py.Dataset) -> str:
    return str(_decoded(np.atleast_1d(dataset[()])[0]))


def _check(matrix: h5py.Group | h5py.Dataset, shape: tuple[int, int], path: Path) -> str:
    """Say how the matrix is stored, once it fits the tables."""
    if isinstance(matrix, h5py.Dataset):
        kind, found = "dense", tuple(matrix.shape)
    else:
        old = "h5sparse_format" in matrix.attrs
        kind = matrix.attrs["h5sparse_format" if old else "encoding-type"]
        kind = _decoded(kind).removesuffix("_matrix")
        found = tuple(int(n) for n in matrix.attrs["h5sparse_shape" if old else "shape"])
    if kind not in ("dense", "csr", "csc"):
        raise ValueError(
            f"{path}: {matrix.name} is stored as {kind!r}; csr, csc and dense are read."
        )
    if found != shape:
        raise ValueError(
            f"{path}: {matrix.name} is {found}, with {shape[0]} cells in obs and {shape[1]} genes "
            "in var. The file is damaged."
        )
    if kind != "dense":
        indptr_of(matrix, shape[kind == "csc"], path)
    return kind


def _spooled(path: Path, name: str, shape: tuple[int, int]) -> EntrySpool:
    """A CSC matrix, sorted by cells."""
    spool = EntrySpool(shape[0])
    with no_damage(path), open_h5(path) as f:
        group = f[name]
        indptr = indptr_of(group, shape[1], path)
        for start in range(0, int(indptr[-1]), CSC_RUN):
            stop = min(start + CSC_RUN, int(indptr[-1]))
            cells, values = read_run(group, start, stop, shape[0], path)
            genes = np.searchsorted(indptr, np.arange(start, stop), side="right") - 1
            spool.add(cells, genes, values)
    return spool


def _genes(var: pd.DataFrame) -> pd.DataFrame:
    """``var`` by id, with symbols, and all its own columns."""
    names = list(var.index)
    ids = next((c for c in IDS if c in var and is_ensembl(list(var[c]))), None)
    symbols = next((c for c in SYMBOLS if c in var), None)
    if ids is not None and not is_ensembl(names):
        table = gene_table(var[ids].astype(str), names)
    else:
        table = gene_table(names, None if symbols is None else list(var[symbols].astype(str)))
    rest = var.drop(columns=[c for c in ("symbol",) if c in var and c in table])
    return pd.concat([table, rest.set_axis(table.index)], axis=1)


def _standard(obs: pd.DataFrame, uns: dict[str, str]) -> pd.DataFrame:
    """CELLxGENE's columns under their standard names as well."""
    if "donor_id" in obs and "donor" not in obs:
        obs["donor"] = obs["donor_id"]
    for key, value in uns.items():
        if key not in obs:
            obs[key] = value
    terms = {"organism": ORGANISMS, "disease": {NORMAL: "normal"}}
    for column, labels in terms.items():
        term = f"{column}_ontology_term_id"
        if column not in obs and term in obs and obs[term].isin(list(labels)).any():
            obs[column] = obs[term].map(labels)
    if "is_primary_data" in obs and obs["is_primary_data"].isin(["True", "False"]).all():
        obs["is_primary_data"] = obs["is_primary_data"] == "True"
    return obs
