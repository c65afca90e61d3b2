"""Changes that training never showed for some cells, borrowed from groups that it did show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scgm_scvi._errors import listed
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._spec import ConditionSpec

from ._analogy import Analogy
from ._borrowing import (
    LEAST_GROUPS,
    Borrowing,
    Groups,
    choose_borrowing,
    convex_weights,
    expectation,
)
from ._profiles import LEAST_CELLS, Profiles

__all__ = ["Borrowed", "find_analogy"]

_SCARCITY = 10.0  # a change known from n cells counts as 1 + 10 / sqrt(n) times as far
_MOST = 0.95  # of the weight; each further group costs two evaluations of the network a step


@dataclass(frozen=True)
class Borrowed:
    """From which groups the cells of one group borrow, and what is to be expected of it.

    ``rule`` is ``None`` where too few groups were seen both ways to leave one out; ``means`` says
    whether what it expects is of cells as they were ``"measured"``, or ``"generated"``.
    """

    group: str
    shares: dict[str, float]
    rule: Borrowing | None
    means: str

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.group} as {next(iter(self.shares))}"
        shares = " + ".join(f"{share:.2f} {name}" for name, share in self.shares.items())
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


def find_analogy(
    profiles: Profiles, own: Attributes, target: Attributes, named: Collection[str], scale: float
) -> tuple[Analogy | None, list[Borrowed]]:
    """Groups that lend their change to cells that are to become what training never showed.

    They differ from a cell in the attributes that are not ``named``, and were seen with those of
    its target and with its own. With three or more, the shares are those of the synthetic control
    that :func:`choose_borrowing` finds, in mean log expression as the model generates it; with
    fewer the nearest stands in, and the fewer cells it has, the farther it counts. The change is
    multiplied by ``scale``. ``None`` where all is known, or nothing stands in.
    """
    prior = profiles.prior
    spec = prior.spec
    names = list(spec.categorical)
    before, after = own.tokens.numpy(), target.tokens.numpy()
    design = prior.design["tokens"][:, : len(names)]
    free = np.array([name not in named for name in names], dtype=bool)
    unseen = np.zeros((len(before), 1))
    pairs, inverse = np.unique(np.concatenate([before, after], axis=1), axis=0, return_inverse=True)
    rules: dict[bytes, tuple[Borrowing | None, str]] = {}
    described: list[Borrowed] = []
    lent: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, groups, weights
    for i, (a, b) in enumerate(pairs.reshape(len(pairs), 2, -1)):
        if not free.any() or _seen(design, b).any():
            continue
        known = _candidates(design, a, b, free)
        if not len(known):
            continue
        scarce = 1 + _SCARCITY / np.sqrt(_sizes(design, known, b, free))
        ends = np.where(free, known, b)
        place = profiles.generated([a])[0]
        groups = Groups(
            profiles.generated(known), profiles.generated(ends), scarce**-2 / (scarce**-2).sum()
        )
        asked = np.concatenate([known.ravel(), b[~free]]).tobytes()
        if asked not in rules:
            rule = choose_borrowing(groups)
            measured = rule and _as_measured(rule, profiles, groups, known, ends)
            rules[asked] = (measured, "measured") if measured else (rule, "generated")
        rule, means = rules[asked]
        if rule is None:
            distances = np.linalg.norm(groups.before - place, axis=1)
            weights = np.eye(len(known))[int(np.argmin(distances * scarce))]
        else:
            weights = _most_of(convex_weights(place, groups, rule.ridge))
        rows = inverse.ravel() == i
        unseen[rows] = 1
        kept = weights > 0
        size = scale * (1.0 if rule is None else rule.size)
        lent.append((rows, known[kept], size * weights[kept]))
        shares = {
            _written(spec, k, free): float(w) for k, w in zip(known, weights, strict=True) if w
        }
        described.append(Borrowed(_written(spec, a, free), shares, rule, means))
    if not lent:
        return None, []
    return _joined(own, target, free, unseen, lent), described


def _joined(
    own: Attributes,
    target: Attributes,
    free: np.ndarray,
    unseen: np.ndarray,
    lent: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Analogy:
    """The analogy of all cells, of which some rows borrow from more groups than others."""
    n_groups = max(len(w) for *_, w in lent)
    weights = np.zeros((len(unseen), n_groups), dtype=np.float32)
    tokens = [np.stack([end.tokens.numpy()] * n_groups) for end in (own, target)]
    for rows, known, sizes in lent:
        for k, (group, size) in enumerate(zip(known, sizes, strict=True)):
            weights[rows, k] = size
            for end in tokens:
                end[k][np.ix_(rows, free)] = group[free]
    sources, targets = (
        tuple(replace(like, tokens=torch.as_tensor(t)) for t in end)
        for like, end in zip((own, target), tokens, strict=True)
    )
    return Analogy(torch.as_tensor(unseen), own, torch.as_tensor(weights), sources, targets)


def _most_of(weights: np.ndarray) -> np.ndarray:
    """The fewest groups that have most of the weight; their shares add up to 1."""
    order = np.argsort(-weights, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(weights[order]), _MOST)) + 1]
    out = np.zeros_like(weights)
    out[kept] = weights[kept] / weights[kept].sum()
    return out


def _as_measured(
    rule: Borrowing, profiles: Profiles, groups: Groups, known: np.ndarray, ends: np.ndarray
) -> Borrowing | None:
    """The rule with what is expected of it for cells as they were measured, if enough were.

    What a model generates is free of noise, and so right to weigh groups by; but it makes groups
    more alike than they are, and their responses more predictable.
    """
    n = np.minimum(profiles.n_measured(known), profiles.n_measured(ends))
    rows = np.flatnonzero(n >= LEAST_CELLS)
    if len(rows) < LEAST_GROUPS:
        return None
    alike = groups.rows(rows)
    measured = Groups(profiles.measured(known[rows]), profiles.measured(ends[rows]), alike.trust)
    return replace(rule, expected=expectation(alike, measured, rule.ridge, rule.size))


def _seen(design: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Rows of the design with these attributes, as far as they are specified."""
    return ((design == pattern) | (pattern == 0)).all(axis=1)


def _candidates(
    design: np.ndarray, before: np.ndarray, after: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Attributes seen with the named ones of both ends, those of ``before`` put in."""
    known = [
        {row.tobytes() for row in design[_seen(design, np.where(free, 0, end))][:, free]}
        for end in (before, after)
    ]
    found = sorted(set.intersection(*known))
    out = np.tile(before, (len(found), 1))
    out[:, free] = np.array([np.frombuffer(row, dtype=design.dtype) for row in found]).reshape(
        len(found), free.sum()
    )
    return out[~((out == 0) & (before > 0)).any(axis=1)]


def _sizes(
    design: np.ndarray, known: np.ndarray, after: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Of each candidate, the number of training cells before or after the change, the smaller."""
    ends = [(row, np.where(free, row, after)) for row in known]
    return np.array([min(_seen(design, end).sum() for end in pair) for pair in ends])


def _written(spec: ConditionSpec, tokens: np.ndarray, free: np.ndarray) -> str:
    """Attributes as a user reads them."""
    parts = [
        f"{name}={categories[t - 1]}"
        for (name, categories), t, f in zip(spec.categorical.items(), tokens, free, strict=True)
        if f and t > 0
    ]
    return ", ".join(parts)
