"""What training cells say of perturbations: log fold changes of groups over their controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._perturbations import Parts, Perturbations
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["PSEUDO", "MeasuredResponses", "Observed", "context_tokens", "measure_responses"]

PSEUDO = 1.0  # counts per 10,000 that are added: what is not expressed has no fold change
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
    r"""Responses of groups, :math:`\ln\frac{m_g + \kappa}{c_g + \kappa}` of mean counts per 10,000.

    Attributes
    ----------
    observed
        The groups.
    n_cells
        Cells of each, ``(n,)``.
    change
        Log fold changes ``(n, n_features)`` over control cells of the same context, and of the same
        batches as far as these have any.
    noise
        Standard deviation of one control cell in the same logarithm, ``(n_features,)``: a mean of
        :math:`n` cells has the variance ``noise**2 / n``.
    contexts
        Tokens of the other conditions, of each context.
    baselines
        Mean log1p of counts per 10,000 of the control cells, ``(n_contexts, n_features)``.
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
        self.n, self.share = 0, np.zeros(n_features)
        self.square, self.log = np.zeros(n_features), np.zeros(n_features)
        self.batches: dict[int, int] = {}

    def add(self, share: np.ndarray, batches: np.ndarray, is_control: bool) -> None:
        self.n += len(share)
        self.share += share.sum(axis=0, dtype=np.float64)
        for batch, n in zip(*np.unique(batches, return_counts=True), strict=True):
            self.batches[int(batch)] = self.batches.get(int(batch), 0) + int(n)
        if is_control:
            self.square += np.square(share, dtype=np.float64).sum(axis=0)
            self.log += np.log1p(share).sum(axis=0, dtype=np.float64)


def context_tokens(spec: ConditionSpec, tokens: np.ndarray) -> np.ndarray:
    """The other categorical conditions of cells, ``(n, n_categorical - 1)``."""
    assert spec.perturbations is not None
    return np.delete(tokens, spec.position(spec.perturbations.key), axis=1)


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
            share = module.proportions(module.features(tensors)).cpu().numpy()
        share = np.nan_to_num(share) * 1e4
        keys = np.column_stack([tokens, dose])
        for key, rows in _groups_of(keys).items():
            if key[position] == 0:
                continue
            parts, amount = names[int(key[position]) - 1], float(key[-1])
            context = tuple(int(t) for j, t in enumerate(key[:-1]) if j != position)
            if not parts or amount == 0:
                for b in np.unique(batch[rows]):
                    mine = rows[batch[rows] == b]
                    sums = controls.setdefault((context, int(b)), _Sums(n_features))
                    sums.add(share[mine], batch[mine], True)
                continue
            of = (parts, amount, context)
            groups.setdefault(of, _Sums(n_features)).add(share[rows], batch[rows], False)
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
    within = sum(s.square - s.share**2 / s.n for s in own) / sum(s.n - 1 for s in own)
    mean = pooled.share / pooled.n
    one = _one_count(pooled)  # a feature that no control cell shows may have one in the next
    variance = np.maximum(np.asarray(within), one * (mean + one / pooled.n))
    noise = np.sqrt(variance) / (mean + PSEUDO)
    change, confounded = [], set()
    for key in usable:
        sums, context = groups[key], key[2]
        expected, n_compared = np.zeros_like(mean), 0.0
        for batch, n in sums.batches.items():
            same = controls.get((context, batch))
            if same is None or same.n < _LEAST_CONTROLS:
                same = plain[context]
                if not any((c, batch) in controls for c in contexts):
                    confounded.add(perturbations.name(key[0]))
            expected += n / sums.n * same.share / same.n
            n_compared += n / sums.n * same.n
        found = sums.share / sums.n
        # the logarithm of a noisy mean falls short by half its variance
        short = noise**2 / 2 * (1 / sums.n - 1 / n_compared)
        change.append(np.log((found + PSEUDO) / (expected + PSEUDO)) + short.clip(-0.5, 0.5))
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


def _one_count(sums: _Sums) -> float:
    """About what one count is in counts per 10,000: variance over mean where counts are few."""
    mean = sums.share / sums.n
    some = mean > 0
    ratio = (sums.square[some] / sums.n - mean[some] ** 2) / mean[some]
    return float(np.quantile(ratio, 0.1)) if some.any() else 1.0


def _together(parts: Sequence[_Sums]) -> _Sums:
    out = _Sums(len(parts[0].share))
    for sums in parts:
        out.n += sums.n
        for name in ("share", "square", "log"):
            setattr(out, name, getattr(out, name) + getattr(sums, name))
    return out
