"""Counts of cells as real ones are, and what sources make of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

LOGS = {"identity": lambda y: y, "expm1": np.log1p, "exp2m1": lambda y: np.log2(1 + y)}
SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"


def real(*parts: str) -> Path:
    """A file of real data, or a skipped test."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def draw_counts(seed: int, n_cells: int = 40, n_genes: int = 300, depth: float = 1.0):
    """Negative binomial counts; each gene with its own mean, each cell with its own depth."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 1, n_genes) * depth * rng.lognormal(0, 0.4, (n_cells, 1))
    counts = rng.poisson(rng.gamma(2, mean / 2)).astype(np.float32)
    counts[:, 0] = 1  # so that no cell's counts have a divisor in common
    return sparse.csr_matrix(counts)


def normalised(counts, target=1e4, transform="expm1", decimals=None):
    """What a pipeline in single precision makes of counts, and a writer of a text file of that."""
    x = counts.astype(np.float32).tocsr(copy=True)
    library = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    x.data *= np.repeat(np.float32(target) / library, np.diff(x.indptr)).astype(np.float32)
    x.data = LOGS[transform](x.data).astype(np.float32)
    if decimals is not None:
        x.data = np.round(x.data.astype(float), decimals).astype(np.float32)
        x.eliminate_zeros()
    return x
