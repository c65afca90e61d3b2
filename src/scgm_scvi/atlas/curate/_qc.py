"""Which cells are kept, and their counts as most programs look at them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ._genes import GeneAxis

__all__ = ["QC", "QCResult", "normalized_view"]


@dataclass(frozen=True, eq=False)
class QCResult:
    """Which cells of a block are kept, and why the others are not.

    Parameters
    ----------
    keep
        Per cell.
    reasons
        Cells by reason, and ``"cells"`` and ``"kept"``; a cell may have several reasons. Those of
        blocks add up to those of a dataset (as :class:`collections.Counter` adds them).
    library_size, n_genes, mitochondrial
        Per cell: counts, genes with any, and the mitochondrial part of the counts (0 for a cell
        without counts).
    """

    keep: np.ndarray
    reasons: dict[str, int]
    library_size: np.ndarray
    n_genes: np.ndarray
    mitochondrial: np.ndarray


@dataclass(frozen=True)
class QC:
    r"""Filters of cells.

    The defaults are lenient ones for whole cells from droplets. What a good cell is depends on
    tissue and protocol, and nuclei have next to no mitochondrial counts (0.05 and less is usual for
    them), so a dataset may have filters of its own. A filter that is None is not applied.

    Parameters
    ----------
    min_counts
        Fewer are empty droplets or debris.
    min_genes
        With any count; the same, and usual since the first tutorials of Seurat and scanpy.
    max_mitochondrial
        The part of the counts; above it, the membrane has broken and cytoplasm leaked out. Healthy
        human tissues stay below 0.1 in most cells, and heart, kidney and liver go beyond.
    max_counts, max_genes
        More may be several cells; better found with a method for doublets, so not applied by
        default.

    Examples
    --------
    >>> QC(max_mitochondrial=0.05).min_genes
    200

    References
    ----------
    Luecken and Theis, Current best practices in single-cell RNA-seq analysis: a tutorial,
    Molecular Systems Biology 15 (2019). Heumos et al., Best practices for single-cell analysis
    across modalities, Nature Reviews Genetics 24 (2023). Osorio and Cai, Systematic determination
    of the mitochondrial proportion in human and mice tissues for single-cell RNA-sequencing data
    quality control, Bioinformatics 37 (2021).
    """

    min_counts: int | None = 500
    min_genes: int | None = 200
    max_mitochondrial: float | None = 0.2
    max_counts: int | None = None
    max_genes: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and value >= 0):
                raise ValueError(
                    f"{name} is {value!r}; it must be a number of at least 0, or None."
                )
        if self.max_mitochondrial is not None and self.max_mitochondrial > 1:
            raise ValueError(
                f"max_mitochondrial is {self.max_mitochondrial}; it is a part of the counts, at most "
                "1: 20% is 0.2."
            )
        for least, most in (("min_counts", "max_counts"), ("min_genes", "max_genes")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"{least} is {low} and {most} is {high}: no cell would be left.")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def filter(self, counts: sparse.csr_matrix, axis: GeneAxis) -> QCResult:
        """Judge some cells, each by itself.

        Parameters
        ----------
        counts
            Cells x genes of the axis, CSR.
        axis
            Says which genes are mitochondrial. A dataset without any of them has no mitochondrial
            counts, and no cell of it fails for them.

        Raises
        ------
        ValueError
            If ``counts`` is not on the axis.

        Examples
        --------
        >>> axis = GeneAxis.load("human")
        >>> counts = sparse.csr_matrix((3, len(axis)), dtype="float32")
        >>> QC().filter(counts, axis).reasons["kept"]
        0
        """
        if counts.shape[1] != len(axis):
            raise ValueError(
                f"counts has {counts.shape[1]} genes and the axis has {len(axis)}: bring the counts "
                "onto it first (GeneMapping.apply)."
            )
        library = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        n_genes = counts.count_nonzero(axis=1)
        mt = counts @ axis.mitochondrial.astype(np.float64)
        mitochondrial = np.divide(mt, library, out=np.zeros(len(mt)), where=library > 0)
        checks = {
            "min_counts": (library, np.less),
            "min_genes": (n_genes, np.less),
            "max_mitochondrial": (mitochondrial, np.greater),
            "max_counts": (library, np.greater),
            "max_genes": (n_genes, np.greater),
        }
        # without a count there is nothing to normalise, whatever the filters
        keep, reasons = library > 0, {"cells": len(library), "empty": int((library == 0).sum())}
        for name, (value, worse) in checks.items():
            limit = getattr(self, name)
            if limit is not None:
                fails = worse(value, limit)
                reasons[name] = int(fails.sum())
                keep &= ~fails
        reasons["kept"] = int(keep.sum())
        return QCResult(keep, reasons, library, n_genes, mitochondrial)


def normalized_view(
    counts: sparse.csr_matrix, library_size: np.ndarray, target_sum: float = 1e4
) -> sparse.csr_matrix:
    r"""Natural logarithm of one plus counts per 10,000: :math:`\ln(1 + 10^4 c_g / L)`.

    As ``scanpy.pp.normalize_total`` and ``log1p`` make it, but of any genes and cells of the store:
    :math:`L` is the cell's library over all genes, which the store holds.

    Parameters
    ----------
    counts
        Cells x genes, CSR.
    library_size
        :math:`L` of each cell.
    target_sum
        In place of 10,000.

    Raises
    ------
    ValueError
        If a cell with counts has no library size above 0.

    Examples
    --------
    >>> counts = sparse.csr_matrix([[1.0, 3.0]])
    >>> normalized_view(counts, [4.0]).expm1().toarray().round()
    array([[2500., 7500.]], dtype=float32)
    """
    counts = sparse.csr_matrix(counts)
    library = np.asarray(library_size, dtype=np.float64)
    if library.shape != (counts.shape[0],):
        raise ValueError(
            f"library_size has shape {library.shape}; counts has {counts.shape[0]} cells."
        )
    length = np.diff(counts.indptr)
    bad = (length > 0) & ~(library > 0)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"library_size of cell {i} is {library[i]}; a cell with counts has a library above 0."
        )
    factor = np.divide(target_sum, library, out=np.zeros(len(library)), where=length > 0)
    data = np.log1p(counts.data * np.repeat(factor, length)).astype(np.float32)
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
