"""The space that open and closed features are compared in: latent semantic indexing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from ._space import Cells, labels_of, require_counts

__all__ = ["LatentSemanticSpace", "sparse_counts_of"]

_N_VARIABLE = 5000
_SCALE = 1e4


@dataclass(frozen=True, eq=False)
class LatentSemanticSpace:
    """TF-IDF and its singular vectors without the first, which is the cells' depth.

    Sparse to the end: only the components and the most variable features become dense.
    """

    features: list[str]
    variable: np.ndarray
    idf: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(
        cls,
        reference: tuple[str, AnnData],
        basis: tuple[str, AnnData],
        features: list[str],
        n_components: int,
    ) -> LatentSemanticSpace:
        """Fit the components on the reference, pick the features that vary most in the basis.

        Both are AnnData after the name that errors call them by.
        """
        counts = sparse_counts_of(reference[1], features, reference[0])
        # a feature that the reference lacks gets no weight in the components, whatever its idf
        total = np.maximum(np.asarray(counts.sum(axis=0)).ravel(), 1)
        idf = np.log1p(counts.shape[0] / total)
        # exact, and deterministic by the seed of its start
        svd = TruncatedSVD(
            min(n_components + 1, min(counts.shape) - 1), algorithm="arpack", random_state=0
        ).fit(_tf_idf(counts, idf))
        is_open = sparse_counts_of(basis[1], features, basis[0]) > 0
        share = is_open.getnnz(axis=0) / is_open.shape[0]
        most = np.argsort(-share * (1 - share), kind="stable")[:_N_VARIABLE]
        return cls(features, np.sort(most), idf, svd.components_[1:].T)

    def cells(self, adata: AnnData, key: str | None, name: str) -> Cells:
        """Cells of an AnnData of counts in this space."""
        counts = sparse_counts_of(adata, self.features, name)
        is_open = counts > 0
        return Cells(
            np.asarray(counts.sum(axis=1)).ravel(),
            is_open[:, self.variable].toarray().astype(np.float32),
            _tf_idf(counts, self.idf) @ self.components,
            labels_of(adata, key),
            is_open,
        )


def sparse_counts_of(adata: AnnData, features: list[str], name: str) -> sparse.csr_matrix:
    """``X`` of the features, in double precision, after a look whether it can be counts."""
    x = sparse.csr_matrix(adata[:, features].X, dtype=np.float64)
    require_counts(x.data, name)
    return x


def _tf_idf(counts: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """log1p of the share of a cell's counts, times the weight of the feature, times 10,000."""
    depth = np.asarray(counts.sum(axis=1)).ravel()
    x = sparse.diags_array(_SCALE / np.where(depth == 0, 1, depth)) @ counts
    return sparse.csr_matrix(x @ sparse.diags_array(idf)).log1p()
