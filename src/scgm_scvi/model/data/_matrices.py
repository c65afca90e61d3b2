"""Matrices of counts: which containers of them can be read, and how to know one again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["Matrix", "as_matrix", "fingerprint", "same_fingerprint", "stacked"]

Matrix = Any  # a numpy array, or a matrix of scipy in CSR or CSC

_N_ROWS = 256  # that a fingerprint looks at one by one


def as_matrix(x: Any, place: str) -> Matrix:
    """``x`` as a plain array, or as a matrix in CSR or CSC that shares its memory.

    Parameters
    ----------
    x
        What an AnnData holds in ``X`` or in a layer.
    place
        Where, for messages.

    Raises
    ------
    TypeError
        If it is in a container that can't be read.
    ValueError
        If it is not in memory.
    """
    if isinstance(x, np.ndarray):
        return np.asarray(x)  # that of a view is of a class that torch does not read
    if sparse.issparse(x):
        return sparse.csc_matrix(x) if x.format == "csc" else sparse.csr_matrix(x)
    kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}"
    if hasattr(x, "compute") or hasattr(x, "to_memory") or hasattr(x, "chunks"):
        raise ValueError(
            f"{place} is a {kind}, which is read piece by piece; it has to be in memory. Load it: "
            "adata = adata.to_memory()."
        )
    raise TypeError(
        f"{place} is a {kind}; a numpy array or a scipy sparse matrix is needed. Convert it."
    )


def fingerprint(x: Any) -> dict[str, float]:
    """What tells a matrix from one with other values, whatever container or dtype holds it.

    The sum of all values, and one of a few hundred rows, in which each value has a weight of its
    own: one pass over the values.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> same_fingerprint(fingerprint(x), fingerprint(sparse.csc_array(x)))
    True
    >>> same_fingerprint(fingerprint(x), fingerprint(x[:, ::-1]))
    False
    """
    x = as_matrix(x, "the matrix")
    values = x.data if sparse.issparse(x) else x
    rows = np.unique(np.linspace(0, x.shape[0] - 1, _N_ROWS).round().astype(int))
    rng = np.random.default_rng(0)
    left, right = rng.random(len(rows)), rng.random(x.shape[1])
    return {
        "sum": float(values.sum(dtype=np.float64)),
        "weighted": float(left @ (x[rows].astype(np.float64) @ right)),
    }


def same_fingerprint(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Whether two fingerprints are of the same values, up to rounding."""
    return all(math.isclose(a[k], b[k], rel_tol=1e-9, abs_tol=1e-12) for k in a)


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Cells of several parts as one matrix, sparse if they are."""
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)
