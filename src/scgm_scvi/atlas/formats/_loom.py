"""Loom files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from scgm_scvi.atlas.formats._reading import Reading

from ._blocks import rechunked
from ._columns import gene_table, plain
from ._errors import no_damage
from ._h5 import dense_slabs, open_h5, strings

__all__ = ["read_loom"]

# Names of attributes in the order they are looked for: those of the HCA's Optimus pipeline, those
# it had before its version 3 (which are loompy's), and those of others.
CELLS = ("cell_names", "CellID", "obs_names", "barcode", "barcodes")
IDS = ("ensembl_ids", "Accession", "gene_ids", "ensembl_id")
SYMBOLS = ("gene_names", "Gene", "var_names", "gene_name")


def read_loom(path: Path | str) -> Reading:
    """Genes and cells of a loom file.

    The main matrix is dense, genes x cells; cells are read some chunks at a time, at most 64 MB.
    ``layers`` are ignored. Cells without names are numbered, which the ``notes`` say.

    Raises
    ------
    ValueError
        The file is damaged, no loom file, or has no names of genes.
    """
    path = Path(path)
    with no_damage(path), open_h5(path) as f:
        n_genes, n_cells = f["matrix"].shape
        rows = _attributes(f["row_attrs"], n_genes, path)
        columns = _attributes(f["col_attrs"], n_cells, path)
    notes = []
    cells = next((c for c in CELLS if c in columns), None)
    if cells is None:
        notes.append("the file has no names of cells; they are numbered")
    ids = next((rows[c] for c in IDS if c in rows), None)
    symbols = next((rows[c] for c in SYMBOLS if c in rows), None)
    if ids is None and symbols is None:
        raise ValueError(
            f"{path}: no names of genes: row_attrs has none of {', '.join(IDS + SYMBOLS)}."
        )
    names = np.arange(n_cells).astype(str) if cells is None else columns.pop(cells).astype(str)
    obs = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    var = gene_table(*[list(c) for c in (ids, symbols) if c is not None])

    def blocks(size: int):
        return rechunked(dense_slabs(path, "matrix", cells_axis=1), size)

    return Reading(obs=plain(obs), var=var, blocks=blocks, notes=tuple(notes))


def _attributes(group: h5py.Group, n: int, path: Path) -> dict[str, np.ndarray]:
    """Attributes with one value each for ``n`` genes or cells."""
    found = {k: strings(v) for k, v in group.items() if isinstance(v, h5py.Dataset)}
    short = [k for k, v in found.items() if v.ndim and len(v) != n]
    if short:
        raise ValueError(
            f"{path}: {group.name}/{short[0]} has {len(found[short[0]])} values where the matrix "
            f"has {n}. The file is damaged."
        )
    return {k: v for k, v in found.items() if v.ndim == 1}
