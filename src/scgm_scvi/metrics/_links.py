"""Which intervals of the genome belong to which genes, by position."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed

__all__ = ["promoter_links"]

# chr1_100_200, chr1:100-200, chr1-100-200; names of unplaced contigs hold underscores themselves
_INTERVAL = r"^(?P<chrom>.+?)[:_-](?P<start>\d+)[_-](?P<end>\d+)$"
_COLUMNS = ["gene", "interval", "distance"]


def promoter_links(
    genes: Iterable[str],
    intervals: Iterable[str],
    positions: pd.DataFrame,
    *,
    upstream: int = 2000,
    downstream: int = 500,
    body: bool = False,
) -> pd.DataFrame:
    """Link genes to the intervals that overlap their promoter, or promoter and body.

    Parameters
    ----------
    genes
        Names of genes: ``rna.var_names``.
    intervals
        Names of intervals as ``chr2_148881654_148881927``, ``chr2:148881654-148881927`` or
        ``chr2-148881654-148881927``, in the assembly of ``positions``: ``atac.var_names``. Like
        ``positions`` they are read as counted from 0, the end excluded.
    positions
        Where genes lie, by name, as :func:`scgm_scvi.datasets.gene_positions` gives it: columns
        ``chrom``, ``start``, ``strand`` and, if the far end is known, ``end``. Without ``end`` a
        row is one start of transcription. A gene of several rows has the intervals of all of them.
    upstream, downstream
        The promoter reaches from so many bases before the start of transcription to so many after
        it, along the strand.
    body
        Take all of the gene, to its end, in place of ``downstream``. In sparse data this gives
        several times as many counts a gene.

    Returns
    -------
    DataFrame of one row a link, in the order of ``genes``: ``gene``, ``interval``, and
    ``distance`` in bases from the start of transcription to the middle of the interval, negative
    upstream; to the nearest one, of several. Genes without position or interval have no rows.

    Raises
    ------
    ValueError
        If a name is not that of an interval; if columns of ``positions`` are missing; if there is
        a strand other than ``"+"`` and ``"-"``; if no gene has a position, or chromosomes are
        named differently; if the promoter reaches a negative number of bases.

    Examples
    --------
    >>> import pandas as pd
    >>> from scgm_scvi.metrics import promoter_links
    >>> positions = pd.DataFrame(
    ...     {"chrom": "chr1", "start": [9000, 4000], "end": [9900, 5000], "strand": ["+", "-"]},
    ...     index=["A", "B"],
    ... )
    >>> promoter_links(["A", "B"], ["chr1:8000-8200", "chr1:5900-6100"], positions)
      gene        interval  distance
    0    A  chr1:8000-8200      -900
    1    B  chr1:5900-6100     -1001
    """
    genes = pd.Index(genes, name="gene")
    windows = _windows(genes, positions, upstream, downstream, body)
    found = _parse(pd.Index(intervals, name="interval"))
    if not windows["chrom"].isin(found["chrom"]).any():
        raise ValueError(
            f"positions name chromosomes {listed(windows['chrom'].unique(), 3)}, and intervals "
            f"{listed(found['chrom'].unique(), 3)}: rename one of them."
        )
    links = [
        _overlaps(window, found[found["chrom"] == chrom])
        for chrom, window in windows.groupby("chrom", sort=False)
    ]
    table = pd.concat(links, ignore_index=True)
    table["gene_order"] = genes.get_indexer(table["gene"])
    table["reach"] = table["distance"].abs()
    table = table.sort_values(["gene_order", "order", "reach"], kind="stable")
    table = table.drop_duplicates(["gene", "interval"])
    return table[_COLUMNS].reset_index(drop=True)


def _parse(names: pd.Index) -> pd.DataFrame:
    """Intervals by name, in their order."""
    if names.has_duplicates:
        twice = names[names.duplicated()].unique()
        raise ValueError(f"intervals hold {listed(twice, 3)} more than once.")
    parts = names.to_series().astype(str).str.extract(_INTERVAL)
    wrong = names[parts["start"].isna()]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(names)} names are not intervals of the genome, such as "
            f"{str(wrong[0])!r}. Name peaks chr1:100-200, chr1-100-200 or chr1_100_200 "
            "(atac.var_names = ...)."
        )
    parts = parts.astype({"start": np.int64, "end": np.int64})
    empty = names[parts["end"] <= parts["start"]]
    if len(empty):
        raise ValueError(f"interval {empty[0]!r} ends before it starts.")
    parts["order"] = np.arange(len(parts))
    return parts


def _windows(
    genes: pd.Index, positions: pd.DataFrame, upstream: int, downstream: int, body: bool
) -> pd.DataFrame:
    """Start of transcription and window of every position of the genes."""
    for name, reach in {"upstream": upstream, "downstream": downstream}.items():
        if reach < 0:
            raise ValueError(f"{name} is {reach}; it must be 0 or more.")
    needed = ["chrom", "start", "strand", *(["end"] if body else [])]
    missing = [c for c in needed if c not in positions]
    if missing:
        hint = " body=True needs the far end of each gene." if missing == ["end"] else ""
        raise ValueError(f"positions has no column {listed(missing)}.{hint}")
    if genes.has_duplicates:
        raise ValueError(f"genes hold {listed(genes[genes.duplicated()].unique(), 3)} twice.")
    known = positions[positions.index.isin(genes)]
    if known.empty:
        raise ValueError(
            f"None of the {len(genes)} genes ({listed(genes, 3)}) has a position (those are of "
            f"{listed(positions.index, 3)}): name both by symbols, or both by ids."
        )
    wrong = known.index[~known["strand"].isin(["+", "-"])]
    if len(wrong):
        strand = known.loc[wrong[:1], "strand"].iloc[0]
        raise ValueError(f"strand of {str(wrong[0])!r} is {str(strand)!r}; it must be '+' or '-'.")
    forward = (known["strand"] == "+").to_numpy()
    start = known["start"].to_numpy(dtype=np.int64)
    end = known["end"].to_numpy(dtype=np.int64) if "end" in known else start + 1
    tss = np.where(forward, start, end - 1)
    after = (
        np.where(forward, end - 1, start) if body else tss + np.where(forward, 1, -1) * downstream
    )
    before = tss - np.where(forward, 1, -1) * upstream
    return pd.DataFrame(
        {
            "gene": known.index.to_numpy(),
            "chrom": known["chrom"].astype(str).to_numpy(),
            "tss": tss,
            "forward": forward,
            "low": np.minimum(before, after),
            "high": np.maximum(before, after) + 1,
        }
    )


def _overlaps(windows: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Every pair of a window and an interval of one chromosome that overlap."""
    intervals = intervals.sort_values("start")
    start, end = intervals["start"].to_numpy(), intervals["end"].to_numpy()
    longest = int((end - start).max(initial=0))
    low, high = windows["low"].to_numpy(), windows["high"].to_numpy()
    # those that start in reach of a window: they overlap it unless they end before it
    first = np.searchsorted(start, low - longest)
    n = np.maximum(np.searchsorted(start, high) - first, 0)
    w = np.repeat(np.arange(len(windows)), n)
    i = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(first, n)
    overlap = end[i] > low[w]
    w, i = w[overlap], i[overlap]
    away = (start[i] + end[i]) // 2 - windows["tss"].to_numpy()[w]
    return pd.DataFrame(
        {
            "gene": windows["gene"].to_numpy()[w],
            "interval": intervals.index.to_numpy()[i],
            "distance": np.where(windows["forward"].to_numpy()[w], away, -away),
            "order": intervals["order"].to_numpy()[i],
        }
    )
