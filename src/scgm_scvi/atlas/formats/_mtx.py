"""Matrix Market files with their tables of features and barcodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from scgm_scvi.atlas.formats._reading import Reading

from ._blocks import EntrySpool
from ._columns import GENE_TYPES, gene_table, split_keys
from ._errors import UnsupportedFormat, no_damage
from ._text import open_text, read_lines

__all__ = ["read_mtx"]

# by these a third column of a feature table is known as one of types
FEATURE_TYPES = {
    *GENE_TYPES,
    "Antibody Capture",
    "Antigen Capture",
    "CRISPR Guide Capture",
    "Custom",
    "Multiplexing Capture",
    "Peaks",
}
LINES = 1 << 21  # read at once
HEADER = re.compile(
    r"(?:genes?|features?|ensembl|barcodes?|cells?)[\w. ]*|ids?|symbols?|names?|index|x|v1|", re.I
)


def read_mtx(
    matrix: Path | str,
    features: Path | str,
    barcodes: Path | str,
    *,
    transposed: bool | None = None,
    more_cells: bool = False,
) -> Reading:
    """Genes and cells of a Matrix Market file, gzipped or not.

    Entries are sorted by cells: up to 8 million in memory (100 MB), more than these in temporary
    files. Features that are no genes are left out, and named in the reading's ``notes``.

    Parameters
    ----------
    matrix
        Genes x cells, as 10x Genomics writes it, or cells x genes.
    features
        A line a gene: id, symbol and type by tabs, as in ``features.tsv``; without the type, as in
        ``genes.tsv``; or one column of ids, of symbols, or of ``id|symbol``. A header is known by
        the one line that is too many, and by what it says.
    barcodes
        A line a cell, its name in the first column.
    transposed
        Whether the matrix is cells x genes. By default the lengths tell; a square one is not.
    more_cells
        Take a matrix with more cells than barcodes, and drop those without a barcode, which are
        the last ones.

    Returns
    -------
    ``var`` by id, with ``"symbol"`` where ids and symbols differ.

    Raises
    ------
    ValueError
        A file is damaged, or the lengths do not fit each other.
    UnsupportedFormat
        A Matrix Market file of another kind than a general one of coordinates.
    """
    matrix, features, barcodes = Path(matrix), Path(features), Path(barcodes)
    with no_damage(features):
        genes = [[v.strip('"') for v in line.split("\t")] for line in read_lines(features)]
    with no_damage(barcodes):
        cells = [line.split("\t")[0].strip('"') for line in read_lines(barcodes)]
    with no_damage(matrix), open_text(matrix) as f:
        is_pattern, shape, n_entries = _header(f, matrix)
        if transposed is None:
            straight, across = (_fit(shape[::s], genes, cells, more_cells) for s in (1, -1))
            transposed = across and not straight
        if transposed:
            shape = shape[::-1]
        if not _fit(shape, genes, cells, more_cells):
            raise ValueError(
                f"{matrix} is {shape[0]} x {shape[1]} (genes x cells), but {features.name} has "
                f"{len(genes)} lines and {barcodes.name} {len(cells)}: these files do not belong "
                "together, or one of them is cut."
            )
        genes, cells = genes[len(genes) - shape[0] :], cells[max(len(cells) - shape[1], 0) :]
        var, kept, notes = _genes(genes)
        if len(cells) < shape[1]:
            notes.append(f"left out {shape[1] - len(cells)} cells without a barcode")
        spool = _spooled(f, matrix, is_pattern, shape, n_entries, transposed, len(cells), kept)
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    blocks = lambda size: spool.blocks(size, n_genes=len(var))
    return Reading(obs=obs, var=var, blocks=blocks, notes=tuple(notes))


def _fit(shape: tuple[int, ...], genes: list, cells: list, more_cells: bool) -> bool:
    """Whether the tables have a line for each gene and cell, or one more, which is a header."""
    more_genes, fewer_cells = len(genes) - shape[0], shape[1] - len(cells)
    fit_genes = more_genes == 0 or (more_genes == 1 and bool(HEADER.fullmatch(genes[0][0])))
    is_header = fewer_cells == -1 and bool(HEADER.fullmatch(cells[0]))
    return fit_genes and (fewer_cells == 0 or is_header or (more_cells and fewer_cells > 0))


def _header(f: BinaryIO, path: Path) -> tuple[bool, tuple[int, int], int]:
    """Whether values are left out, the shape, the number of entries; ``f`` stands behind it."""
    banner = f.readline().decode("ascii", "replace").lower().split()
    if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[4:] != ["general"]:
        raise UnsupportedFormat(
            f"{path}: begins with {' '.join(banner)[:80]!r}; general coordinate matrices of Matrix "
            "Market are read."
        )
    line = f.readline()
    while line.startswith(b"%") or line.isspace():
        line = f.readline()
    try:
        n_rows, n_columns, n_entries = (int(n) for n in line.split())
    except ValueError:
        raise ValueError(f"{path}: {line[:80]!r} should be three numbers, its size.") from None
    return banner[3] == "pattern", (n_rows, n_columns), n_entries


def _genes(lines: list[list[str]]) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The genes, the new place of each feature (-1: left out), and what to say of it."""
    columns = list(zip(*lines, strict=False))
    place = np.arange(len(lines))
    if len(columns) < 2:
        return split_keys(columns[0] if columns else []), place, []
    types = np.array(columns[2] if len(columns) > 2 else [], dtype=object)
    var = gene_table(columns[0], columns[1])
    if not FEATURE_TYPES & set(types):
        return var, place, []
    is_gene = np.isin(types, GENE_TYPES)
    place = np.where(is_gene, np.cumsum(is_gene) - 1, -1)
    names, numbers = np.unique(types[~is_gene].astype(str), return_counts=True)
    counts = zip(names.tolist(), numbers, strict=True)
    notes = [f"left out {n} features of type {t!r}" for t, n in counts]
    return var[is_gene], place, notes


def _spooled(
    f: BinaryIO,
    path: Path,
    is_pattern: bool,
    shape: tuple[int, int],
    n_entries: int,
    transposed: bool,
    n_cells: int,
    place: np.ndarray,
) -> EntrySpool:
    """The entries, sorted by cells."""
    names = ["cell", "gene"] if transposed else ["gene", "cell"]
    types = {"cell": np.int64, "gene": np.int64}
    if not is_pattern:
        names, types = [*names, "value"], {**types, "value": np.float64}
    spool, n = EntrySpool(n_cells), 0
    try:
        chunks = pd.read_csv(
            f, sep=r"\s+", header=None, names=names, dtype=types, chunksize=LINES, engine="c"
        )
        for chunk in chunks:
            cell, gene = chunk["cell"].to_numpy() - 1, chunk["gene"].to_numpy() - 1
            n += len(chunk)
            inside = (cell >= 0) & (cell < shape[1]) & (gene >= 0) & (gene < shape[0])
            if not inside.all():
                first = int(np.argmin(inside))
                raise ValueError(
                    f"entry {n - len(chunk) + first + 1} is at gene {gene[first] + 1}, cell "
                    f"{cell[first] + 1}, outside of {shape[0]} x {shape[1]}"
                )
            value = np.ones(len(chunk)) if is_pattern else chunk["value"].to_numpy()
            if not np.isfinite(value).all():
                first = n - len(chunk) + int(np.argmin(np.isfinite(value))) + 1
                raise ValueError(f"the value of entry {first} is missing or not finite")
            kept = (cell < n_cells) & (place[gene] >= 0)
            spool.add(cell[kept], place[gene[kept]], value[kept])
    except pd.errors.EmptyDataError:
        pass
    except ValueError as e:  # pandas' parser errors are such as well
        raise ValueError(f"{path}: {str(e).strip()}. The file is damaged; fetch it again.") from e
    if n != n_entries:
        raise ValueError(
            f"{path}: says it has {n_entries} entries, and has {n}; it is cut: fetch it again."
        )
    return spool
