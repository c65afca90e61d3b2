"""700 blood cells that come with scanpy."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData
from scipy import sparse

__all__ = ["pbmc68k"]


def pbmc68k() -> AnnData:
    r"""Raw counts of 700 peripheral blood cells; needs no network.

    scanpy's wheel carries this subset of the 68,000 PBMC of Zheng et al. 2017 as logarithms of
    depth-normalised values. Depths are kept beside them, so the counts can be computed back:
    :math:`x = (e^{raw} - 1)\, n_{counts} / 10^4`, integer to within 0.1.

    Returns
    -------
    AnnData of 700 cells by 765 genes: CSR float32 counts in ``X``; in ``obs`` the cell type
    ``cell_type`` (ten), ``phase`` (cell cycle) and ``n_counts``, the depth over all genes
    measured, of which these 765 are a part.

    Raises
    ------
    RuntimeError
        If scanpy's file no longer holds what the counts are computed from.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> adata.shape
    (700, 765)

    References
    ----------
    Zheng et al. 2017, doi:10.1038/ncomms14049.
    """
    import scanpy as sc

    with warnings.catch_warnings():  # the file is older than today's anndata
        warnings.simplefilter("ignore")
        source = sc.datasets.pbmc68k_reduced()
    depth = source.obs["n_counts"].to_numpy(dtype=np.float64)
    logs = source.raw.X
    logs = logs.toarray() if sparse.issparse(logs) else np.asarray(logs)
    estimate = np.expm1(logs.astype(np.float64)) * depth[:, None] / 1e4
    counts = np.rint(estimate)
    off = float(np.abs(estimate - counts).max())
    if off > 0.1:
        raise RuntimeError(
            f"scanpy's pbmc68k_reduced does not give integer counts back (off by {off:.2f}): "
            "its file has changed. Please report this."
        )
    obs = source.obs[["bulk_labels", "phase", "n_counts"]].rename(
        columns={"bulk_labels": "cell_type"}
    )
    var = source.raw.var.loc[:, []].copy()
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs.copy(), var=var)
    return adata
