"""Sums over cells, gene by gene, that add up across datasets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

__all__ = ["CP10K", "Statistics"]

CP10K = 1e4
SCALES = ("counts", "cp10k", "log")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over cells, a row a gene.

    They are taken in one pass and add up, so that the moments of an atlas of any size are known
    without reading a cell of it again. With ``c`` a count and ``L`` the sum of a cell's counts,

    Parameters
    ----------
    table
        ``n_cells``, in which the gene was measured; ``n_expressed``, in which it is above zero;
        sums ``counts`` of ``c``, ``cp10k`` of ``1e4 c / L``, ``log`` of ``ln(1 + 1e4 c / L)``; and
        sums of their squares, ``counts_squared``, ``cp10k_squared`` and ``log_squared``.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scipy import sparse
    >>> genes = pd.Index(["CD3D", "MS4A1"])
    >>> counts = sparse.csr_matrix([[1, 3], [0, 2]])
    >>> one = Statistics.zero(genes, measured=np.array([True, True])).add_cells(counts)
    >>> both = one + one
    >>> both.moments("counts")
           mean  variance
    CD3D    0.5  0.333333
    MS4A1   2.5  0.333333
    """

    table: pd.DataFrame

    @classmethod
    def zero(cls, genes: pd.Index, measured: np.ndarray | None = None) -> Statistics:
        """Of no cells; ``measured`` is kept for :meth:`add_cells`, and may be left out of sums."""
        columns = ["n_cells", "n_expressed", *SCALES, *(f"{s}_squared" for s in SCALES)]
        table = pd.DataFrame(0.0, index=genes, columns=columns)
        table = table.astype({"n_cells": np.int64, "n_expressed": np.int64})
        if measured is not None:
            table.insert(0, "measured", np.asarray(measured, bool))
        return cls(table)

    def add_cells(self, counts: sparse.csr_matrix) -> Statistics:
        """With a block of cells more, all genes of the axis a column; changes this one."""
        table, n_genes = self.table, len(self.table)
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        c = counts.data.astype(np.float64)
        library = np.bincount(rows, c, minlength=counts.shape[0])
        cp10k = CP10K * c / library[rows]
        for scale, values in zip(SCALES, (c, cp10k, np.log1p(cp10k)), strict=True):
            for name, v in ((scale, values), (f"{scale}_squared", values**2)):
                table[name] += np.bincount(counts.indices, v, minlength=n_genes)
        table["n_expressed"] += np.bincount(counts.indices, minlength=n_genes)
        table["n_cells"] += counts.shape[0] * table["measured"].to_numpy(np.int64)
        return self

    def __add__(self, other: Statistics) -> Statistics:
        if not self.table.index.equals(other.table.index):
            raise ValueError("statistics are of other genes, or of another order: use one axis.")
        both = [s.table.drop(columns="measured", errors="ignore") for s in (self, other)]
        return Statistics(both[0] + both[1])

    @classmethod
    def sum(cls, parts: Iterable[Statistics]) -> Statistics:
        """Of all datasets together."""
        total = None
        for part in parts:  # one at a time: a table has a row a gene
            total = cls.zero(part.table.index) + part if total is None else total + part
        if total is None:
            raise ValueError("there are no datasets to take statistics of: add one to the store.")
        return total

    def moments(self, scale: str = "log") -> pd.DataFrame:
        """Mean and unbiased variance, among the cells in which a gene was measured; else NaN.

        Parameters
        ----------
        scale
            ``"counts"``, ``"cp10k"`` (counts per 10,000) or ``"log"`` (``ln(1 + cp10k)``).

        Returns
        -------
        Columns ``mean`` and ``variance``, a row a gene.
        """
        if scale not in SCALES:
            raise ValueError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}.")
        n = self.table["n_cells"].where(self.table["n_cells"] > 0)
        mean = self.table[scale] / n
        spread = (self.table[f"{scale}_squared"] / n - mean**2).clip(lower=0)
        return pd.DataFrame({"mean": mean, "variance": spread * n / (n - 1).where(n > 1)})
