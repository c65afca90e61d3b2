"""Changes that training never showed for some cells, taken over from those most like them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from scgm_scvi.model.requests._conditions import ConditionSpec, Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.module import SCGM_KEYS

__all__ = ["Analogy", "AnalogyMixin"]

Tensors = dict[str, torch.Tensor]
_N_CELLS = 128  # generated of each group, to tell which are alike
_SCARCITY = 10.0  # a change known from n cells counts as 1 + 10 / sqrt(n) times as far


@dataclass(frozen=True)
class Analogy:
    r"""What stands in for cells whose target was never seen: other cells, before and after.

    A cell with attributes :math:`c` whose target never occurred is denoised by

    .. math:: D(x; c) + w\,\big(D(x; k_{target}) - D(x; k_{source})\big)

    with :math:`k` the attributes of the cells most like it that were seen both ways.

    Attributes
    ----------
    unseen
        Which cells need it, ``(n, 1)``, 0 or 1.
    own, source, target
        Attributes of the cells, and of their stand-ins before and after the change.
    scale
        Weight :math:`w` of the change.
    """

    unseen: torch.Tensor
    own: Mapping[str, torch.Tensor]
    source: Mapping[str, torch.Tensor]
    target: Mapping[str, torch.Tensor]
    scale: float

    def terms(self) -> list[tuple[float, Mapping[str, torch.Tensor]]]:
        """Weights and attributes of the estimates that make up the denoiser."""
        return [(1.0, self.own), (self.scale, self.target), (-self.scale, self.source)]

    def rows(self, rows: slice) -> Analogy:
        """Those of some cells."""
        ends = ({k: v[rows] for k, v in e.items()} for e in (self.own, self.source, self.target))
        return Analogy(self.unseen[rows], *ends, self.scale)


class AnalogyMixin:
    """Find the cells that stand in.

    Needs :class:`scgm_scvi.model.GenerationMixin`.
    """

    def _analogy(
        self, own: Tensors, target: Tensors, named: Collection[str], scale: float
    ) -> tuple[Analogy | None, dict[str, str]]:
        """Stand-ins for cells that are to become what training never showed, and their names.

        They differ from a cell in the attributes that are not ``named``, were seen with those of
        its target and with its own, and are nearest to it by mean log expression before the
        change, as the model generates both; the fewer they were, the farther they count. ``None``
        where all is known, or nothing stands in.
        """
        spec, key = self.condition_spec, SCGM_KEYS.CONDITIONS_KEY
        names = list(spec.categorical)
        before, after = own[key].numpy().copy(), target[key].numpy().copy()
        design = self.diffusion_design_["tokens"][:, : len(names)]
        free = np.array([name not in named for name in names], dtype=bool)
        unseen = np.zeros((len(before), 1))
        pairs, inverse = np.unique(
            np.concatenate([before, after], axis=1), axis=0, return_inverse=True
        )
        profiles: dict[bytes, np.ndarray] = {}
        described = {}
        for i, (a, b) in enumerate(pairs.reshape(len(pairs), 2, -1)):
            if not free.any() or _seen(design, b).any():
                continue
            known = _candidates(design, a, b, free)
            if not len(known):
                continue
            place = self._profile(a, profiles)
            distances = [np.linalg.norm(self._profile(k, profiles) - place) for k in known]
            scarce = 1 + _SCARCITY / np.sqrt(_sizes(design, known, b, free))
            nearest = known[int(np.argmin(distances * scarce))]
            rows = inverse.ravel() == i
            before[np.ix_(rows, free)] = after[np.ix_(rows, free)] = nearest[free]
            unseen[rows] = 1
            described[_written(spec, a, free)] = _written(spec, nearest, free)
        if not unseen.any():
            return None, {}
        source = {**own, key: torch.as_tensor(before)}
        towards = {**target, key: torch.as_tensor(after)}
        return Analogy(torch.as_tensor(unseen), own, source, towards, scale), described

    def _profile(self, tokens: np.ndarray, profiles: dict[bytes, np.ndarray]) -> np.ndarray:
        """Mean log expression of generated cells with these attributes; kept in ``profiles``."""
        if tokens.tobytes() not in profiles:
            spec = self.condition_spec
            request = Request(
                spec,
                np.tile(tokens, (_N_CELLS, 1)),
                np.full((_N_CELLS, len(spec.continuous)), np.nan, dtype=np.float32),
                np.zeros((_N_CELLS, len(spec.nuisances)), dtype=np.int64),
            )
            tensors = request.draw_nuisances(self.diffusion_design_, np.random.default_rng(0))
            generator = torch.Generator(device=self.device).manual_seed(0)
            state = self._sample_state(tensors, Sampling.parse(spec), generator)
            expression = self._express(state, tensors, "normalized", 0)
            profiles[tokens.tobytes()] = np.log1p(expression).mean(axis=0)
        return profiles[tokens.tobytes()]


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
