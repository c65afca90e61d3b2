"""Mean log expression of groups of cells: as measured, or as the model generates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling

from ._encoding import Minibatches
from ._latent_prior import LatentPrior

__all__ = ["LEAST_CELLS", "Profiles"]

LEAST_CELLS = 10  # measured, for a mean that tells a response
_N_GENERATED = 128

ReadCells = Callable[[], Minibatches]


class Profiles:
    """Means by the tokens of a group, of training cells or of generated ones; each is computed once.

    Parameters
    ----------
    prior
        Generates cells of a group.
    training_cells
        A function that reads them in minibatches; ``ValueError`` where there are none.
    """

    def __init__(self, prior: LatentPrior, training_cells: ReadCells | None = None) -> None:
        self.prior, self._read = prior, training_cells
        self._generated: dict[bytes, np.ndarray] = {}
        self._sums: dict[bytes, tuple[np.ndarray, int]] | None = None

    def n_measured(self, groups: Iterable[np.ndarray]) -> np.ndarray:
        """Training cells of each group that are at hand."""
        if self._sums is None:
            self._sums = self._measure()
        return np.array([self._sums.get(g.tobytes(), (None, 0))[1] for g in groups])

    def measured(self, groups: Iterable[np.ndarray]) -> np.ndarray:
        """Means ``(n_groups, n_features)`` of log1p of counts per 10,000 of training cells."""
        sums = self._sums or {}
        return np.array([sums[g.tobytes()][0] / sums[g.tobytes()][1] for g in groups])

    def generated(self, groups: Iterable[np.ndarray]) -> np.ndarray:
        """Means of log1p of expected counts per 10,000 of generated cells."""
        return np.array([self._generate(g) for g in groups])

    def _measure(self) -> dict[bytes, tuple[np.ndarray, int]]:
        sums: dict[bytes, tuple[np.ndarray, int]] = {}
        if self._read is None:
            return sums
        module, spec = self.prior.module, self.prior.spec
        try:
            for tensors in self._read():
                tokens = Attributes.of(spec, tensors).tokens.numpy()
                with torch.no_grad():
                    share = module.proportions(module.features(tensors)).cpu().numpy()
                log = np.log1p(np.nan_to_num(share) * 1e4)
                groups, rows = np.unique(tokens, axis=0, return_inverse=True)
                for i, group in enumerate(groups):
                    mine = log[rows.ravel() == i].astype(np.float64)
                    total, n = sums.get(group.tobytes(), (0.0, 0))
                    sums[group.tobytes()] = (total + mine.sum(axis=0), n + len(mine))
        except ValueError:  # a model without cells, or with others by now
            return {}
        return sums

    def _generate(self, tokens: np.ndarray) -> np.ndarray:
        key = tokens.tobytes()
        if key not in self._generated:
            prior, spec, n = self.prior, self.prior.spec, _N_GENERATED
            request = Request(
                spec,
                np.tile(tokens, (n, 1)),
                np.full((n, sum(spec.value_widths)), np.nan, dtype=np.float32),
                np.zeros((n, len(spec.nuisances)), dtype=np.int64),
            )
            attributes = request.draw_nuisances(prior.design, np.random.default_rng(0))
            state = prior.sample(attributes, Sampling.parse(spec), prior.generator(0))
            expression = prior.express(state, attributes, "normalized", 0)
            self._generated[key] = np.log1p(expression).mean(axis=0)
        return self._generated[key]
