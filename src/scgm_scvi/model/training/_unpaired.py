"""Cells that were measured in some of the modalities only."""

from __future__ import annotations

import numpy as np
import torch

from ._diffusion import Encoded

__all__ = ["UnpairedMixin"]


class UnpairedMixin:
    """Stage two of cells that lack a modality, and so the log size that they would have in it.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`, ``MuDataMixin`` and a
    :class:`scgm_scvi.module.MultimodalVAE`.
    """

    def _encode_cells(self) -> Encoded:
        """As of cells that have all modalities; unknown log sizes are as expected of such cells."""
        cells = super()._encode_cells()
        matrices = self._matrices(self.adata).values()
        sizes = [np.asarray(x.sum(axis=1)).ravel() for x in matrices]
        measured = torch.as_tensor(np.stack(sizes, axis=1) > 0)
        module = self.module
        latent, log_sizes = module.split_state(cells.mean)
        missing = module.missing_sizes.cpu()
        missing.fit(latent, log_sizes, measured)
        mean, variance = module.completed(cells.mean, cells.variance, measured)
        missing.to(self.device)
        return Encoded(mean, variance, cells.design)
