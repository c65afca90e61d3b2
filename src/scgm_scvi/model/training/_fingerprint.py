"""Hashes of weights, by which what was fitted to a model is known to be its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

__all__ = ["stage_one_fingerprint", "weights_fingerprint"]


def weights_fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of weights and their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def stage_one_fingerprint(module: torch.nn.Module) -> str:
    """Hash of all weights but the denoiser's."""
    own = {k: v for k, v in module.state_dict().items() if not k.startswith("denoiser.")}
    return weights_fingerprint(own)
