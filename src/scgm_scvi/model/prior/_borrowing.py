"""A response that was never seen, borrowed from the groups that were seen both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

__all__ = [
    "LEAST_GROUPS",
    "Borrowing",
    "Groups",
    "choose_borrowing",
    "convex_weights",
]

LEAST_GROUPS = 3  # seen both ways, to leave one out and still have two to weigh
_RIDGES = (np.inf, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # the simplest first
_BETTER = 0.01  # of the squared change, that a less simple rule has to explain besides
_MOST = 1.5  # times the response that was seen
_ONE = 1e3  # weight of the row that has weights add up to 1


@dataclass(frozen=True, eq=False)
class Groups:
    """Mean log expression of groups before and after a change, ``(n, n_features)`` each.

    ``trust`` ``(n,)`` adds up to 1: shares that groups have where nothing else decides, as of
    groups of few cells less is known.
    """

    before: np.ndarray
    after: np.ndarray
    trust: np.ndarray

    def __len__(self) -> int:
        return len(self.before)

    @property
    def change(self) -> np.ndarray:
        return self.after - self.before

    def rows(self, rows: np.ndarray) -> Groups:
        """Some of them."""
        trust = self.trust[rows]
        return Groups(self.before[rows], self.after[rows], trust / trust.sum())

    def without(self, i: int) -> Groups:
        """All but one."""
        return self.rows(np.arange(len(self)) != i)


@dataclass(frozen=True)
class Borrowing:
    """How to borrow, and how well it did for groups of which the response is known.

    Attributes
    ----------
    ridge
        Of the weights towards equal ones; infinite: equal ones.
    size
        What the borrowed response is multiplied by.
    expected
        Means over the left-out groups, by trust, of the coefficient of determination of the mean
        log expression after the change, by rule: ``"borrowed"``, ``"mean_shift"``, ``"identity"``; and
        of the correlation of the borrowed with the true change, ``"pearson_delta"``.
    errors
        Of the borrowed changes of the left-out groups, ``(n_groups, n_features)``.
    """

    ridge: float
    size: float
    expected: dict[str, float]
    errors: np.ndarray


def convex_weights(own: np.ndarray, groups: Groups, ridge: float) -> np.ndarray:
    r"""Shares of groups that together look most like a cell's own group before the change.

    Non-negative :math:`w` that add up to 1 and minimise :math:`\|b - \sum_k w_k b_k\|^2 + \lambda
    \bar d \sum_k (w_k - u_k)^2`, with trust :math:`u` and :math:`\bar d` the mean squared
    distance of groups from their mean, so that :math:`\lambda` has no unit: the synthetic control
    of Abadie, Diamond & Hainmueller 2010, doi:10.1198/jasa.2009.ap08746, shrunk.

    Parameters
    ----------
    own
        Mean log expression ``(n_features,)``.
    groups
        That were seen both ways.
    ridge
        :math:`\lambda`.
    """
    if np.isinf(ridge) or len(groups) == 1:
        return groups.trust
    center = groups.before.mean(axis=0)
    spread = float(((groups.before - center) ** 2).sum(axis=1).mean())
    if not spread:
        return groups.trust
    # the Gram matrix is as small as there are groups; its root stands in for the features
    moved = (groups.before - center) / np.sqrt(spread)
    gram = moved @ moved.T
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    target = np.linalg.pinv(root) @ (moved @ (own - center) / np.sqrt(spread))
    n = len(groups)
    a = np.vstack([root, np.sqrt(ridge) * np.eye(n), np.full((1, n), _ONE)])
    b = np.concatenate([target, np.sqrt(ridge) * groups.trust, [_ONE]])
    weights, _ = nnls(a, b)
    return weights / weights.sum()


def choose_borrowing(groups: Groups) -> Borrowing | None:
    """Leave each group out in turn, and borrow its response from the others.

    The ridge and the size are those that do best for the left-out groups, the simplest where others
    are hardly better; ``None`` of fewer than three groups, which can't tell.
    """
    if len(groups) < LEAST_GROUPS:
        return None
    tried = []
    for ridge in _RIDGES:
        found = _left_out(groups, ridge)
        size, of_others = _sizes(groups, found)
        borrowed = of_others[:, None] * found
        tried.append((ridge, size, borrowed, _explained(groups, borrowed)))
    best = max(explained for *_, explained in tried)
    ridge, size, borrowed, _ = next(t for t in tried if t[-1] >= best - _BETTER)
    return Borrowing(ridge, size, _expected(groups, borrowed), groups.change - borrowed)


def _expected(groups: Groups, borrowed: np.ndarray) -> dict[str, float]:
    """What comes of borrowing for each group from the others; ``expected`` of a :class:`Borrowing`."""
    shift = _left_out(groups, np.inf)
    r2 = {
        name: float(groups.trust @ _r2(groups.after, groups.before + change))
        for name, change in {
            "borrowed": borrowed,
            "mean_shift": shift,
            "identity": np.zeros_like(shift),
        }.items()
    }
    right = [_pearson(x, y) for x, y in zip(groups.change, borrowed, strict=True)]
    return {**r2, "pearson_delta": float(groups.trust @ right)}


def _left_out(groups: Groups, ridge: float) -> np.ndarray:
    """Of each group, the change that the others make for it."""
    out = []
    for i, own in enumerate(groups.before):
        others = groups.without(i)
        out.append(convex_weights(own, others, ridge) @ others.change)
    return np.array(out)


def _explained(groups: Groups, found: np.ndarray) -> float:
    """Share of the squared change, each group weighing as in :func:`_sizes`."""
    share = _share(groups)
    whole = float(share @ (groups.change**2).sum(axis=1))
    left = float(share @ ((groups.change - found) ** 2).sum(axis=1))
    return 1 - left / whole if whole > 0 else 0.0


def _share(groups: Groups) -> np.ndarray:
    """By trust, in units of the variance over features."""
    own = ((groups.after - groups.after.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return np.asarray(groups.trust / np.where(own > 0, own, 1))


def _sizes(groups: Groups, found: np.ndarray) -> tuple[float, np.ndarray]:
    """Least squares over the left-out groups by trust; and, for each, over all others of them."""
    share = _share(groups)
    down = share * (found**2).sum(axis=1)
    up = share * (found * groups.change).sum(axis=1)
    whole, others = (
        np.clip(a / np.where(b > 0, b, np.inf), 0, _MOST)
        for a, b in ((up.sum(), down.sum()), (up.sum() - up, down.sum() - down))
    )
    return float(whole), others


def _r2(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Coefficient of determination of each row."""
    left = ((true - found) ** 2).sum(axis=1)
    whole = ((true - true.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return 1 - left / np.where(whole > 0, whole, 1)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if min(np.ptp(x), np.ptp(y)) > 0 else 0.0
