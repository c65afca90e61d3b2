"""What is said of values that are no counts fits what they seem to be."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi import SCGM


def counts(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.negative_binomial(1, 0.05, (30, 20)).astype(np.float32) + 1


def refused(x) -> str:
    with pytest.raises(ValueError, match="not integers") as e:
        SCGM.setup_anndata(AnnData(x))
    return str(e.value)


@pytest.mark.parametrize("to", [np.asarray, sparse.csr_matrix])
def test_corrected_counts_are_to_be_rounded(to):
    few = counts()
    few[:3] *= 0.93  # of some cells
    for x in (few, counts() * np.float32(0.93), few.clip(max=12)):
        said = refused(to(x))
        assert "Round them: adata.X = np.rint(adata.X)" in said
        assert "log" not in said
    adata = AnnData(to(few))
    adata.X = np.rint(adata.X)  # as it says
    SCGM.setup_anndata(adata)


def test_logarithms():
    said = refused(np.log1p(counts() * 7.3))
    assert "log-normalised" in said
    assert "Round" not in said


def test_a_value_is_told_from_the_integer_beside_it():
    x = counts()
    x[0, 0] = np.nextafter(np.float32(6), np.float32(0))
    assert "(5.9999995 is one)" in refused(x)
