"""What the values of a matrix are, and counts out of them where that is possible."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ._counts import Counts, to_counts
from ._multiples import Multiples, chance, multiples
from ._values import (
    FEWEST_GENES,
    INVERSE,
    LARGEST_LOG,
    SCALES,
    TARGETS,
    Scale,
    bounds,
)

__all__ = ["SCALES", "Counts", "Scale", "detect_scale", "to_counts"]

_PREFIX = {"identity": "", "expm1": "ln_", "exp2m1": "log2_"}
_USUAL = {"identity": 1e6, "expm1": 1e4, "exp2m1": 1e6}  # what cells are normalised to, by habit
_CHANCE = 1e-6
_AGREE = 0.95  # of the cells that tell something, to be of one scale
_OTHER = 0.01  # of them that may look like another one
_SAME_SUM = 0.02  # coefficient of variation of sums that are constant but for rounding
_WHOLE = 0.1  # of the values, to be estimated counts rather than anything else


def detect_scale(x: sparse.csr_matrix, most_cells: int = 500) -> Scale:
    r"""Find out what the values of a dataset are, from some hundred of its cells.

    Cell by cell, for no logarithm, ln and log2: are the values, the logarithm undone, whole numbers,
    or multiples of one number (:func:`scgm_scvi.atlas.curate._multiples.multiples`)? Nineteen in
    twenty of the cells that tell something have to agree, and hardly any may look like another scale. If there is
    no such number, a constant sum still tells what cells were normalised to.

    Parameters
    ----------
    x
        Cells x genes, CSR; from all over the dataset.
    most_cells
        Of more cells, so many are looked at, evenly spaced.

    Returns
    -------
    ``counts_available`` is False, and the reason says why, for values that are not made of
    counts, and for datasets whose cells disagree.

    Raises
    ------
    ValueError
        If there are no cells.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> counts = np.random.default_rng(0).poisson(1.0, (50, 200))
    >>> normalised = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    >>> scale = detect_scale(sparse.csr_matrix(normalised.astype("float32")))
    >>> scale.name, scale.target_sum
    ('ln_cp10k', 10000.0)
    """
    if x.shape[0] == 0:
        raise ValueError("x has no cells; the scale is found from some of the dataset's.")
    if x.shape[0] > most_cells:
        x = x[np.linspace(0, x.shape[0] - 1, most_cells).astype(int)]
    values = x.data.astype(np.float64)
    if not np.isfinite(values).all():
        return Scale("unknown", reason=f"{np.mean(~np.isfinite(values)):.2%} are NaN or infinite")
    if (values < 0).any():
        return Scale("scaled", reason=f"{np.mean(values < 0):.1%} of the values are negative")
    cells = [np.unique(row[row > 0]) for row in np.split(values, x.indptr[1:-1])]
    cells = [row for row in cells if len(row)]
    if not cells:
        return Scale("unknown", reason=f"all {x.shape[0]} cells looked at are empty")
    decimals = _decimals(np.concatenate(cells))
    # the smallest values say most, and what they say is enough
    sample = [row[:200] for row in cells]
    flat, indptr = np.concatenate(sample), np.cumsum([0, *map(len, sample)])
    kinds = [(t, u) for u in (1.0, None) for t in INVERSE]
    fits = np.zeros((len(kinds), len(sample)), bool)
    largest = np.array([row[-1] for row in cells])
    impossible = np.diff(indptr) >= FEWEST_GENES  # of fewer, the smallest may be a large multiple
    found: list[Multiples] = []
    for i, (transform, unit) in enumerate(kinds):
        low, high = bounds(flat, transform, decimals if i else None)
        found.append(multiples(low, high, indptr, unit))
        if transform != "identity":
            found[i].fits[largest > LARGEST_LOG] = False
        fits[i] = chance(low, high, indptr, found[i]) < _CHANCE
        impossible &= ~found[i].fits
    whole = np.array([(row == np.rint(row)).all() for row in cells])
    # counts may be too few to tell, but counts they are; in other data, one or two may be chance
    fits[0, whole] = whole.all() or (np.diff(indptr) >= 3)[whole]
    telling = fits.any(axis=0) | impossible
    if not telling.any():
        return Scale("unknown", reason="the cells have too few different values to tell")
    share = fits[:, telling].mean(axis=1)
    best = int((share >= share.max() - _OTHER).argmax())  # the simplest of those that fit as well
    ours = fits[best]
    against = telling & ~ours & ~found[best].fits
    agree = ours.sum() / max(1, ours.sum() + against.sum())
    others = float(fits[:, against].any(axis=0).sum() / telling.sum())
    if agree >= _AGREE and others <= _OTHER:
        sums = np.array([INVERSE[kinds[best][0]](row).sum() for row in _rows(x, values)])
        units = (found[best].unit_low[ours], found[best].unit_high[ours])
        return _of_counts(*kinds[best], sums, *units, agree, decimals)
    # cells of each kind that are of none before it
    first = np.where(telling & fits.any(axis=0), fits.argmax(axis=0), -1)
    mixed = {_name(*k): float(np.mean(first[telling] == i)) for i, k in enumerate(kinds)}
    return _of_others(x, values, {k: v for k, v in mixed.items() if v}, others)


def _rows(x: sparse.csr_matrix, values: np.ndarray) -> list[np.ndarray]:
    return [row for row in np.split(values, x.indptr[1:-1]) if row.any()]


def _decimals(values: np.ndarray) -> int | None:
    """Digits after the point that all values were rounded to; the whole numbers among them aside."""
    values = values[values != np.rint(values)]
    for d in range(1, 6):
        scaled = values * 10**d
        scaled = scaled[scaled * 2.0**-23 < 0.25]  # others have no such digits in single precision
        slack = scaled * 2.0**-23 + 1e-9
        accident = np.log(2 * slack).sum()  # of values with more digits, to look as if they had not
        if accident < np.log(1e-9) and (np.abs(scaled - np.rint(scaled)) <= slack).all():
            return d
    return None


def _name(transform: str, unit: float | None, target: float | None = None) -> str:
    if unit is not None:
        return _PREFIX[transform] + "counts"
    usual = {"identity": "cpm", "expm1": "cp10k", "exp2m1": "cpm"}[transform]
    return _PREFIX[transform] + (usual if target in (None, _USUAL[transform]) else "cpn")


def _of_counts(
    transform: str,
    unit: float | None,
    sums: np.ndarray,
    unit_low: np.ndarray,
    unit_high: np.ndarray,
    share: float,
    decimals: int | None,
) -> Scale:
    """A scale of values that are made of counts."""
    how = f"in {share:.1%} of the cells that tell something, the values"
    if transform != "identity":
        how += f" under {transform}"
    if unit is not None:
        decimals = None if transform == "identity" else decimals
        how += " are whole numbers"
        return Scale(_name(transform, unit), transform, None, True, True, how, decimals)
    how += " are multiples of one number a cell; "
    target, known = None, np.abs(np.array(TARGETS) / sums.mean() - 1) < _SAME_SUM / 2
    if len(sums) > 1 and sums.std() < _SAME_SUM * sums.mean():
        target = float(TARGETS[known.argmax()] if known.any() else sums.mean())
        if known.any() and _whole_libraries(target, unit_low, unit_high) is False:
            target = float(sums.mean())
        how += f"their sum is {sums.mean():.6g} in all cells"
    else:
        how += (
            f"their sums vary ({sums.min():.4g} to {sums.max():.4g}), as genes have been left out; "
        )
        for t in TARGETS:
            if t >= sums.max() * 0.99 and _whole_libraries(t, unit_low, unit_high):
                target, how = t, how + f"only with {t:.0f} are all library sizes whole numbers"
                break
        else:
            if sums.max() <= _USUAL[transform] * 1.01:
                target = _USUAL[transform]
                how += f"cells are taken to have been normalised to {target:.0f}, as is usual"
            else:
                how += "what they were normalised to is unknown"
    name = _name(transform, None, target or 0)
    return Scale(name, transform, target, True, True, how, decimals)


def _whole_libraries(target: float, unit_low: np.ndarray, unit_high: np.ndarray) -> bool | None:
    """Whether a target makes library sizes whole numbers; None where they are too vague to tell."""
    library, least = target / unit_low, target / unit_high
    sharp = library - least < 0.1
    near = np.abs(library - np.rint(library))[sharp] < 0.1
    return bool(near.mean() > _AGREE) if len(near) >= 10 else None


def _of_others(
    x: sparse.csr_matrix, values: np.ndarray, mixed: dict[str, float], others: float
) -> Scale:
    """A scale of values that are not made of counts, or not in all cells."""
    whole = values[values > 0] == np.rint(values[values > 0])
    if whole.mean() >= _WHOLE and set(mixed) <= {"counts"} and mixed.get("counts", 0) < 0.5:
        reason = f"{whole.mean():.1%} of the values are whole numbers and the others are not"
        return Scale("estimated_counts", "identity", None, False, False, reason)
    if sum(mixed.values()) > 1 - _AGREE or others > _OTHER:
        shares = ", ".join(f"{v:.1%} look like {k}" for k, v in mixed.items())
        reason = (
            f"the cells disagree; of those that tell something, {shares}, the rest like neither"
        )
        return Scale("unknown", reason=reason)
    rows = _rows(x, values)
    for transform in INVERSE if values.max() <= LARGEST_LOG else ["identity"]:
        sums = np.array([INVERSE[transform](row).sum() for row in rows])
        if len(sums) > 1 and sums.std() < _SAME_SUM * sums.mean():
            reason = (
                f"under {transform}, all cells have the sum {sums.mean():.6g}, but are not made"
            )
            target = float(f"{sums.mean():.3g}")
            name = _PREFIX[transform] + "tpm"
            return Scale(name, transform, target, False, False, f"{reason} of whole numbers")
    looks = "logarithms" if values.max() < 25 else "values without a logarithm"
    reason = (
        "not made of whole numbers, and no constant sum, whatever logarithm is undone; with a "
        f"largest value of {values.max():.4g} they look like {looks}"
    )
    return Scale("unknown", reason=reason)
