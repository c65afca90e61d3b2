"""Changes that training never showed for some cells, taken over from those most like them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.requests._spec import ConditionSpec

from ._analogy import Analogy
from ._latent_prior import LatentPrior

__all__ = ["find_analogy"]

_N_CELLS = 128  # generated of each group, to tell which are alike
_SCARCITY = 10.0  # a change known from n cells counts as 1 + 10 / sqrt(n) times as far


def find_analogy(
    prior: LatentPrior, own: Attributes, target: Attributes, named: Collection[str], scale: float
) -> tuple[Analogy | None, dict[str, str]]:
    """Stand-ins for cells that are to become what training never showed, and their names.

    They differ from a cell in the attributes that are not ``named``, were seen with those of
    its target and with its own, and are nearest to it by mean log expression before the
    change, as the model generates both; the fewer they were, the farther they count. ``None``
    where all is known, or nothing stands in.
    """
    spec = prior.spec
    names = list(spec.categorical)
    before, after = own.tokens.numpy().copy(), target.tokens.numpy().copy()
    design = prior.design["tokens"][:, : len(names)]
    free = np.array([name not in named for name in names], dtype=bool)
    unseen = np.zeros((len(before), 1))
    pairs, inverse = np.unique(np.concatenate([before, after], axis=1), axis=0, return_inverse=True)
    profiles: dict[bytes, np.ndarray] = {}
    described = {}
    for i, (a, b) in enumerate(pairs.reshape(len(pairs), 2, -1)):
        if not free.any() or _seen(design, b).any():
            continue
        known = _candidates(design, a, b, free)
        if not len(known):
            continue
        place = _profile(prior, a, profiles)
        distances = [np.linalg.norm(_profile(prior, k, profiles) - place) for k in known]
        scarce = 1 + _SCARCITY / np.sqrt(_sizes(design, known, b, free))
        nearest = known[int(np.argmin(distances * scarce))]
        rows = inverse.ravel() == i
        before[np.ix_(rows, free)] = after[np.ix_(rows, free)] = nearest[free]
        unseen[rows] = 1
        described[_written(spec, a, free)] = _written(spec, nearest, free)
    if not unseen.any():
        return None, {}
    source = replace(own, tokens=torch.as_tensor(before))
    towards = replace(target, tokens=torch.as_tensor(after))
    return Analogy(torch.as_tensor(unseen), own, source, towards, scale), described


def _profile(
    prior: LatentPrior, tokens: np.ndarray, profiles: dict[bytes, np.ndarray]
) -> np.ndarray:
    """Mean log expression of generated cells with these attributes; kept in ``profiles``."""
    if tokens.tobytes() not in profiles:
        spec = prior.spec
        request = Request(
            spec,
            np.tile(tokens, (_N_CELLS, 1)),
            np.full((_N_CELLS, sum(spec.value_widths)), np.nan, dtype=np.float32),
            np.zeros((_N_CELLS, len(spec.nuisances)), dtype=np.int64),
        )
        attributes = request.draw_nuisances(prior.design, np.random.default_rng(0))
        state = prior.sample(attributes, Sampling.parse(spec), prior.generator(0))
        expression = prior.express(state, attributes, "normalized", 0)
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
