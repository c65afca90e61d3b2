"""Cells that a model remembers, as data to train on beside others."""

from __future__ import annotations

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model.requests._conditions import Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.verbs._generation import stacked
from scgm_scvi.train import Replay

__all__ = ["ReplayMixin"]

_N_REPLAYED = 4_000


class ReplayMixin:
    """Generate what was learnt before, and train on it again.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`, ``SamplingMixin`` and ``GenerationMixin``.
    """

    def _remembered(self, ratio: float, seed: int, n_cells: int | None = None) -> Replay:
        """Cells generated as the model is now, with the attributes of its training cells."""
        n_cells = _N_REPLAYED if n_cells is None else n_cells
        rng = np.random.default_rng(seed)
        generator = torch.Generator(device=self.device).manual_seed(seed)
        design, sampling = self.diffusion_design_, Sampling.parse(self.condition_spec)
        rows = rng.choice(len(design["tokens"]), n_cells)
        request = Request.of_design(self.condition_spec, design, rows)
        tensors = request.draw_nuisances(design, rng)
        states, x = [], []
        size = default_batch_size(len(self.var_))
        for start in range(0, n_cells, size):
            some = {k: v[start : start + size] for k, v in tensors.items()}
            states.append(self._sample_state(some, sampling, generator))
            x.append(self._express(states[-1], some, "counts", seed + start))
        x, state = stacked(x), torch.cat(states)
        if self.module.use_size_factor_key:
            tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = self.module.split_state(state)[1].exp().cpu()
        kept = np.asarray(abs(x).sum(axis=1)).ravel() > 0  # an empty cell has no log depth
        rows = torch.as_tensor(np.flatnonzero(kept))
        tensors = {k: v[rows] for k, v in tensors.items()}
        return Replay(x[kept], state.cpu()[rows], tensors, ratio, seed)
