"""Expression of genes and accessibility of what is linked to them, in the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi._errors import listed

from ._space import LEAST_CELLS, pearson, require_key

if TYPE_CHECKING:
    from mudata import MuData

__all__ = ["LINKAGE_METRICS", "LinkedCells"]

LINKAGE_METRICS = ("mean_correlation", "group_correlation")


@dataclass(frozen=True, eq=False)
class LinkedCells:
    """Counts of linked genes, and of the intervals linked to each, in the same cells.

    ``depth`` is that of a cell in each modality; ``group`` is empty where there is none.
    """

    genes: pd.Index
    n_links: np.ndarray
    expression: sparse.csr_matrix
    accessibility: sparse.csr_matrix
    depth: tuple[np.ndarray, np.ndarray]
    group: np.ndarray

    @classmethod
    def of(
        cls,
        cells: MuData | Mapping[str, AnnData],
        links: pd.DataFrame,
        rna_key: str,
        atac_key: str,
        name: str,
        group_key: str | None = None,
    ) -> LinkedCells:
        rna, atac = (_modality(cells, key, name) for key in (rna_key, atac_key))
        if not rna.obs_names.equals(atac.obs_names):
            raise ValueError(
                f"{name}[{rna_key!r}] and {name}[{atac_key!r}] hold different cells, or in "
                "different order: keep the cells of both (mudata.pp.intersect_obs)."
            )
        counts = [_counts(a, f"{name}[{k!r}]") for a, k in ((rna, rna_key), (atac, atac_key))]
        depth = [np.asarray(c.sum(axis=1), dtype=np.float64).ravel() for c in counts]
        rows = np.flatnonzero((depth[0] > 0) & (depth[1] > 0))
        if len(rows) < LEAST_CELLS:
            raise ValueError(
                f"{len(rows)} of {rna.n_obs} cells have counts in both {rna_key!r} and "
                f"{atac_key!r} ({name}): at least {LEAST_CELLS} are needed."
            )
        group = np.array([""] * rna.n_obs, dtype=object)
        if group_key is not None:
            holder = cells if group_key in getattr(cells, "obs", ()) else rna
            require_key({f"{name}[{rna_key!r}]": holder}, group_key, "group_key")
            values = holder.obs[group_key]
            group = np.array(
                [str(v) if ok else "" for v, ok in zip(values, values.notna(), strict=True)],
                dtype=object,
            )
        matrix = _matrix(links, rna.var_names, atac.var_names, name)
        n_links = np.diff(matrix.indptr)
        linked = np.flatnonzero(n_links)
        return cls(
            rna.var_names[linked],
            n_links[linked],
            counts[0][rows][:, linked].tocsr(),
            (counts[1][rows] @ matrix[linked].T).tocsr(),
            (depth[0][rows], depth[1][rows]),
            group[rows],
        )

    def __getitem__(self, rows: np.ndarray) -> LinkedCells:
        return LinkedCells(
            self.genes,
            self.n_links,
            self.expression[rows],
            self.accessibility[rows],
            (self.depth[0][rows], self.depth[1][rows]),
            self.group[rows],
        )

    def take(self, genes: pd.Index) -> LinkedCells:
        columns = self.genes.get_indexer(genes)
        return LinkedCells(
            genes,
            self.n_links[columns],
            self.expression[:, columns],
            self.accessibility[:, columns],
            self.depth,
            self.group,
        )

    def shuffled(self, rng: np.random.Generator) -> LinkedCells:
        """The same, with the chromatin of another cell."""
        rows = rng.permutation(len(self.group))
        depth = (self.depth[0], self.depth[1][rows])
        accessibility = self.accessibility[rows]
        return LinkedCells(
            self.genes, self.n_links, self.expression, accessibility, depth, self.group
        )

    def correlation(self) -> np.ndarray:
        """Of each gene, over cells; all sums are over what is not zero."""
        x, y = (_log(c, d) for c, d in zip(self._counts, self.depth, strict=True))
        mean = [np.asarray(z.mean(axis=0)).ravel() for z in (x, y)]
        variance = [
            np.asarray(z.multiply(z).mean(axis=0)).ravel() - m**2
            for z, m in zip((x, y), mean, strict=True)
        ]
        covariance = np.asarray(x.multiply(y).mean(axis=0)).ravel() - mean[0] * mean[1]
        constant = np.minimum(*variance) < 1e-12
        scale = np.sqrt(np.where(constant, 1, variance[0] * variance[1]))
        return np.where(constant, np.nan, covariance / scale)

    @property
    def _counts(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        return self.expression, self.accessibility

    def by_gene(self) -> pd.DataFrame:
        n = len(self.group)
        shares = [c.getnnz(axis=0) / n for c in self._counts]
        return pd.DataFrame(
            {
                "correlation": self.correlation(),
                "n_links": self.n_links,
                "expressed": shares[0],
                "accessible": shares[1],
            },
            index=pd.Index(self.genes, name="gene"),
        )

    def summary(self) -> dict[str, float]:
        # a gene that is constant goes with nothing
        mean = float(np.nan_to_num(self.correlation()).mean())
        return dict(zip(LINKAGE_METRICS, (mean, self._group_correlation()), strict=True))

    def _group_correlation(self) -> float:
        cells = np.flatnonzero(self.group != "")
        if not len(cells):
            return float("nan")
        codes, _ = pd.factorize(self.group[cells])
        member = sparse.csr_matrix(
            (np.ones(len(cells)), (codes, cells)), (codes.max() + 1, len(self.group))
        )
        bulks = []
        for counts, depth in zip(self._counts, self.depth, strict=True):
            total = (member @ counts).toarray()
            bulk = np.log1p(total / (member @ depth)[:, None] * 1e4)
            bulks.append((bulk - bulk.mean(axis=0)).ravel())
        return pearson(*bulks)


def _modality(cells: MuData | Mapping[str, AnnData], key: str, name: str) -> AnnData:
    known = getattr(cells, "mod", cells)
    if key not in known:
        raise KeyError(f"{name} has no modality {key!r}: it has {listed(known)}.")
    return known[key]


def _counts(adata: AnnData, name: str) -> sparse.csr_matrix:
    """``X``, sparse and in double precision, after a look whether it can be counts."""
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{name}.var_names holds {listed(twice, 3)} more than once: make the names unique "
            "(adata.var_names_make_unique())."
        )
    counts = sparse.csr_matrix(adata.X, dtype=np.float64, copy=True)
    counts.eliminate_zeros()
    if not np.isfinite(counts.data).all() or counts.data.min(initial=0) < 0:
        raise ValueError(
            f"{name}.X holds negative, infinite or NaN values; it must hold counts: put them in X "
            "(adata.X = adata.layers[...]), or leave those cells out."
        )
    return counts


def _matrix(
    links: pd.DataFrame, genes: pd.Index, intervals: pd.Index, name: str
) -> sparse.csr_matrix:
    """Genes by intervals, 1 where there is a link."""
    for column in ("gene", "interval"):
        if column not in links:
            raise KeyError(f"links has no column {column!r}: promoter_links makes such a table.")
    rows, columns = genes.get_indexer(links["gene"]), intervals.get_indexer(links["interval"])
    known = (rows >= 0) & (columns >= 0)
    if not known.any():
        raise ValueError(
            f"No link is of a gene and an interval of {name}: they are of "
            f"{listed(links['gene'], 2)} and {listed(links['interval'], 2)}, and those of {name} "
            f"are {listed(genes, 2)} and {listed(intervals, 2)}."
        )
    ones = np.ones(known.sum())
    shape = (len(genes), len(intervals))
    matrix = sparse.csr_matrix((ones, (rows[known], columns[known])), shape=shape)
    matrix.data[:] = 1  # a link that is listed twice is one
    return matrix


def _log(counts: sparse.csr_matrix, depth: np.ndarray) -> sparse.csr_matrix:
    return (sparse.diags(1e4 / depth) @ counts).tocsr().log1p()
