"""Edits that only move cells' own counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scgm_scvi.model.prior._log_folds import STAYS, with_move
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._interventions import Intervention

from ._edit_record import EditedPart
from ._moved_cells import MovedCellsMixin, Moves
from ._verb import Run

__all__ = ["MovedEditMixin"]


class MovedEditMixin(MovedCellsMixin):
    """Move the counts of cells to which nothing else is done."""

    def _edited_by_moves(
        self,
        adata: Any,
        rows: np.ndarray,
        own: Attributes,
        moves: Moves,
        preserved: Intervention | None,
        expression: str,
        run: Run,
    ) -> Iterator[EditedPart]:
        """Some of the cells, with attributes and moves of their own; ``preserved`` features stay."""
        if preserved is not None:
            kinds, draws = moves.kinds.copy(), moves.draws.copy()
            for some in (kinds, draws):
                some[..., list(preserved.columns)] = STAYS
            moves = replace(moves, kinds=kinds, draws=draws)
        loaded = self._minibatches(adata, indices=rows, batch_size=run.batch_size)
        for (i, part), tensors in zip(run.chunks(len(rows)), loaded, strict=True):
            row, seed = moves.row[part], int(run.seeds(i, 1)[0] >> 1)
            attributes = own.rows(torch.arange(len(rows))[part])
            moved = self._moved(tensors, attributes, moves.kinds[row], seed)
            after = _kept(moved.after, moved.before, preserved)
            before = torch.as_tensor(moved.before / 1e4)
            logs = [
                np.log1p(_kept(self._expected(before, draw[row]), moved.before, preserved))
                for draw in moves.draws
            ]
            yield EditedPart.of(
                after if expression == "normalized" else moved.expression(expression),
                moved.latent,
                moved.before,
                after,
                np.log1p(after) - np.log1p(moved.before),
                _spread(logs, len(after)),
            )

    def _expected(self, share: torch.Tensor, move: np.ndarray) -> np.ndarray:
        """Expected counts per 10,000 of cells once they are moved."""
        return (self.module.proportions(with_move(move, share)) * 1e4).cpu().numpy()


def _kept(after: np.ndarray, before: np.ndarray, preserved: Intervention | None) -> np.ndarray:
    """Expression with that of preserved features as it was."""
    if preserved is None:
        return after
    shares = (torch.as_tensor(x / 1e4) for x in (after, before))
    return np.asarray(preserved.apply(*shares).numpy() * 1e4)


def _spread(logs: list[np.ndarray], n: int) -> np.ndarray:
    """Root mean square distance of samples from their mean, ``(n,)``; NaN without any."""
    if not logs:
        return np.full(n, np.nan)
    mean = sum(logs) / len(logs)
    squares = sum(((log - mean) ** 2).sum(axis=1) for log in logs)
    return np.asarray(np.sqrt(squares / max(1, len(logs) - 1)))
