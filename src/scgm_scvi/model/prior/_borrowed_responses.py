"""Changes that training never showed of some cells, borrowed from groups of which it did."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from scgm_scvi._errors import listed
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._spec import ConditionSpec

from ._borrowing import LEAST_GROUPS, Borrowing, Groups, choose_borrowing, convex_weights
from ._group_means import GroupMeans

__all__ = ["Borrowed", "BorrowedResponses", "borrowed_responses", "were_seen"]

_LEAST_CELLS = 10  # measured of a group, for a mean that tells a response
_SCARCITY = 10.0  # a change known from n cells counts as 1 + 10 / sqrt(n) times as far


@dataclass(frozen=True, eq=False)
class Borrowed:
    """From which groups the cells of one group borrow, and what is to be expected of it.

    Attributes
    ----------
    group
        Who borrows.
    shares
        Who lends, and how much.
    change
        Of mean log expression, ``(n_features,)``.
    rule
        ``None`` where too few groups were seen both ways to leave one out.
    """

    group: str
    shares: dict[str, float]
    change: np.ndarray
    rule: Borrowing | None

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.group} as {next(iter(self.shares))}"
        most = {k: v for k, v in self.shares.items() if v >= 0.005}
        shares = " + ".join(f"{share:.2f} {name}" for name, share in most.items())
        return f"{self.group} as {shares}, times {self.rule.size:.2f}"

    @property
    def doubt(self) -> str | None:
        """Why the outcome is not to be trusted; ``None`` where nothing speaks against it."""
        if self.rule is None:
            return (
                f"{self.group}: its response is that of {listed(self.shares)}. Fewer than "
                f"{LEAST_GROUPS} groups were seen both ways, so that nothing tells how well a "
                "response can be borrowed here."
            )
        expected = self.rule.expected
        if expected["borrowed"] > expected["identity"]:
            return None
        return (
            f"{self.group}: borrowed from others, the responses of the groups that were seen both "
            f"ways have an R² of {expected['borrowed']:.2f}, and cells left as they are "
            f"{expected['identity']:.2f}. Groups respond too differently, or hardly, to tell how "
            "this one would."
        )


@dataclass(frozen=True, eq=False)
class BorrowedResponses:
    """What cells borrow.

    Attributes
    ----------
    kinds
        Who borrows from whom.
    row
        Which of them each cell has, ``(n,)``; -1: none, as what it is to be was seen.
    unknown
        What was never seen, and why nothing can be borrowed of it.
    """

    kinds: list[Borrowed] = field(default_factory=list)
    row: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    unknown: list[str] = field(default_factory=list)

    @property
    def doubts(self) -> list[str]:
        """Why outcomes are not to be trusted."""
        unknown = [
            f"{what}. The answer is what networks make of it, and nothing tells how good that is."
            for what in self.unknown
        ]
        return [*filter(None, (b.doubt for b in self.kinds)), *unknown]


def borrowed_responses(
    groups: GroupMeans,
    design: np.ndarray,
    own: Attributes,
    target: Attributes,
    named: Collection[str],
    mean_of: Callable[[np.ndarray], np.ndarray],
) -> BorrowedResponses:
    """What cells borrow that are to become what training never showed.

    From groups that differ from them in what is not ``named``, and were seen with the attributes
    of their target and with their own. With three or more, shares are those of the synthetic
    control that :func:`choose_borrowing` finds in mean log expression; with fewer the nearest
    lends, and the fewer cells it has, the farther it counts.

    Parameters
    ----------
    groups
        Means of training cells.
    design
        Conditions of training cells, ``(n_training, n_conditions)``.
    named
        Attributes that are to change.
    mean_of
        A function of the numbers of cells to their mean log expression.
    """
    spec = own.spec
    before, after = own.tokens.numpy(), target.tokens.numpy()
    free = np.array([name not in named for name in spec.categorical], dtype=bool)
    pairs, inverse = np.unique(np.concatenate([before, after], axis=1), axis=0, return_inverse=True)
    out = BorrowedResponses(row=np.full(len(before), -1))
    numbers = [name for name in spec.numeric if name in named]
    why = (
        f"and {listed(numbers)} is to change too, of which groups tell nothing"
        if numbers
        else "and no other group that was seen both as these cells are and as they are to be"
    )
    rules: dict[bytes, Borrowing | None] = {}
    pairs = pairs.reshape(len(pairs), 2, -1)
    shown = were_seen(design, pairs[:, 1])
    for i, (a, b) in enumerate(pairs):
        if (a == b).all() or shown[i]:
            continue
        known = _candidates(design, a, b, free)
        ends = [np.where(free, row, b) for row in known]
        n = np.array([min(map(groups.size, pair)) for pair in zip(known, ends, strict=True)])
        if numbers or not (n >= _LEAST_CELLS).any():
            what = _written(spec, b, np.ones_like(free))
            out.unknown.append(f"{what}: training had no such cells, {why}")
            continue
        enough = np.flatnonzero(n >= _LEAST_CELLS)
        known, ends, n = known[enough], [ends[k] for k in enough], n[enough]
        rows = np.flatnonzero(inverse.ravel() == i)
        place = groups.mean(a) if groups.size(a) >= _LEAST_CELLS else mean_of(rows)
        lenders = _lenders(groups, known, ends, n)
        asked = np.concatenate([known.ravel(), b[~free]]).tobytes()
        if asked not in rules:
            rules[asked] = choose_borrowing(lenders)
        rule = rules[asked]
        if rule is None:
            distances = np.linalg.norm(lenders.before - place, axis=1)
            weights = np.eye(len(known))[int(np.argmin(distances * (1 + _SCARCITY / np.sqrt(n))))]
        else:
            weights = convex_weights(place, lenders, rule.ridge)
        names = [_written(spec, row, free) for row in known]
        shares = {k: float(w) for k, w in zip(names, weights, strict=True) if w}
        change = (1.0 if rule is None else rule.size) * weights @ lenders.change
        out.row[rows] = len(out.kinds)
        out.kinds.append(Borrowed(_written(spec, a, free), shares, change, rule))
    return out


def _lenders(
    groups: GroupMeans, known: np.ndarray, ends: list[np.ndarray], n: np.ndarray
) -> Groups:
    """The groups before and after, trusted by their cells ``n``."""
    means = np.array([groups.mean(row) for row in known])
    changes = [groups.change(*pair) for pair in zip(known, ends, strict=True)]
    trust = (1 + _SCARCITY / np.sqrt(n)) ** -2
    # what some did not measure tells nobody from others, and changes nothing
    usual = np.nan_to_num(np.nanmean(means, axis=0))
    means = np.where(np.isnan(means), usual, means)
    return Groups(means, means + np.nan_to_num(changes), trust / trust.sum())


def were_seen(design: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Which rows of tokens rows of the design have, as far as they are specified."""
    known = np.unique(design, axis=0)
    asked, inverse = np.unique(tokens, axis=0, return_inverse=True)
    return np.array([_seen(known, row).any() for row in asked], dtype=bool)[inverse.ravel()]


def _seen(design: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Rows of the design with these attributes, as far as they are specified."""
    return np.asarray(((design == pattern) | (pattern == 0)).all(axis=1))


def _candidates(
    design: np.ndarray, before: np.ndarray, after: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Attributes seen with the named ones of both ends, those of ``before`` put in."""
    known = [
        {row.tobytes() for row in design[_seen(design, np.where(free, 0, end))][:, free]}
        for end in (before, after)
    ]
    found = sorted(set.intersection(*known)) if free.any() else []
    out = np.tile(before, (len(found), 1))
    out[:, free] = np.array([np.frombuffer(row, dtype=design.dtype) for row in found]).reshape(
        len(found), free.sum()
    )
    return out[~((out == 0) & (before > 0)).any(axis=1)]


def _written(spec: ConditionSpec, tokens: np.ndarray, which: np.ndarray) -> str:
    """Attributes as a user reads them."""
    parts = [
        f"{name}={categories[t - 1]}"
        for (name, categories), t, f in zip(spec.categorical.items(), tokens, which, strict=True)
        if f and t > 0
    ]
    return ", ".join(parts)
