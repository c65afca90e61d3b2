"""How getters read cells with several modalities: which columns are whose."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from mudata import MuData

__all__ = ["Cells", "ModalityReadingMixin"]

Cells = MuData | AnnData | None


class ModalityReadingMixin:
    """What the getters of models with several modalities share.

    Needs ``MuDataMixin``.
    """

    def _range(self, modality: int) -> tuple[int, int]:
        ends = np.cumsum([0, *self.module.widths])
        return int(ends[modality]), int(ends[modality + 1])
