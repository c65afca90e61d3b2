"""10x Genomics' HDF5 matrices, and TISCH2's in the same layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from scgm_scvi._errors import listed
from scgm_scvi.atlas.formats._reading import Reading

from ._columns import GENE_TYPES, gene_table
from ._errors import no_damage
from ._h5 import compressed_blocks, indptr_of, open_h5, strings

__all__ = ["read_10x_h5"]


def read_10x_h5(path: Path | str, *, genome: str | None = None) -> Reading:
    """Genes and cells of a 10x Genomics HDF5 file, of Cell Ranger 2 or of 3 and later.

    The matrix is CSC of genes x cells, which is CSR of cells x genes: blocks are read as they are
    asked for. Features that are no genes (antibodies, guides, peaks) are left out, and named in
    the reading's ``notes``. TISCH2 calls genes ``"Gene"`` instead of ``"Gene Expression"``, has
    symbols for ids, and log values; all is read as it stands.

    Parameters
    ----------
    path
        The file.
    genome
        Which one, where a file of Cell Ranger 2 has several.

    Returns
    -------
    ``var`` by id with ``"symbol"`` where it differs, and ``"genome"`` where there are several.

    Raises
    ------
    ValueError
        The file is damaged, no 10x file, without genes, or of several genomes.
    """
    path = Path(path)
    with no_damage(path), open_h5(path) as f:
        group = _group(f, genome, path)
        features = group.get("features")
        if features is None:
            ids, symbols = strings(group["genes"]), strings(group["gene_names"])
            types = genomes = None
        else:
            ids, symbols = strings(features["id"]), strings(features["name"])
            types = strings(features["feature_type"]) if "feature_type" in features else None
            genomes = strings(features["genome"]) if "genome" in features else None
        barcodes = strings(group["barcodes"])
        shape = (len(barcodes), len(ids))
        if tuple(group["shape"][()][::-1]) != shape:
            raise ValueError(
                f"{path}: the matrix is {tuple(group['shape'][()])} (genes, cells), with "
                f"{len(ids)} features and {len(barcodes)} barcodes. The file is damaged."
            )
        indptr_of(group, shape[0], path)
        name = group.name

    var = gene_table(list(ids), list(symbols))
    if genomes is not None and len(set(genomes)) > 1:
        var["genome"] = genomes
    notes = []
    kept = np.arange(len(ids))
    if types is not None:
        kept = np.flatnonzero(np.isin(types, GENE_TYPES))
        if not len(kept):
            raise ValueError(
                f"{path}: none of its {len(ids)} features is a gene; their types are "
                f"{listed(dict.fromkeys(types))}."
            )
        others = Counter(str(t) for t in types if t not in GENE_TYPES)
        notes += [f"left out {n} features of type {t!r}" for t, n in others.items()]

    def blocks(size: int):
        for block in compressed_blocks(path, name, shape, size):
            yield block if len(kept) == shape[1] else block[:, kept]

    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    return Reading(obs=obs, var=var.iloc[kept], blocks=blocks, notes=tuple(notes))


def _group(f: h5py.File, genome: str | None, path: Path) -> h5py.Group:
    """Where the matrix is."""
    if isinstance(f.get("matrix"), h5py.Group):
        return f["matrix"]
    genomes = [k for k, v in f.items() if isinstance(v, h5py.Group) and "gene_names" in v]
    if not genomes:
        raise ValueError(f"{path}: no 10x matrix in it; it holds {listed(f)}.")
    if genome is None and len(genomes) > 1:
        raise ValueError(f"{path}: has the genomes {listed(genomes)}; say which (genome=...).")
    if genome is not None and genome not in genomes:
        raise ValueError(f"{path}: genome {genome!r} is not in it; it has {listed(genomes)}.")
    return f[genome or genomes[0]]
