"""Edits of cells by networks, with what is set of their expression in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scgm_scvi.model.prior._edited_states import Edit, EditedCells, edited
from scgm_scvi.model.prior._log_folds import with_move
from scgm_scvi.model.requests._interventions import Intervention

from ._edit_record import EditedPart
from ._verb import Verb

__all__ = ["NetworkEditMixin"]


class NetworkEditMixin(Verb):
    """Edit some cells at a time."""

    def _edited_part(
        self,
        cells: EditedCells,
        edit: Edit,
        intervention: Intervention | None,
        expression: str,
        seeds: np.ndarray,
        move: np.ndarray | None = None,
    ) -> EditedPart:
        """Edit some cells, once for each seed; ``move`` is of responses that come to it."""
        prior = self.prior
        before = prior.express(cells.state, cells.own, "normalized", 0)
        attributes = cells.target if edit.strength > 0 else cells.own
        source = torch.as_tensor(before / 1e4)
        if intervention is not None and edit.strength > 0:
            energy = intervention.guidance_energy(
                source, lambda state: prior.module.decode_state(state, attributes.tensors)
            )
            edit = replace(edit, sampling=replace(edit.sampling, energy=energy))
        is_set = intervention is not None and (edit.strength > 0 or move is not None)
        adjust = self._adjustment(
            intervention if is_set else None, move, source, edit.edit_library_size
        )
        samples = []
        for seed in seeds.tolist():
            new = edited(prior, cells, edit, prior.generator(seed))
            decoded = prior.decode(new, attributes, adjust)
            samples.append(prior.draw(decoded, "normalized", seed))
            if len(samples) == 1:
                latent = prior.latents(new)
                x = prior.draw(decoded, "counts", seed) if expression == "counts" else None
        mean: Any = sum(samples) / len(samples)
        logs = [np.log1p(sample) for sample in samples]
        log_mean = sum(logs) / len(logs)
        change = log_mean - np.log1p(before)
        spread = sum(((log - log_mean) ** 2).sum(axis=1) for log in logs) / max(1, len(logs) - 1)
        return EditedPart.of(
            mean if x is None else x, latent, before, mean, change, np.sqrt(spread)
        )

    def _adjustment(
        self,
        intervention: Intervention | None,
        move: np.ndarray | None,
        source: torch.Tensor,
        edit_library_size: bool,
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """A function of the decoded proportions of cells: responses first, targets last.

        So that targets are met and preserved features stay, whatever responds.
        """
        if move is None and (intervention is None or not intervention.columns):
            return None

        def adjust(share: torch.Tensor) -> torch.Tensor:
            if move is None:
                new, size = share, torch.ones_like(share)
            else:
                new = with_move(move, share)
                size = self.module.modality_totals(new)
                new = new / size
            if intervention is not None:
                new = intervention.apply(new, source)
            return new * size if edit_library_size else new

        return adjust
