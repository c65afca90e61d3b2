"""Cells as stage two sees them: encoded once, with their attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

__all__ = ["MAX_DESIGN_ROWS", "Encoded", "LatentTable", "encode_cells", "encode_minibatch"]

MAX_DESIGN_ROWS = 100_000
Minibatch = Mapping[str, torch.Tensor]


class Encoded(NamedTuple):
    """Cells as stage two sees them: their states' moments, their attributes."""

    mean: torch.Tensor
    variance: torch.Tensor
    design: dict[str, np.ndarray]


class LatentTable(NamedTuple):
    """What stage two trains on.

    Attributes
    ----------
    data
        A data module, given ``batch_size``, ``steps_per_epoch`` and ``seed``.
    n_cells
        To train on.
    design
        Attributes of training cells, from which those that a request leaves open are drawn.
    met
        For each categorical attribute the tokens that training cells have.
    """

    data: Callable[..., LightningDataModule]
    n_cells: int
    design: dict[str, np.ndarray]
    met: list[np.ndarray]


def encode_minibatch(
    module: Any, tensors: Minibatch
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Mean and variance of the cells' states, and their attributes; on the CPU."""
    mean, variance = module.encode_state(tensors)
    tokens, values = module.denoiser_conditions(tensors)
    numeric = tensors.get(REGISTRY_KEYS.CONT_COVS_KEY, torch.zeros(len(tokens), 0))
    design = {"tokens": tokens, "values": values, "numeric": numeric.float()}
    return mean.cpu(), variance.cpu(), design


def encode_cells(module: Any, minibatches: Iterable[Minibatch]) -> Encoded:
    """Mean and variance of every cell's state, and its conditions and nuisances.

    Raises
    ------
    ValueError
        If cells have no state, for want of counts.
    """
    means, variances, parts, measured = [], [], [], []
    for tensors in minibatches:
        mean, variance, attributes = encode_minibatch(module, tensors)
        means.append(mean)
        variances.append(variance)
        parts.append(attributes)
        if module.n_sizes > 1:
            measured.append(module.measured(module.features(tensors)).cpu())
    design = {k: torch.cat([p[k] for p in parts]).numpy() for k in parts[0]}
    mean, variance = torch.cat(means), torch.cat(variances)
    lost = int((~(mean.isfinite() & variance.isfinite()).all(dim=1)).sum())
    if lost:
        raise ValueError(
            f"{lost} of {len(mean)} cells have no finite latent or library size: cells without "
            "counts, or without a positive size factor. Leave them out."
        )
    if measured:
        mean, variance = _with_missing_sizes(module, mean, variance, torch.cat(measured))
    return Encoded(mean, variance, design)


def _with_missing_sizes(
    module: Any, mean: torch.Tensor, variance: torch.Tensor, measured: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of states whose unknown log sizes are as expected of cells that have them.

    Cells may have been measured in some of the modalities only, ``measured``
    ``(n, n_modalities)``; what they would have in the others is learnt from those that have both.
    """
    latent, log_sizes = module.split_state(mean)
    missing = module.missing_sizes.cpu()
    missing.fit(latent, log_sizes, measured)
    moments = module.completed(mean, variance, measured)
    missing.to(module.device)
    return moments
