"""How getters read cells with several modalities: which columns are whose."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from mudata import MuData

from scgm_scvi.model.data._mudata_cells import MuDataCells
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

__all__ = ["Cells", "ModalityReadingMixin"]

Cells = MuData | AnnData | None


class ModalityReadingMixin(LatentDiffusionMixin):
    """What the getters of models with several modalities share."""

    _cells: MuDataCells

    def _range(self, modality: int) -> tuple[int, int]:
        ends = np.cumsum([0, *self.module.widths])
        return int(ends[modality]), int(ends[modality + 1])
