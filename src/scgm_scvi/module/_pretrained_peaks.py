"""scvi's modules of which peaks are open, with a denoiser, for models that are trained already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scvi import REGISTRY_KEYS
from scvi.module import PEAKVAE
from scvi.module.base import auto_move_data
from torch.distributions import Bernoulli, Distribution

from ._latent_diffusion import LatentDiffusionModuleMixin, Tensors, in_evaluation

__all__ = ["DiffusionPEAKVAE", "is_open", "logit_of_depth", "open_peaks", "scaled_logit"]

_EPS = 1e-6  # of depths, which have a logarithm on both sides
_NEVER = 1e-7  # in float32 as far from 1 as a probability can be


class DiffusionPEAKVAE(LatentDiffusionModuleMixin, PEAKVAE):
    r""":class:`scvi.module.PEAKVAE` with a denoiser; takes the same parameters.

    A peak :math:`j` is open with the probability :math:`p_j(z)\, d f_j`: the decoder's, times the
    depth of the cell and the factor of the region, all between 0 and 1. The size that a state ends
    with is :math:`\ln d - \ln(1 - d)`, so that whatever is generated is a depth. With
    ``model_depth=False`` there is none; the state's is 0 and changes nothing.

    Examples
    --------
    >>> from scgm_scvi.module import DiffusionPEAKVAE
    >>> module = DiffusionPEAKVAE(n_input_regions=100, n_latent=5)
    >>> module.init_denoiser(5, n_conditions=[3], n_condition_values=0, n_nuisances=[1])
    >>> module.denoiser.n_dims
    6
    """

    @property
    def widths(self) -> Sequence[int]:
        """The number of peaks."""
        return (self.n_input_regions,)

    def features(self, tensors: Tensors) -> torch.Tensor:
        """Which peaks are open, ``(n, n_features)``, 0 or 1."""
        return is_open(tensors[REGISTRY_KEYS.X_KEY])

    def scaled_sizes(self, log_size: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Sizes at ``depth`` times the depth, which is of their shape; no depth is above 1."""
        return scaled_logit(log_size, depth) if self.model_depth else log_size

    @in_evaluation
    @torch.inference_mode()
    @auto_move_data
    def encode_state(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, each ``(n, n_latent + 1)``, of the cells' states."""
        outputs = self.inference(**self._get_inference_input(tensors))
        qz = outputs["qz"]
        size = torch.zeros_like(qz.loc[:, :1])
        if self.model_depth:
            size = logit_of_depth(outputs["d"])
        mean = torch.cat([qz.loc, size], dim=1)
        return mean, torch.cat([qz.scale.square(), torch.zeros_like(size)], dim=1)

    @in_evaluation
    @auto_move_data
    def decode_state(self, state: torch.Tensor, tensors: Tensors) -> Distribution:
        """Distribution of the features of cells with ``state`` ``(n, n_latent + 1)``."""
        latent, size = self.split_state(state)
        latent = self.z_encoder.z_transformation(latent)
        outputs = self.generative(
            latent,
            latent,
            tensors[REGISTRY_KEYS.BATCH_KEY],
            tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        )
        depth = size.sigmoid() if self.model_depth else torch.ones_like(size)
        return open_peaks(outputs["px"], depth, self.region_factors)


def is_open(x: torch.Tensor) -> torch.Tensor:
    """1 where there is any count, as scvi-tools takes peaks."""
    return (x > 0).to(x.dtype)


def logit_of_depth(depth: torch.Tensor) -> torch.Tensor:
    """The size of a state, of a depth from 0 to 1."""
    return torch.logit(depth, eps=_EPS)


def scaled_logit(size: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The size at ``factor`` times the depth."""
    return logit_of_depth(size.sigmoid() * factor)


def open_peaks(
    probability: torch.Tensor, depth: torch.Tensor, region_factors: torch.Tensor | None
) -> Bernoulli:
    """Which peaks are open, of decoded probabilities and logits of the regions' factors."""
    probs = probability * depth
    if region_factors is not None:
        probs = probs * region_factors.sigmoid()
    return Bernoulli(probs=probs.clamp(_NEVER, 1 - _NEVER))
