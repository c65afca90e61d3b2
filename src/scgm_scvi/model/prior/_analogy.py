"""Cells that stand in for a change that training never showed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scgm_scvi.model.requests._attributes import Attributes

__all__ = ["Analogy"]


@dataclass(frozen=True)
class Analogy:
    r"""What stands in for cells whose target was never seen: other cells, before and after.

    A cell with attributes :math:`c` whose target never occurred is denoised by

    .. math:: D(x; c) + w\,\big(D(x; k_{target}) - D(x; k_{source})\big)

    with :math:`k` the attributes of the cells most like it that were seen both ways.

    Attributes
    ----------
    unseen
        Which cells need it, ``(n, 1)``, 0 or 1.
    own, source, target
        Attributes of the cells, and of their stand-ins before and after the change.
    scale
        Weight :math:`w` of the change.
    """

    unseen: torch.Tensor
    own: Attributes
    source: Attributes
    target: Attributes
    scale: float

    def terms(self) -> list[tuple[float, Attributes]]:
        """Weights and attributes of the estimates that make up the denoiser."""
        return [(1.0, self.own), (self.scale, self.target), (-self.scale, self.source)]

    def rows(self, rows: slice | torch.Tensor) -> Analogy:
        """Those of some cells."""
        own, source, target = (end.rows(rows) for end in (self.own, self.source, self.target))
        return Analogy(self.unseen[rows], own, source, target, self.scale)
