"""Whether expression goes with the accessibility that is linked to it, in the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import listed

from ._linked_cells import LINKAGE_METRICS, LinkedCells
from ._space import halves, subsample

if TYPE_CHECKING:
    from mudata import MuData

__all__ = ["evaluate_linkage", "linked_correlation"]

_DRAWS = 10  # of cells, halves and pairings
_KINDS = ["generated", "real", "floor", "shuffled"]


def linked_correlation(
    cells: MuData | Mapping[str, AnnData],
    links: pd.DataFrame,
    *,
    rna_key: str = "rna",
    atac_key: str = "atac",
) -> pd.DataFrame:
    """Correlation over cells of each gene's expression with its linked accessibility.

    For a gene, expression is log1p of its counts per 10,000; accessibility is log1p of the summed
    counts of its linked intervals per 10,000 of the cell. Cells without any count in one of the
    two were not measured in it, and are left out.

    In single cells this correlation is small, because most of what varies is the noise of few
    counts; its mean over genes is not. :func:`evaluate_linkage` compares that.

    Parameters
    ----------
    cells
        Raw counts in ``X`` of two modalities of the same cells: a MuData, or a dict of AnnData.
    links
        Columns ``gene`` and ``interval``, as :func:`promoter_links` gives them. Those of features
        that the cells lack are passed over.
    rna_key, atac_key
        Names of the modalities.

    Returns
    -------
    DataFrame by gene, of those that have links, in the order of the modality: ``correlation``
    (Pearson; NaN where one of the two is constant), ``n_links``, and the shares of cells with a
    count of the gene, ``expressed``, and of its intervals, ``accessible``.

    Raises
    ------
    KeyError
        If a modality, or a column of ``links``, is missing.
    ValueError
        If the modalities hold different cells or no counts, or fewer than ten cells have both; if
        the features of no link are among theirs.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> from scgm_scvi.metrics import linked_correlation
    >>> counts = np.random.default_rng(0).poisson(4, (50, 3)).astype("float32")
    >>> atac = AnnData(counts, var=pd.DataFrame(index=["p1", "p2", "p3"]))
    >>> rna = AnnData(2 * counts, var=pd.DataFrame(index=["A", "B", "C"]))
    >>> links = pd.DataFrame({"gene": ["A", "B"], "interval": ["p1", "p3"]})
    >>> linked_correlation({"rna": rna, "atac": atac}, links)["correlation"].round(1).tolist()
    [1.0, -0.2]
    """
    return LinkedCells.of(cells, links, rna_key, atac_key, "cells").by_gene()


def evaluate_linkage(
    generated: MuData | Mapping[str, AnnData],
    real: MuData | Mapping[str, AnnData],
    links: pd.DataFrame,
    *,
    group_key: str | None = None,
    min_share: float = 0.05,
    rna_key: str = "rna",
    atac_key: str = "atac",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare how expression goes with linked accessibility in generated and in real cells.

    The numbers are

    - ``mean_correlation``: that of :func:`linked_correlation`, averaged over genes. In sparse data
      it is near 0 in real cells too, so that agreement says little: compare it with ``shuffled``.
    - ``group_correlation``, with ``group_key``: of pseudobulks. For each gene and group, log1p of
      counts per 10,000 of the group's expression and accessibility, less their means over groups;
      correlated over all genes and groups. Little of it is noise of single cells.

    Both depend on how deep cells are sequenced, and the second on how many cells a group has: of
    each group as many cells are taken on both sides as both have. All numbers are means over ten
    random draws.

    Parameters
    ----------
    generated, real
        Raw counts in ``X`` of two modalities of the same cells: a MuData, or a dict of AnnData.
    links
        Columns ``gene`` and ``interval``, as :func:`promoter_links` gives them.
    group_key
        Column of ``obs`` of the RNA modality, or of the MuData, with cell types or lines.
    min_share
        Genes are taken that are expressed, and accessible, in at least this share of the real
        cells.
    rna_key, atac_key
        Names of the modalities.
    seed
        Of draws, halves and pairings.

    Returns
    -------
    DataFrame of one row a metric: ``generated``, ``real``, their absolute ``difference``;
    ``floor``, the absolute difference of two random halves of the real cells; ``shuffled``, the
    number of real cells whose two modalities were paired at random, which is what cells score
    whose halves know nothing of each other; ``n_genes``; and ``n_cells`` on each side.

    Raises
    ------
    KeyError
        If a modality, a column of ``links`` or ``group_key`` is missing.
    ValueError
        As :func:`linked_correlation`; if fewer than two genes pass ``min_share`` or generated
        cells lack them; if groups of the two differ, or there is only one.

    Examples
    --------
    >>> import scgm_scvi
    >>> mdata = scgm_scvi.datasets.snareseq()  # doctest: +SKIP
    >>> links = scgm_scvi.metrics.promoter_links(  # doctest: +SKIP
    ...     mdata["rna"].var_names,
    ...     mdata["atac"].var_names,
    ...     scgm_scvi.datasets.gene_positions(),
    ...     body=True,
    ... )
    >>> scgm_scvi.metrics.evaluate_linkage(  # doctest: +SKIP
    ...     model.generate(conditions=mdata.obs[["cell_type"]]), mdata, links, group_key="cell_type"
    ... )
    """
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share is {min_share}; it must be between 0 and 1.")
    truth = LinkedCells.of(real, links, rna_key, atac_key, "real", group_key)
    table = truth.by_gene()
    genes = table.index[(table[["expressed", "accessible"]] >= min_share).all(axis=1)]
    if len(genes) < 2:
        raise ValueError(
            f"{len(genes)} of {len(table)} linked genes are expressed and accessible in at least "
            f"{min_share:.0%} of the real cells: lower min_share."
        )
    other = LinkedCells.of(generated, links, rna_key, atac_key, "generated", group_key)
    n_links = pd.Series(other.n_links, other.genes).reindex(genes)
    differ = genes[(n_links != table["n_links"][genes]).to_numpy()]
    if len(differ):
        raise ValueError(
            f"real and generated cells hold different intervals, or none, linked to "
            f"{listed(differ, 3)}: compare cells of the same features."
        )
    if group_key is not None:
        _require_same_groups(truth, other, group_key)
    truth, other = truth.take(genes), other.take(genes)
    rng = np.random.default_rng(seed)
    found = [_draw(truth, other, rng) for _ in range(_DRAWS)]
    mean = pd.DataFrame(found).mean()
    out = pd.DataFrame(
        [[mean[kind, metric] for kind in _KINDS] for metric in LINKAGE_METRICS], columns=_KINDS
    )
    out.insert(0, "metric", LINKAGE_METRICS)
    out.insert(3, "difference", (out["generated"] - out["real"]).abs())
    out["n_genes"] = len(genes)
    out["n_cells"] = sum(_sizes(truth, other).values())
    return out if group_key is not None else out[:1]


def _sizes(real: LinkedCells, generated: LinkedCells) -> dict[str, int]:
    """Cells a side that both have, by group."""
    counts = [pd.Series(cells.group).value_counts() for cells in (real, generated)]
    return {g: min(counts[0][g], counts[1][g]) for g in np.intersect1d(*(c.index for c in counts))}


def _draw(
    real: LinkedCells, generated: LinkedCells, rng: np.random.Generator
) -> dict[tuple[str, str], float]:
    """All numbers of as many cells of each group on both sides."""
    sizes = _sizes(real, generated)
    sides = []
    for cells in (generated, real):
        rows = [subsample(np.flatnonzero(cells.group == g), n, rng) for g, n in sizes.items()]
        sides.append(cells[np.sort(np.concatenate(rows))])
    half = halves(sides[1].group, rng)
    one, two = (sides[1][np.flatnonzero(half == h)].summary() for h in (0, 1))
    summaries = {
        "generated": sides[0].summary(),
        "real": sides[1].summary(),
        "floor": {m: abs(one[m] - two[m]) for m in LINKAGE_METRICS},
        "shuffled": sides[1].shuffled(rng).summary(),
    }
    return {(kind, metric): s[metric] for kind, s in summaries.items() for metric in s}


def _require_same_groups(real: LinkedCells, generated: LinkedCells, key: str) -> None:
    groups = [np.unique(linked.group[linked.group != ""]) for linked in (real, generated)]
    if len(groups[0]) < 2:
        raise ValueError(f"group_key: {key!r} holds {listed(groups[0])} alone; two are needed.")
    if not np.array_equal(*groups):
        raise ValueError(
            f"group_key: {key!r} holds {listed(groups[0])} in real cells and {listed(groups[1])} "
            "in generated ones: compare cells of the same groups."
        )
