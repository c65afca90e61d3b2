"""What training cells say of perturbations: how mean log expression of groups differs from controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._perturbations import Parts, Perturbations
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["MeasuredResponses", "Observed", "measure_responses"]

_LEAST_CONTROLS = 3  # of a batch or context, for a mean to compare with
_LEAST_CELLS = 2
_MOST = 2000  # groups; the largest are kept

Context = tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """Which group of cells: what was done, at which dose, in which context."""

    parts: Parts
    dose: float
    context: int


@dataclass(frozen=True, eq=False)
class MeasuredResponses:
    """Responses of groups: changes of mean log1p of counts per 10,000.

    Attributes
    ----------
    observed
        The groups.
    n_cells
        Cells of each, ``(n,)``.
    change
        Changes ``(n, n_features)`` against control cells of the same context, and of the same
        batches as far as these have any.
    noise
        Standard deviation of one control cell, ``(n_features,)``: a mean of :math:`n` cells has the
        variance ``noise**2 / n``.
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
    noise: np.ndarray
    contexts: list[Context]
    baselines: np.ndarray
    left_out: list[Context] = field(default_factory=list)
    confounded: list[str] = field(default_factory=list)


class _Sums:
    """Sums over cells of what means and deviations are made of."""

    def __init__(self, n_features: int) -> None:
        self.n, self.one = 0, 0.0
        self.log, self.square = np.zeros(n_features), np.zeros(n_features)
        self.batches: dict[int, int] = {}

    def add(self, log: np.ndarray, one: np.ndarray, batches: np.ndarray) -> None:
        """Cells by the logarithms of their features, and of what one count is."""
        self.n += len(log)
        self.one += float(one.sum())
        self.log += log.sum(axis=0, dtype=np.float64)
        self.square += np.square(log, dtype=np.float64).sum(axis=0)
        for batch, n in zip(*np.unique(batches, return_counts=True), strict=True):
            self.batches[int(batch)] = self.batches.get(int(batch), 0) + int(n)


def measure_responses(
    module: LatentDiffusionModule,
    spec: ConditionSpec,
    minibatches: Iterable[Mapping[str, torch.Tensor]],
) -> MeasuredResponses:
    """Read cells once, and compare those that something was done to with their controls.

    Cells whose perturbation is unspecified say nothing. A dose of zero makes a control of a cell.
    """
    perturbations = spec.perturbations
    assert perturbations is not None
    position = spec.position(perturbations.key)
    names = [perturbations.parts(c) for c in spec.categorical[perturbations.key]]
    groups: dict[tuple[Parts, float, Context], _Sums] = {}
    controls: dict[tuple[Context, int], _Sums] = {}
    n_features = sum(module.widths)
    for tensors in minibatches:
        own = Attributes.of(spec, tensors)
        tokens, batch = own.tokens.numpy(), own.batch.numpy().ravel().astype(int)
        dose = _doses(perturbations, own)
        with torch.no_grad():
            x = module.features(tensors)
            log = torch.log1p(module.proportions(x).nan_to_num() * 1e4).cpu().numpy()
            one = torch.log1p(1e4 / module.modality_totals(x).clamp(min=1)).cpu().numpy()
        one = one.reshape(len(x), -1).mean(axis=1)
        for key, rows in _groups_of(np.column_stack([tokens, dose])).items():
            if key[position] == 0:
                continue
            parts, amount = names[int(key[position]) - 1], float(key[-1])
            context = tuple(int(t) for j, t in enumerate(key[:-1]) if j != position)
            if parts and amount > 0:
                sums = groups.setdefault((parts, amount, context), _Sums(n_features))
                sums.add(log[rows], one[rows], batch[rows])
                continue
            for b in np.unique(batch[rows]):
                mine = rows[batch[rows] == b]
                sums = controls.setdefault((context, int(b)), _Sums(n_features))
                sums.add(log[mine], one[mine], batch[mine])
    return _compared(perturbations, groups, controls)


def _doses(perturbations: Perturbations, own: Attributes) -> np.ndarray:
    """Of each cell; 1 where there are none, or one is missing."""
    if perturbations.dose_key is None:
        return np.ones(len(own))
    column = own.spec.value_columns[perturbations.dose_key]
    return np.nan_to_num(own.values[:, column].numpy().ravel().astype(np.float64), nan=1.0)


def _groups_of(keys: np.ndarray) -> dict[tuple[float, ...], np.ndarray]:
    patterns, inverse = np.unique(keys, axis=0, return_inverse=True)
    return {
        tuple(pattern): np.flatnonzero(inverse.ravel() == i) for i, pattern in enumerate(patterns)
    }


def _compared(
    perturbations: Perturbations,
    groups: Mapping[tuple[Parts, float, Context], _Sums],
    controls: Mapping[tuple[Context, int], _Sums],
) -> MeasuredResponses:
    of_contexts = {
        c: _together([s for (k, _), s in controls.items() if k == c]) for c, _ in controls
    }
    plain = {c: s for c, s in of_contexts.items() if s.n >= _LEAST_CONTROLS}
    left_out = sorted({c for _, _, c in groups if c not in plain})
    usable = [k for k, s in groups.items() if k[2] in plain and s.n >= _LEAST_CELLS]
    usable = sorted(sorted(usable, key=lambda k: -groups[k].n)[:_MOST], key=_order)
    contexts = sorted(plain)
    pooled = _together(list(plain.values())) if plain else None
    if pooled is None or not usable:
        return MeasuredResponses(
            [], np.zeros(0), np.zeros((0, 0)), np.ones(0), [], np.zeros((0, 0))
        )
    own = [s for s in plain.values() if s.n > 1]
    within = sum(s.square - s.log**2 / s.n for s in own) / sum(s.n - 1 for s in own)
    # a feature that no control cell shows may have a count in the next
    noise = np.sqrt(np.maximum(np.asarray(within), (pooled.one / pooled.n) ** 2 / pooled.n))
    change, confounded = [], set()
    for key in usable:
        sums, context = groups[key], key[2]
        expected = np.zeros_like(noise)
        for batch, n in sums.batches.items():
            same = controls.get((context, batch))
            if same is None or same.n < _LEAST_CONTROLS:
                same = plain[context]
                if not any((c, batch) in controls for c in contexts):
                    confounded.add(perturbations.name(key[0]))
            expected += n / sums.n * same.log / same.n
        change.append(sums.log / sums.n - expected)
    return MeasuredResponses(
        [Observed(parts, dose, contexts.index(c)) for parts, dose, c in usable],
        np.array([groups[key].n for key in usable], dtype=np.float64),
        np.array(change),
        noise,
        contexts,
        np.array([plain[c].log / plain[c].n for c in contexts]),
        left_out,
        sorted(confounded),
    )


def _order(key: tuple[Parts, float, Context]) -> tuple:
    return key[2], key[0], key[1]


def _together(parts: Sequence[_Sums]) -> _Sums:
    out = _Sums(len(parts[0].log))
    for sums in parts:
        out.n += sums.n
        for name in ("one", "log", "square"):
            setattr(out, name, getattr(out, name) + getattr(sums, name))
    return out
