"""Blood cells of lupus patients, with and without interferon."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._pypi import read_from_sdist

__all__ = ["kang"]

_SHA256 = "4a7c66a34a0f712ef32556cd54f0b65d76ee0e573bf69b7405645312848552a9"


def kang() -> AnnData:
    """Raw counts of 14,039 blood cells of lupus patients, half of them with interferon-beta.

    The cells of eight patients, taken apart: one part was left as it was, the other was stimulated
    with interferon-beta for six hours. Every cell type answers, each a little differently.

    The data are carried by the PyPI package genevector 1.0.0 (MIT licence). The first call has pip
    download its source archive, 54 MB, checks it, and keeps it in ``~/.cache/scgm_scvi``; nothing
    is installed, and nothing of it is run. Without network, put ``genevector-1.0.0.tar.gz`` in a
    folder and name that in the environment variable ``SCGM_SCVI_DATA``.

    Returns
    -------
    AnnData of 14,039 cells by 1,000 variable genes: CSR float32 counts in ``X``; in ``obs``
    ``condition`` (``"control"``, ``"stimulated"``), ``cell_type`` (eight), and ``n_counts_full``
    and ``n_genes_full``, counts and detected genes over all genes measured, of which these 1,000
    are a part.

    Raises
    ------
    RuntimeError
        If the archive can't be downloaded, or is another one; the message says where to put it.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.kang()  # doctest: +SKIP
    >>> adata.obs["condition"].value_counts()  # doctest: +SKIP
    condition
    stimulated    7466
    control       6573

    References
    ----------
    Kang et al. 2018, doi:10.1038/nbt.4042; GEO series GSE96583. The package: Ceglia et al. 2023,
    doi:10.1038/s41467-023-39985-2.
    """
    content = read_from_sdist(
        "genevector", "1.0.0", "example/PBMC.h5ad", sha256=_SHA256, backend="maturin"
    )
    # AnnData's format of 2020, read by hand: today's anndata reads it with warnings, if at all
    with h5py.File(io.BytesIO(content)) as file:
        obs, var = file["obs"], file["var"]
        frame = pd.DataFrame(
            {
                "condition": _categories(obs, "sample").rename_categories({"stimul": "stimulated"}),
                "cell_type": _categories(obs, "celltype"),
                "n_counts_full": obs["n_counts"][:],
                "n_genes_full": obs["n_genes"][:],
            },
            index=obs["index"].asstr()[:],
        )
        genes = pd.DataFrame(index=var["index"].asstr()[:])
        return AnnData(sparse.csr_matrix(file["X"][:], dtype=np.float32), obs=frame, var=genes)


def _categories(obs: h5py.Group, key: str) -> pd.Categorical:
    names = obs["__categories"][key].asstr()[:]
    return pd.Categorical.from_codes(obs[key][:], categories=names)
