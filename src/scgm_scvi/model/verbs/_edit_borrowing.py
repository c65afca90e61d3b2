"""Edits to what training never showed of such cells: a response borrowed from other groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scgm_scvi.model.prior._borrowed_responses import BorrowedResponses, borrowed_responses
from scgm_scvi.model.prior._group_means import GroupMeans, measure_groups
from scgm_scvi.model.requests._attributes import Attributes

from ._moved_cells import MOST_MOVED, MovedCellsMixin, Moves
from ._verb import Run

__all__ = ["BorrowedEdit", "EditBorrowingMixin"]


@dataclass(frozen=True, eq=False)
class BorrowedEdit:
    """What borrowed responses make of cells, and who borrows from whom."""

    moves: Moves
    found: BorrowedResponses


class EditBorrowingMixin(MovedCellsMixin):
    """Learn what groups of cells are like, and borrow the responses of some for others."""

    def _learn_groups(
        self, minibatches: Iterable[Mapping[str, torch.Tensor]] | None = None
    ) -> None:
        """Keep the means of groups of cells; what a reference had stays known.

        Of one condition alone every category was seen, and nothing is to be borrowed.

        Parameters
        ----------
        minibatches
            As of ``_learn_responses``.
        """
        spec, design = self.condition_spec, self.fitted_.get("design")
        is_count_data = self._cells.setup.get("is_count_data", True)
        if len(spec.categorical) < 2 or not is_count_data or design is None:
            return
        shared = minibatches is not None
        read = self._minibatches(None) if minibatches is None else minibatches
        tokens = design["tokens"][:, : len(spec.categorical) + 1]
        groups = measure_groups(self.module, spec, read, tokens, shared=shared)
        if before := self.fitted_.get("reference_groups"):
            absent = self.var_.index.isin((self.fine_tuning_ or {}).get("missing", ()))
            groups.means[:, absent] = np.nan
            groups = GroupMeans(**before).joined(groups)
        self.fitted_["groups"] = groups.to_dict()

    def _groups(self) -> GroupMeans:
        """What groups of training cells are like; empty where nothing is known of any."""
        if "groups" not in self.fitted_ and self.adata is not None:
            self._learn_groups()
        known = self.fitted_.get("groups")
        n_conditions, n_features = len(self.condition_spec.categorical), len(self.var_)
        return GroupMeans.none(n_conditions, n_features) if known is None else GroupMeans(**known)

    def _borrow(
        self,
        adata: Any,
        own: Attributes,
        target: Attributes,
        named: Collection[str],
        scale: float,
        run: Run,
        n_draws: int = 0,
    ) -> BorrowedEdit:
        """The responses of cells that are to become what training never showed.

        Parameters
        ----------
        scale
            What changes are multiplied by.
        n_draws
            Other responses as likely, of how far borrowed ones were wrong of groups that are known.
        """
        groups, n_features = self._groups(), len(self.var_)
        design = self.prior.design["tokens"][:, : len(self.condition_spec.categorical)]

        def mean_of(rows: np.ndarray) -> np.ndarray:
            logs = torch.zeros(n_features, dtype=torch.float64)
            for tensors in self._minibatches(adata, indices=rows, batch_size=run.batch_size):
                share = self.module.proportions(self.module.features(tensors)).nan_to_num()
                logs += torch.log1p(share * 1e4).sum(dim=0, dtype=torch.float64).cpu()
            return logs.numpy() / len(rows)

        found = borrowed_responses(groups, design, own, target, named, mean_of)
        if not found.kinds:
            return BorrowedEdit(Moves.none(len(own), n_features, n_draws), found)
        rng = np.random.default_rng([run.seed, 1])
        means, draws = [], np.zeros((n_draws, len(found.kinds), n_features))
        for k, kind in enumerate(found.kinds):
            rows = np.flatnonzero(found.row == k)
            some = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_MOVED])
            loaded = self._minibatches(adata, indices=some, batch_size=run.batch_size)
            means.append(self._log_folds((t, Attributes.of(own.spec, t)) for t in loaded))
            draws[:, k] = kind.change
            if kind.rule is not None:
                draws[:, k] += rng.permutation(np.tile(kind.rule.errors, (n_draws, 1)))[:n_draws]
        changes = np.array([kind.change for kind in found.kinds])
        return BorrowedEdit(Moves.of(found.row, scale * changes, scale * draws, means), found)
