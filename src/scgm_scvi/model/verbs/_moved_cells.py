"""Cells whose own counts are moved, as far as expected expression changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from scgm_scvi.distributions import moved_counts
from scgm_scvi.model._random_state import torch_seed
from scgm_scvi.model.data._matrices import Matrix
from scgm_scvi.model.prior._log_folds import STAYS, LogFolds, with_move
from scgm_scvi.model.requests._attributes import Attributes

from ._verb import Verb

__all__ = ["MOST_MOVED", "MovedCells", "MovedCellsMixin", "Moves"]

MOST_MOVED = 128  # cells that tell how means and mean logarithms go together

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Moves:
    """How cells' expression is to be moved, as of :class:`LogFolds`.

    Attributes
    ----------
    row
        Which of the kinds each cell has, ``(n,)``; 0: none.
    kinds
        ``(n_kinds, 2, n_features)``, of which the first stays.
    draws
        The same as they may be as well, ``(n_draws, n_kinds, 2, n_features)``: how uncertain they are.
    """

    row: np.ndarray
    kinds: np.ndarray
    draws: np.ndarray

    @classmethod
    def none(cls, n: int, n_features: int, n_draws: int) -> Moves:
        """Of cells that stay."""
        stays = np.tile(STAYS, (1 + n_draws, 1, 1, n_features))
        return cls(np.zeros(n, dtype=int), stays[0], stays[1:])

    @classmethod
    def of(
        cls, row: np.ndarray, changes: np.ndarray, draws: np.ndarray, means: list[LogFolds]
    ) -> Moves:
        """Of changes of mean log expression ``(n_kinds, n_features)``; the row -1 has none of them."""
        each = np.concatenate([changes[None], draws])
        found = [[m.inverse(c) for m, c in zip(means, some, strict=True)] for some in each]
        stays = np.tile(STAYS, (len(each), 1, 1, changes.shape[1]))
        out = np.concatenate([stays, np.array(found)], axis=1)
        return cls(row + 1, out[0], out[1:])

    def joined(self, other: Moves) -> Moves:
        """One after the other."""
        pairs = np.stack([self.row, other.row], axis=1)
        both, row = np.unique(np.vstack([[[0, 0]], pairs]), axis=0, return_inverse=True)
        a, b = both.T
        return Moves(
            row.ravel()[1:],
            _after(self.kinds[a], other.kinds[b]),
            _after(self.draws[:, a], other.draws[:, b]),
        )

    def of_cells(self, rows: np.ndarray) -> Moves:
        """Those of some cells, in another order."""
        return Moves(self.row[rows], self.kinds, self.draws)

    def each(self) -> np.ndarray:
        """Of each cell, ``(n, 2, n_features)``."""
        return np.asarray(self.kinds[self.row])


def _after(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The move that does both."""
    (f, e), (g, d) = (np.moveaxis(move, -2, 0) for move in (first, second))
    return np.stack([f * g, e * g + d], axis=-2)


class MovedCells(NamedTuple):
    """Expected counts per 10,000 of some cells before and after, their counts and latents after."""

    before: np.ndarray
    after: np.ndarray
    counts: torch.Tensor
    latent: np.ndarray

    def expression(self, kind: str) -> Matrix:
        """What is handed back of them: ``"counts"``, or ``"normalized"``."""
        return self.after if kind == "normalized" else sparse.csr_matrix(self.counts.cpu().numpy())


class MovedCellsMixin(Verb):
    """Move the counts of cells."""

    def _moved(self, tensors: Tensors, own: Attributes, move: np.ndarray, seed: int) -> MovedCells:
        """Cells that are moved each in its own way, ``(n, 2, n_features)``."""
        prior, module = self.prior, self.module
        px = prior.decode(module.encode_state(tensors)[0], own)
        mean, x = px.mean, module.features(tensors).to(prior.device)
        size = module.modality_totals(mean)
        share = mean / size
        factor, excess = torch.as_tensor(np.moveaxis(move, -2, 0)).to(mean)
        with torch_seed(seed, prior.device):
            measured = module.modality_totals(x) > 0
            # what was not measured of a cell is drawn
            source = x if bool(measured.all()) else torch.where(measured, x, px.sample())
            counts = moved_counts(px, source, factor, excess * size / 1e4)
        # a cell without counts in a modality would not have been measured in it
        counts = torch.where(module.modality_totals(counts) == 0, source, counts)
        latent = prior.latents(module.encode_state(module.with_features(tensors, counts))[0])
        before, after = (p * 1e4 for p in (share, module.proportions(with_move(move, share))))
        return MovedCells(before.cpu().numpy(), after.cpu().numpy(), counts, latent)

    def _log_folds(self, cells: Iterable[tuple[Tensors, Attributes]]) -> LogFolds:
        """How far mean log expression of some cells moves with their means.

        Where there are few, cells like them are drawn besides: what one cell does not show may be
        there in its like.
        """
        module, prior, measured, n = self.module, self.prior, [], 0
        with torch.no_grad(), torch_seed(0, prior.device):
            for tensors, own in cells:
                px = prior.decode(module.encode_state(tensors)[0], own)
                x = module.features(tensors).to(prior.device)
                x = torch.where(module.modality_totals(x) > 0, x, px.sample())
                measured.append((px, x))
                n += len(x)
            drawn = [(px, px.sample()) for _ in range(MOST_MOVED // n - 1) for px, _ in measured]
            return LogFolds.of(module, [*measured, *drawn])
