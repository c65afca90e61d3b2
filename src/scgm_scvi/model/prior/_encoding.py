"""From cells to the states that stage two diffuses, and on to the noise they come from."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from scgm_scvi.diffusion import invert
from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.module import SCGM_KEYS

__all__ = ["EncodingMixin"]

Tensors = dict[str, torch.Tensor]
_ATTRIBUTES = (
    SCGM_KEYS.CONDITIONS_KEY,
    SCGM_KEYS.CONDITION_VALUES_KEY,
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
)


class EncodingMixin:
    """Attributes, states and noise of real cells.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`, ``SamplingMixin`` and ``SetupMixin``.
    """

    def _states(self, adata: AnnData) -> tuple[Tensors, torch.Tensor]:
        """Attributes and mean states of cells."""
        parts, states = [], []
        with self._registered(adata) as cells:
            for tensors in self._make_data_loader(
                adata=cells, batch_size=encoding_batch_size(len(self.var_))
            ):
                states.append(self.module.encode_state(tensors)[0])
                tokens, values = self.module.conditions(tensors)
                own = {SCGM_KEYS.CONDITIONS_KEY: tokens, SCGM_KEYS.CONDITION_VALUES_KEY: values}
                both = {**tensors, **own}
                parts.append({k: both[k] for k in _ATTRIBUTES if k in both})
        return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}, torch.cat(states)

    def _mean_latents(self, cells: AnnData) -> np.ndarray:
        """Posterior means of registered cells, as :meth:`generate` draws latents."""
        loader = self._make_data_loader(adata=cells, batch_size=encoding_batch_size(len(self.var_)))
        states = [self.module.encode_state(tensors)[0].cpu() for tensors in loader]
        return self.module.split_state(torch.cat(states))[0].numpy()

    def _inverted(self, tensors: Tensors, state: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """The noise that the cells come from, under their own conditions."""
        x = self.module.denoiser.standardize(state.to(self.device))
        return invert(self._denoise(tensors), x, self._sigmas(sampling)).x
