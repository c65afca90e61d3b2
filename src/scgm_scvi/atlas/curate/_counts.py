"""Counts out of the values that were made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ._multiples import Multiples, multiples, rows_of
from ._values import ABSOLUTE, FEWEST_GENES, LARGEST_LOG, RELATIVE, SCALES, TARGETS, Scale, bounds

__all__ = ["Counts", "to_counts"]

_PIECE = 1_000_000  # values at a time


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of some cells.

    Parameters
    ----------
    counts
        CSR float32, cells x genes. Rows without exact counts are empty.
    exact
        Per cell: the counts are sure.
    library_size
        Counts that the cell had when it was normalised, over all genes that were there then, in
        double precision; the sum of the row where it was not normalised, NaN where unknown.
    """

    counts: sparse.csr_matrix
    exact: np.ndarray
    library_size: np.ndarray


def to_counts(x: sparse.csr_matrix, scale: Scale) -> Counts:
    r"""Counts of which the values were made.

    Values are :math:`\log(1 + T c_g / L)` with a target :math:`T` and the cell's own library size
    :math:`L`; without the logarithm they are multiples of :math:`u = T / L`. A cell counts as exact
    if, given how the values were rounded, each is one multiple of :math:`u` only, and :math:`L` may
    be a whole number. Two things can't be known. One is a divisor that all counts of a cell have in
    common, since :math:`c` and :math:`L` times two give the same values: numbers without one are
    given, and cells with fewer than 20 genes refused, whose counts may well have one. The other is
    large counts, where values are coarse: with two decimals, 150 and 151 have one logarithm. A cell
    that is not exact is empty here; nothing is ever rounded to a count that might be another.

    Parameters
    ----------
    x
        Cells x genes, CSR; values of :func:`detect_scale`'s scale.
    scale
        Of the whole dataset.

    Raises
    ------
    ValueError
        If the scale has no counts.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> counts = np.random.default_rng(0).poisson(1.0, (50, 200))
    >>> normalised = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    >>> x = sparse.csr_matrix(normalised.astype("float32"))
    >>> found = to_counts(x, Scale("ln_cp10k", "expm1", 1e4, True, True))
    >>> bool(found.exact.all() and (found.counts.toarray() == counts).all())
    True
    """
    if not scale.counts_available:
        raise ValueError(
            f"The values are {SCALES[scale.name]} ({scale.name}), which counts can't be had from: "
            f"{scale.reason}. Leave the dataset out, or take its counts from another source."
        )
    # cells are independent, and a piece of them at a time takes little memory
    cuts = np.searchsorted(x.indptr, np.arange(_PIECE, x.nnz, _PIECE))
    edges = np.unique([0, *cuts, x.shape[0]])
    pieces = [_of_piece(x[a:b], scale) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    return Counts(
        sparse.vstack([p.counts for p in pieces] or [x.astype(np.float32)], format="csr"),
        np.concatenate([p.exact for p in pieces] or [np.zeros(0, bool)]),
        np.concatenate([p.library_size for p in pieces] or [np.zeros(0)]),
    )


def _of_piece(x: sparse.csr_matrix, scale: Scale) -> Counts:
    x = sparse.csr_matrix(x, copy=True)
    x.eliminate_zeros()
    fixed = scale.name.endswith("counts")
    most = np.inf if scale.transform == "identity" else LARGEST_LOG
    good, rows = (x.data > 0) & (x.data < most), rows_of(x.indptr)
    exact = np.bincount(rows[~good], minlength=x.shape[0]) == 0
    library = np.full(x.shape[0], np.nan)
    length = np.diff(x.indptr)
    library[length == 0] = 0
    full = np.flatnonzero(exact & (length > 0))
    data = np.zeros(x.nnz, np.float32)
    if scale.name == "counts":
        data = np.rint(x.data).astype(np.float32)
        whole = good & (np.abs(x.data - data) <= x.data * RELATIVE + ABSOLUTE)
        exact = np.bincount(rows[~whole], minlength=x.shape[0]) == 0
        data[~exact[rows]] = 0
    elif len(full):
        indptr = np.concatenate([[0], np.cumsum(length[full])])
        mine = exact[rows]
        low, high = bounds(x.data[mine].astype(np.float64), scale.transform, scale.decimals)
        found = multiples(low, high, indptr, 1.0 if fixed else None)
        exact[full] = found.unique
        if not fixed:
            exact[full] &= _sure(found, scale, length[full])
            unit = (found.unit_low + found.unit_high) / 2
            library[full] = np.rint((scale.target_sum or np.nan) / unit)
        data[mine] = found.number * exact[rows[mine]]
    counts = sparse.csr_matrix((data, x.indices, x.indptr), shape=x.shape)
    counts.eliminate_zeros()
    if fixed:
        library = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    library[~exact] = np.nan
    return Counts(counts, exact, library)


def _sure(found: Multiples, scale: Scale, n_genes: np.ndarray) -> np.ndarray:
    """Whether the unit of each row is the one that the counts had."""
    # where one count would have been rounded to zero, some may be missing
    _, lost = bounds(np.zeros(1), scale.transform, scale.decimals)
    sure = (n_genes >= FEWEST_GENES) & (found.unit_low > lost[0])
    if scale.target_sum in TARGETS:  # a library of counts is a whole number
        low, high = scale.target_sum / found.unit_high, scale.target_sum / found.unit_low
        sure &= np.floor(high * (1 + RELATIVE)) >= np.ceil(low * (1 - RELATIVE))
    return sure
