"""Generative replay: cells that a model generates, as data to train on beside others."""

from __future__ import annotations

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model.data._matrices import stacked
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.train import Replay

__all__ = ["generate_replay"]

_N_REPLAYED = 4_000


def generate_replay(
    prior: LatentPrior, ratio: float, seed: int, n_cells: int | None = None
) -> Replay:
    """Cells generated as the model is now, with the attributes of its training cells."""
    n_cells = _N_REPLAYED if n_cells is None else n_cells
    module, rng, generator = prior.module, np.random.default_rng(seed), prior.generator(seed)
    sampling = Sampling.parse(prior.spec)
    rows = rng.choice(len(prior.design["tokens"]), n_cells)
    request = Request.of_design(prior.spec, prior.design, rows)
    attributes = request.draw_nuisances(prior.design, rng)
    states, x = [], []
    size = default_batch_size(sum(module.widths))
    for start in range(0, n_cells, size):
        some = attributes.rows(slice(start, start + size))
        states.append(prior.sample(some, sampling, generator))
        x.append(prior.express(states[-1], some, "counts", seed + start))
    counts, state = stacked(x), torch.cat(states)
    tensors = attributes.tensors
    if getattr(module, "use_size_factor_key", False):
        tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = module.split_state(state)[1].exp().cpu()
    kept = np.asarray(abs(counts).sum(axis=1)).ravel() > 0  # an empty cell has no log depth
    left = torch.as_tensor(np.flatnonzero(kept))
    tensors = {k: v[left] for k, v in tensors.items()}
    return Replay(counts[kept], state.cpu()[left], tensors, ratio, seed)
