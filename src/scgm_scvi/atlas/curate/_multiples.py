"""Whole-number multiples of an unknown unit, one unit a cell, from values known to an error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Multiples", "chance", "multiples", "rows_of"]

MOST = 8  # the largest number that the smallest value of a cell may be a multiple by
_CHANCE = 1e-6  # of values that are no multiples to fit by accident; above it, a fit says nothing
_LOOSE = 1e-12  # intervals are widened by this part against rounding in double precision


@dataclass(frozen=True)
class Multiples:
    """Of which whole numbers and units the values of each row are products.

    Parameters
    ----------
    number
        A multiple a value; 0 in rows that don't fit.
    unit_low, unit_high
        Bounds of each row's unit; NaN in rows that don't fit.
    fits
        Per row: some unit makes every value a multiple of it within the error.
    unique
        Per row: and for each value there is one such multiple only, which is no accident.
    """

    number: np.ndarray
    unit_low: np.ndarray
    unit_high: np.ndarray
    fits: np.ndarray
    unique: np.ndarray


def rows_of(indptr: np.ndarray) -> np.ndarray:
    """The row of every value."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def multiples(
    low: np.ndarray, high: np.ndarray, indptr: np.ndarray, unit: float | None = None
) -> Multiples:
    r"""Solve :math:`y_g = u c_g` for whole numbers :math:`c_g` and a unit :math:`u` a row.

    Each value is known to lie in :math:`[l_g, h_g]`. A unit of a row is possible if each of these
    intervals holds a multiple of it. The smallest value is taken to be once the unit; where that is
    impossible, twice, three times and so on, which gives numbers without a common divisor. From
    this first interval of units on, every value with a single possible multiple
    :math:`k` narrows the units to :math:`[l_g / k, h_g / k]`, until nothing changes any more. The
    true numbers are never lost on the way, so that a multiple that is the only possible one is
    the true one, whatever the rounding. That the smallest value is once the unit is sure if all
    intervals are shorter than an eighth of it, since halves, thirds and so on would show; else it
    takes so many values that so good a fit is no accident. Nothing can be told of a divisor that
    all numbers have in common.

    Parameters
    ----------
    low, high
        Bounds of the values, ``low`` positive or zero and ``high`` positive; row after row.
    indptr
        Where each row begins and the last one ends. No row is empty.
    unit
        Where it is known, the same for all rows.
    """
    low, high = low * (1 - _LOOSE), high * (1 + _LOOSE)
    if unit is not None:
        units = np.full(len(indptr) - 1, unit)
        return _fit(low, high, indptr, units, units)
    least = np.minimum.reduceat(low, indptr[:-1]), np.minimum.reduceat(high, indptr[:-1])
    found = _fit(low, high, indptr, *least)
    _doubt(found, low, high, indptr)
    for m in range(2, MOST + 1):
        rest = np.flatnonzero(~found.fits)
        if not len(rest):
            break
        where, part = _take(indptr, rest)
        again = _fit(low[where], high[where], part, least[0][rest] / m, least[1][rest] / m)
        # several times as many candidates fit by accident
        again.fits[:] &= chance(low[where], high[where], part, again) < _CHANCE
        keep = again.fits[rows_of(part)]
        found.number[where[keep]] = again.number[keep]
        for name in ("unit_low", "unit_high", "fits", "unique"):
            getattr(found, name)[rest[again.fits]] = getattr(again, name)[again.fits]
    return found


def _doubt(found: Multiples, low: np.ndarray, high: np.ndarray, indptr: np.ndarray) -> None:
    """Take back ``unique`` where the smallest value might be twice the unit, or three times."""
    rows = rows_of(indptr)
    width = high / found.unit_low[rows] - low / found.unit_high[rows]
    widest = np.maximum.reduceat(width, indptr[:-1])
    for i in np.flatnonzero(found.unique & (widest >= 1 / MOST)):
        part = slice(indptr[i], indptr[i + 1])
        accident = _chance(low[part], high[part], found.unit_low[i], found.unit_high[i])
        found.unique[i] = accident < _CHANCE


def chance(low: np.ndarray, high: np.ndarray, indptr: np.ndarray, found: Multiples) -> np.ndarray:
    """Per row, how likely distinct values that are no multiples would fit as well; 1 if none do."""
    result = np.ones(len(indptr) - 1)
    for i in np.flatnonzero(found.fits):
        part = slice(indptr[i], indptr[i + 1])
        result[i] = _chance(low[part], high[part], found.unit_low[i], found.unit_high[i])
    return result


def _chance(low: np.ndarray, high: np.ndarray, unit_low: float, unit_high: float) -> float:
    """Product of the shares of each unit's length that the intervals of distinct values cover."""
    low, first = np.unique(low, return_index=True)
    width = high[first] / unit_low - low / unit_high
    if unit_low < unit_high:  # the smallest value has set the unit, so that it fits anyway
        width = width[1:]
    return float(np.prod(np.clip(width, 0, 1)))


def _fit(
    low: np.ndarray, high: np.ndarray, indptr: np.ndarray, u_low: np.ndarray, u_high: np.ndarray
) -> Multiples:
    """Narrow the units that are possible at first."""
    rows, starts = rows_of(indptr), indptr[:-1]
    u_low, u_high = np.maximum(u_low, 1e-30), u_high
    while True:
        least = np.maximum(np.ceil(low / u_high[rows]), 1)
        most = np.floor(high / u_low[rows])
        single = least == most
        new_low = np.maximum.reduceat(np.where(single, low / least, 0), starts)
        new_high = np.minimum.reduceat(np.where(single, high / least, np.inf), starts)
        fits = np.logical_and.reduceat(least <= most, starts)
        # a unit that is known stays so
        fixed = u_low == u_high
        new_low = np.where(fixed, u_low, np.maximum(u_low, new_low))
        new_high = np.where(fixed, u_high, np.minimum(u_high, new_high))
        fits &= new_low <= new_high
        unique = fits & np.logical_and.reduceat(single, starts)
        narrower = fits & ~unique & ((new_low > u_low) | (new_high < u_high))
        u_low, u_high = np.where(fits, new_low, u_low), np.where(fits, new_high, u_high)
        if not narrower.any():
            break
    # where several are possible, one of them
    number = np.where(fits[rows], np.clip(np.rint((least + most) / 2), least, most), 0)
    u_low, u_high = np.where(fits, u_low, np.nan), np.where(fits, u_high, np.nan)
    return Multiples(number, u_low, u_high, fits, unique)


def _take(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the values of some rows, and the ``indptr`` of these."""
    length = np.diff(indptr)[rows]
    part = np.concatenate([[0], np.cumsum(length)])
    return np.arange(part[-1]) + np.repeat(indptr[rows] - part[:-1], length), part
