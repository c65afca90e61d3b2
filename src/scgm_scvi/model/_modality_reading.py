"""How getters read cells with several modalities: what they lack, and which columns are whose."""

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

    def _own(self, adata: Cells) -> tuple[Cells, list[str]]:
        """Cells, and the conditions that they have no columns for."""
        if adata is None:
            return None, []
        obs = self._obs(adata)
        return adata, [name for name in self.condition_spec.steered if name not in obs]

    def _range(self, block: int) -> tuple[int, int]:
        ends = np.cumsum([0, *self.module.blocks])
        return int(ends[block]), int(ends[block + 1])
