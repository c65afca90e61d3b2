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

    .. math:: D(x; c) + \sum_k w_k \big(D(x; k_{target}) - D(x; k_{source})\big)

    with :math:`k` the attributes of groups that were seen both ways.

    Attributes
    ----------
    unseen
        Which cells need it, ``(n, 1)``, 0 or 1.
    own
        Attributes of the cells.
    weights
        Of each cell for each group, ``(n, n_groups)``, size included.
    sources, targets
        Attributes of the groups before and after the change, for each a row a cell.
    """

    unseen: torch.Tensor
    own: Attributes
    weights: torch.Tensor
    sources: tuple[Attributes, ...]
    targets: tuple[Attributes, ...]

    def terms(self) -> list[tuple[torch.Tensor | float, Attributes]]:
        """Weights and attributes of the estimates that make up the denoiser."""
        out: list[tuple[torch.Tensor | float, Attributes]] = [(1.0, self.own)]
        columns = self.weights.T[:, :, None]
        for weight, source, target in zip(columns, self.sources, self.targets, strict=True):
            out += [(weight, target), (-weight, source)]
        return out

    def rows(self, rows: slice | torch.Tensor) -> Analogy:
        """Those of some cells."""
        return Analogy(
            self.unseen[rows],
            self.own.rows(rows),
            self.weights[rows],
            tuple(a.rows(rows) for a in self.sources),
            tuple(a.rows(rows) for a in self.targets),
        )
