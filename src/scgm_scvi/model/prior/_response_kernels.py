"""Which perturbations respond alike: by their vectors, their parts, their doses and contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._dose_curve import DoseCurve
from ._measured_responses import MeasuredResponses, Observed

__all__ = ["Likeness", "Places"]

_WIDE, _NARROW = 0.7, 4.0  # of squared distances whose mean is 1
_RISING = 0.1  # share of a response that differs from dose to dose


@dataclass(frozen=True, eq=False)
class Places:
    """Contexts by what their control cells express, and by vectors of their own.

    Attributes
    ----------
    baselines
        Mean log expression ``(n_contexts, n_features)``.
    vectors
        Vectors ``(n_contexts, d)``; NaN where a context has none.
    known
        Number of each among the contexts of training; -1 of a new one.
    """

    baselines: np.ndarray
    vectors: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.known)


@dataclass(frozen=True, eq=False)
class Likeness:
    r"""Covariances of responses, up to the weights that are learnt of each.

    Of two single perturbations: 1, a response that all have in common; the inner product of their
    vectors, one that is linear in them; two functions of their distance, one that is smooth in them
    at a wide or a narrow scale; and whether they are the same one. Of two sets, the sum over pairs of
    their parts, which is what responses that add have; besides whether both are sets of several,
    whose parts may count otherwise together, and whether they are the same one. Of two doses whose
    sizes are :math:`u` and :math:`v`, :math:`0.9 uv + 0.1 \min(u, v)`: no response at 0, responses
    in proportion to size, and a part that comes as the dose rises. All of it the same in all contexts; or alike in
    contexts whose control cells are alike; or each context's own.

    Attributes
    ----------
    vectors
        Of single perturbations by name, standardised ``(n, d)``; those without one have no row.
    curve
        Sizes of doses.
    places
        Contexts of training.
    has_sets
        Whether cells had more than one perturbation at a time.
    """

    vectors: pd.DataFrame
    curve: DoseCurve
    places: Places
    has_sets: bool

    @classmethod
    def learn(cls, measured: MeasuredResponses, vectors: pd.DataFrame, places: Places) -> Likeness:
        """Of what was seen; vectors are standardised by those of the perturbations among it."""
        observed = measured.observed
        seen = [name for name in _singles(observed) if name in vectors.index]
        table = vectors.iloc[:0]
        if seen:
            center, scale = vectors.loc[seen].mean(), vectors.loc[seen].std(ddof=0)
            table = (vectors - center) / scale.where(scale > 0, 1.0)
        several = any(len(o.parts) > 1 for o in observed)
        return cls(table, DoseCurve.learn(measured), places, several)

    @property
    def names(self) -> list[str]:
        """Of the covariances."""
        out = [*self._additive, *(["sets", "own set"] if self.has_sets else [])]
        if len(self.places) > 1:
            for where in ("where alike", "here"):
                out += [f"{name} {where}" for name in self._additive]
        return out

    def between(
        self,
        a: Sequence[Observed],
        b: Sequence[Observed],
        places: Places | None = None,
    ) -> np.ndarray:
        """Covariances ``(n_names, len(a), len(b))``.

        Parameters
        ----------
        a
            Groups of cells, in contexts of ``places``; by default in those of training.
        b
            Groups of cells in contexts of training.
        """
        out = self._anywhere(a, b)
        if len(self.places) > 1:
            places = self.places if places is None else places
            at = [np.array([o.context for o in group], dtype=int) for group in (a, b)]
            alike = self._alike(places)[np.ix_(*at)]
            here = (places.known[:, None] == np.arange(len(self.places)))[np.ix_(*at)]
            for where in (alike, here):
                out += [k * where for k in out[: len(self._additive)]]
        return np.stack(out)

    def variances(self, asked: Sequence[Observed]) -> np.ndarray:
        """Of each group with itself, ``(n_names, n)``."""
        own = [[float(k[0, 0]) for k in self._anywhere([o], [o])] for o in asked]
        if len(self.places) > 1:  # every context is alike itself
            n = len(self._additive)
            own = [[*v, *v[:n], *v[:n]] for v in own]
        return np.array(own).reshape(len(asked), len(self.names)).T

    def _anywhere(self, a: Sequence[Observed], b: Sequence[Observed]) -> list[np.ndarray]:
        """Covariances of what is the same in all contexts."""
        of = [_singles(group) for group in (a, b)]
        members = [_members(group, names) for group, names in zip((a, b), of, strict=True)]
        dose = self._dose(a, b)
        single = self._single(*of)
        out = [members[0] @ single[name] @ members[1].T * dose for name in self._additive]
        if self.has_sets:
            several = [np.array([len(o.parts) > 1 for o in group]) for group in (a, b)]
            both = np.outer(*several)
            same = [x.parts == y.parts for x in a for y in b]
            out.append((out[0] + out[-1]) * both / 2)
            out.append(np.array(same, dtype=float).reshape(both.shape) * both * dose)
        return out

    @property
    def _additive(self) -> list[str]:
        """Names of the covariances that add up over the parts of sets."""
        return ["common", *(["linear", "wide", "narrow"] if len(self.vectors) else []), "own"]

    def _single(self, a: list[str], b: list[str]) -> Mapping[str, np.ndarray]:
        """Covariances of single perturbations."""
        same = np.array([[x == y for y in b] for x in a], dtype=float).reshape(len(a), len(b))
        out = {"common": np.ones_like(same)}
        if len(self.vectors):
            x, y = (self.vectors.reindex(names).to_numpy() for names in (a, b))
            known = np.outer(np.isfinite(x).all(axis=1), np.isfinite(y).all(axis=1))
            x, y = np.nan_to_num(x), np.nan_to_num(y)
            d = max(1, x.shape[1])
            product = x @ y.T / d
            square = ((x**2).sum(1)[:, None] + (y**2).sum(1)) / (2 * d) - product
            out["linear"] = product * known
            out["wide"] = np.exp(-_WIDE * square.clip(0)) * known
            out["narrow"] = np.exp(-_NARROW * square.clip(0)) * known
        return {**out, "own": same}

    def _dose(self, a: Sequence[Observed], b: Sequence[Observed]) -> np.ndarray:
        u, v = (self.curve([o.dose for o in of]) for of in (a, b))
        return (1 - _RISING) * np.outer(u, v) + _RISING * np.minimum(u[:, None], v)

    def _alike(self, places: Places) -> np.ndarray:
        """Of contexts, with those of training: by the distance of baselines, and of vectors."""
        out = np.zeros((len(places), len(self.places)))
        for name in ("baselines", "vectors"):
            x, y = getattr(places, name), getattr(self.places, name)
            if not y.shape[1]:
                continue
            if name == "vectors":  # whose coordinates have scales of their own
                scale = np.nan_to_num(np.nanstd(y, axis=0), nan=1.0)
                x, y = (of / np.where(scale > 0, scale, 1.0) for of in (x, y))
            among = _squared(y, y)
            mean = np.nanmean(among[~np.eye(len(y), dtype=bool)])
            if np.isfinite(mean) and mean > 0:
                out += np.nan_to_num(_squared(x, y) / mean, nan=1.0)
        return np.exp(-out)


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[np.mean((a - b) ** 2) for b in y] for a in x]).reshape(len(x), len(y))


def _singles(group: Sequence[Observed]) -> list[str]:
    return sorted({part for o in group for part in o.parts})


def _members(group: Sequence[Observed], names: list[str]) -> np.ndarray:
    at = {name: j for j, name in enumerate(names)}
    out = np.zeros((len(group), len(names)))
    for i, o in enumerate(group):
        out[i, [at[part] for part in o.parts]] = 1
    return out
