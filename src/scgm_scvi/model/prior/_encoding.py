"""From cells to the states that stage two diffuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from scgm_scvi.model.requests._attributes import Attributes

from ._latent_prior import LatentPrior

__all__ = ["encode", "mean_latents"]

Minibatches = Iterable[Mapping[str, torch.Tensor]]


def encode(prior: LatentPrior, minibatches: Minibatches) -> tuple[Attributes, torch.Tensor]:
    """Attributes and mean states ``(n, n_latent + n_sizes)`` of cells."""
    attributes, states = [], []
    for tensors in minibatches:
        states.append(prior.module.encode_state(tensors)[0])
        attributes.append(Attributes.of(prior.spec, tensors))
    return Attributes.joined(attributes), torch.cat(states)


def mean_latents(prior: LatentPrior, minibatches: Minibatches) -> np.ndarray:
    """Posterior means of the latents of cells, as ``generate`` draws latents."""
    states = [prior.module.encode_state(tensors)[0].cpu() for tensors in minibatches]
    return prior.latents(torch.cat(states))
