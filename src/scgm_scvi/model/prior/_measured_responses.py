"""What training cells say of perturbations: how mean log expression of groups differs from controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from scgm_scvi._perturbations import Parts, Perturbations
from scgm_scvi._processes import gathered
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

from ._group_sums import GroupSums, balanced, of_all_processes, together

__all__ = [
    "LEAST_CONTROLS",
    "MeasuredResponses",
    "Observed",
    "in_all_modalities",
    "measure_responses",
    "noise_covariance",
]

LEAST_CONTROLS = 3  # of a batch or context, for a mean to compare with
_LEAST_CELLS = 2  # for halves
_MOST = 2000  # groups; the largest are kept
_ELSEWHERE = 0.6  # share of a group's cells that batches hold beyond those of its controls

Context = tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """Which group of cells: what was done, at which dose, in which context."""

    parts: Parts
    dose: float
    context: int


@dataclass(frozen=True, eq=False)
class MeasuredResponses:
    r"""Responses of groups: changes of mean log1p of counts per 10,000.

    The sampling noise of the changes has the covariance :attr:`covariance` over groups, in units of
    ``noise**2`` of each feature. Groups that are compared with the same controls share theirs.

    Attributes
    ----------
    observed
        The groups.
    n_cells
        Cells of each, ``(n,)``.
    change
        Changes ``(n, n_features)`` against control cells of the same context, and of the same
        batches as far as these have any.
    halves
        The same of every other cell, and of those in between: ``(2, n, n_features)``. What both show
        is no noise.
    pools
        Weights of pools of controls in what each group is compared with, over the root of their
        cells: ``(n, n_pools)``.
    noise
        Standard deviation of one cell within its group, ``(n_features,)``.
    contexts
        Tokens of the other conditions, of each context.
    baselines
        Means of the control cells, ``(n_contexts, n_features)``.
    left_out
        Contexts with perturbed cells and no control cells.
    confounded
        Perturbations in batches of which no cell is a control.
    """

    observed: list[Observed]
    n_cells: np.ndarray
    change: np.ndarray
    halves: np.ndarray
    pools: np.ndarray
    noise: np.ndarray
    contexts: list[Context]
    baselines: np.ndarray
    left_out: list[Context] = field(default_factory=list)
    confounded: list[str] = field(default_factory=list)

    @property
    def covariance(self) -> np.ndarray:
        """Of the noise of the changes ``(n, n)``."""
        return noise_covariance(self.n_cells, self.pools)

    def whitened(self, change: np.ndarray) -> np.ndarray:
        """Changes in units of their noise, which is made independent over groups."""
        root = np.linalg.cholesky(self.covariance)
        return np.linalg.solve(root, change / self.noise)

    def half(self, i: int) -> MeasuredResponses:
        """What one half of the cells says."""
        pools = self.pools * np.sqrt(2)
        return replace(self, change=self.halves[i], n_cells=self.n_cells / 2, pools=pools)


def noise_covariance(n_cells: np.ndarray, pools: np.ndarray) -> np.ndarray:
    """Of the noise of the changes of groups ``(n, n)``, by their cells and their controls."""
    return np.diag(1 / n_cells) + pools @ pools.T


def measure_responses(
    module: LatentDiffusionModule,
    spec: ConditionSpec,
    minibatches: Iterable[Mapping[str, torch.Tensor]],
    *,
    shared: bool = False,
) -> MeasuredResponses:
    """Read cells once, and compare those that something was done to with their controls.

    Cells whose perturbation or its dose is unspecified say nothing, nor do those that were not
    measured in all modalities. A dose of zero makes a control of a cell.

    Parameters
    ----------
    shared
        Whether each process of a distributed run reads a share of the cells. All then measure the
        same, of all of them.
    """
    perturbations = spec.perturbations
    assert perturbations is not None
    position = spec.position(perturbations.key)
    names = [perturbations.parts(c) for c in spec.categorical[perturbations.key]]
    groups: dict[tuple[Parts, float, Context], GroupSums] = {}
    controls: dict[tuple[Context, int], GroupSums] = {}
    n_features = sum(module.widths)
    squares = np.zeros(n_features)
    for tensors in minibatches:
        own = Attributes.of(spec, tensors)
        tokens, batch = own.tokens.numpy().copy(), own.batch.numpy().ravel().astype(int)
        dose = _doses(perturbations, own)
        with torch.no_grad():
            x = module.features(tensors)
            log = torch.log1p(module.proportions(x).nan_to_num() * 1e4).cpu().numpy()
            one = torch.log1p(1e4 / module.modality_totals(x).clamp(min=1)).cpu().numpy()
            tokens[~in_all_modalities(module, x), position] = 0
        one = one.reshape(len(x), -1).mean(axis=1)
        for key, rows in _groups_of(np.column_stack([tokens, dose])).items():
            if key[position] == 0:
                continue
            parts, amount = names[int(key[position]) - 1], float(key[-1])
            context = tuple(int(t) for j, t in enumerate(key[:-1]) if j != position)
            if parts and amount < 0:
                continue
            squares += np.square(log[rows], dtype=np.float64).sum(axis=0)
            if parts and amount > 0:
                sums = groups.setdefault((parts, amount, context), GroupSums(n_features))
                sums.add(log[rows], one[rows], batch[rows])
                continue
            for b in np.unique(batch[rows]):
                mine = rows[batch[rows] == b]
                sums = controls.setdefault((context, int(b)), GroupSums(n_features))
                sums.add(log[mine], one[mine], batch[mine])
    if shared:
        groups, controls = of_all_processes(groups), of_all_processes(controls)
        squares = np.sum(gathered(squares), axis=0)
    return _compared(perturbations, groups, controls, squares)


def in_all_modalities(module: LatentDiffusionModule, x: torch.Tensor) -> np.ndarray:
    """Which cells have counts ``x`` ``(n, n_features)`` in each modality, where there are several."""
    if len(module.widths) == 1:
        return np.ones(len(x), dtype=bool)
    return (module.modality_totals(x) > 0).all(dim=1).cpu().numpy()


def _doses(perturbations: Perturbations, own: Attributes) -> np.ndarray:
    """Of each cell: 1 where cells have none, -1 where one is missing."""
    if perturbations.dose_key is None:
        return np.ones(len(own))
    column = own.spec.value_columns[perturbations.dose_key]
    return np.nan_to_num(own.values[:, column].numpy().ravel().astype(np.float64), nan=-1.0)


def _groups_of(keys: np.ndarray) -> dict[tuple[float, ...], np.ndarray]:
    patterns, inverse = np.unique(keys, axis=0, return_inverse=True)
    return {
        tuple(pattern): np.flatnonzero(inverse.ravel() == i) for i, pattern in enumerate(patterns)
    }


def _compared(
    perturbations: Perturbations,
    groups: Mapping[tuple[Parts, float, Context], GroupSums],
    controls: Mapping[tuple[Context, int], GroupSums],
    squares: np.ndarray,
) -> MeasuredResponses:
    controls = _balanced(controls)
    of_contexts = {
        c: together([s for (k, _), s in controls.items() if k == c]) for c, _ in controls
    }
    plain = {c: s for c, s in of_contexts.items() if s.total >= LEAST_CONTROLS}
    left_out = sorted({c for _, _, c in groups if c not in plain})
    usable = [k for k, s in groups.items() if k[2] in plain and s.total >= _LEAST_CELLS]
    largest = sorted(usable, key=lambda k: (-groups[k].total, _order(k)))[:_MOST]
    usable = sorted(largest, key=_order)
    contexts = sorted(plain)
    if not usable:
        none = np.zeros((0, 0))
        return MeasuredResponses(
            [], np.zeros(0), none, np.zeros((2, 0, 0)), none, np.ones(0), [], none, left_out
        )
    # controls of the same batch where there are enough, else all of the context
    pools = {key: s for key, s in controls.items() if key[0] in plain and s.total >= LEAST_CONTROLS}
    whole = {(c, None): s for c, s in plain.items()}
    column = {key: j for j, key in enumerate([*pools, *whole])}
    every: dict[Any, GroupSums] = {**pools, **whole}
    weights = np.zeros((len(usable), len(column)))
    confounded = set()
    for i, key in enumerate(usable):
        sums, context = groups[key], key[2]
        elsewhere = 0.0
        for batch, n in sums.batches.items():
            share = n / sums.total
            if (context, batch) in pools:
                weights[i, column[context, batch]] += share
                continue
            weights[i, column[context, None]] += share
            of_controls = plain[context].batches.get(batch, 0) / plain[context].total
            known = any((c, batch) in pools for c in contexts)
            elsewhere += 0.0 if known else max(0.0, share - of_controls)
        if elsewhere > _ELSEWHERE:
            confounded.add(perturbations.name(key[0]))
    used = np.flatnonzero(weights.any(axis=0))
    weights, sums_of = weights[:, used], [list(every.values())[j] for j in used]
    own = np.array([groups[key].means for key in usable])
    theirs = np.array([s.means for s in sums_of])
    change = np.array([groups[key].mean for key in usable])
    return MeasuredResponses(
        [Observed(parts, dose, contexts.index(c)) for parts, dose, c in usable],
        np.array([groups[key].total for key in usable], dtype=np.float64),
        change - weights @ np.array([s.mean for s in sums_of]),
        np.stack([own[:, h] - weights @ theirs[:, h] for h in (0, 1)]),
        weights / np.sqrt([s.total for s in sums_of]),
        _deviation([*groups.values(), *of_contexts.values()], squares),
        contexts,
        np.array([plain[c].mean for c in contexts]),
        left_out,
        sorted(confounded),
    )


def _balanced(
    controls: Mapping[tuple[Context, int], GroupSums],
) -> dict[tuple[Context, int], GroupSums]:
    """Pools of controls whose halves are halves of their contexts, too."""
    out: dict[tuple[Context, int], GroupSums] = {}
    for context in dict.fromkeys(c for c, _ in controls):
        keys = [key for key in controls if key[0] == context]
        out |= zip(keys, balanced([controls[key] for key in keys]), strict=True)
    return out


def _deviation(groups: Sequence[GroupSums], squares: np.ndarray) -> np.ndarray:
    """Of one cell, within groups; ``squares`` are summed over all of them."""
    n = sum(s.total for s in groups)
    within = squares - sum(s.total * s.mean**2 for s in groups)
    one = sum(s.one for s in groups) / n
    # a feature that no cell shows may have a count in the next
    return np.sqrt(np.maximum(np.asarray(within) / (n - len(groups)), one**2 / n))


def _order(key: tuple[Parts, float, Context]) -> tuple:
    return key[2], key[0], key[1]
