"""Edits to perturbations that were never done: what is asked for, and what it makes of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from scgm_scvi.model.prior._log_folds import moved_means
from scgm_scvi.model.prior._measured_responses import Observed
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._interventions import Genes

from ._control_cells import ControlCellsMixin, Controls
from ._edit_record import EditedPart
from ._verb import Run

__all__ = ["EditResponseMixin", "ResponseEdit", "with_folds"]

_KNOCKED_DOWN = -0.2  # mean change of log expression of the target itself


@dataclass(frozen=True, eq=False)
class ResponseEdit:
    """What is asked of the response model, and what is left to ask of others.

    Attributes
    ----------
    conditions, genes
        Without what the responses answer.
    controls
        The cells.
    folds, row
        Log fold changes ``(n_kinds, n_features)``, and which of them each cell has.
    expected, doubts
        Of the responses.
    """

    conditions: Any
    genes: Any
    controls: Controls
    folds: np.ndarray
    row: np.ndarray
    expected: dict[str, list[Any]]
    doubts: list[str]

    def folds_of(self, rows: slice) -> np.ndarray:
        """Those of some cells."""
        return self.folds[self.row[rows]]


class EditResponseMixin(ControlCellsMixin):
    """Ask the response model for what no cell of training had."""

    def _asked_response(
        self, adata: Any, conditions: Conditions, genes: Genes, run: Run
    ) -> ResponseEdit | None:
        """Perturbations among the conditions that no cell had, or knock-outs that are some.

        ``None`` where there are none, so that networks can answer all of it.
        """
        spec = self.condition_spec
        perturbations = spec.perturbations
        if perturbations is None:
            return None
        names: Any = None
        if conditions is not None and perturbations.key in conditions:
            seen = {str(c) for c in spec.categorical[perturbations.key]}
            names = conditions[perturbations.key]
            listed_ = [names] if np.ndim(names) == 0 else list(names)
            if all(pd.isna(name) or str(name) in seen for name in listed_):
                names = None
        knocked = [] if names is not None else self._knock_outs(genes)
        if names is None and not knocked:
            return None
        if names is None:
            names, genes = perturbations.name(tuple(sorted(knocked))), _without(genes, knocked)
        model = self._responses()
        amounts: Any = model.likeness.curve.doses[-1]
        if perturbations.dose_key is not None and perturbations.dose_key in (conditions or {}):
            amounts = conditions[perturbations.dose_key]  # type: ignore[index]
        controls = self._read_controls(adata, model, run.batch_size)
        per_cell = pd.DataFrame({"name": names, "dose": amounts}, index=range(adata.n_obs))
        parts = perturbations.require_known(per_cell["name"].unique(), model.singles)
        of = dict(zip(per_cell["name"].unique(), parts, strict=True))
        asked: dict[Observed, int] = {}
        row = np.empty(adata.n_obs, dtype=int)
        for i, (name, dose) in enumerate(per_cell.itertuples(index=False)):
            one = Observed(of[name], float(dose), int(controls.context[i]))
            row[i] = asked.setdefault(one, len(asked))
        predicted, expected = self._expected_changes(model, list(asked), controls.places)
        taken = (perturbations.key, perturbations.dose_key)
        return ResponseEdit(
            conditions=_without(conditions, taken),
            genes=genes,
            controls=controls,
            folds=np.stack(
                [
                    controls.folds[a.context].inverse(change)
                    for a, change in zip(asked, predicted.change, strict=True)
                ]
            ),
            row=row,
            expected=expected,
            doubts=self._doubts(expected["basis"], controls.places),
        )

    def _knock_outs(self, genes: Genes) -> list[str]:
        """Genes to be knocked out whose loss the model has learnt of, or has a vector of."""
        perturbations = self.condition_spec.perturbations
        knocked = [g for g, target in (genes or {}).items() if target == "knockout"]
        if perturbations is None or not knocked:
            return []
        model = self._responses()
        known = {*model.singles, *perturbations.vectors.index}
        knocked = [gene for gene in knocked if gene in known]
        return knocked if knocked and _silences(model, self.var_.index) else []

    def _edited_by_response(
        self, response: ResponseEdit, expression: str, run: Run
    ) -> Iterator[EditedPart]:
        """Cells that nothing else is done to: their very counts, moved."""
        controls, n = response.controls, len(response.row)
        with self._registered(controls.adata, controls.reading) as cells, torch.no_grad():
            loaded = self._loaded(cells, controls.reading, None, run.batch_size)
            for (i, rows), tensors in zip(run.chunks(n), loaded, strict=True):
                seed = int(run.seeds(i, 1)[0] >> 1)
                moved = self._moved(tensors, response.folds_of(rows), seed)
                yield EditedPart.of(
                    moved.expression(expression),
                    moved.latent,
                    moved.before,
                    moved.after,
                    np.log1p(moved.after) - np.log1p(moved.before),
                    np.zeros(len(moved.latent)),
                )


def with_folds(folds: np.ndarray, share: torch.Tensor) -> torch.Tensor:
    """Proportions ``(n, n_features)`` of features once they have log fold changes."""
    factor, excess = moved_means(share * 1e4, torch.as_tensor(folds).to(share))
    return share * factor + excess / 1e4


def _silences(model: ResponseModel, features: pd.Index) -> bool:
    """Whether perturbations make less of their own target, as knock-outs do."""
    own = [
        (i, features.get_loc(o.parts[0]))
        for i, o in enumerate(model.observed)
        if len(o.parts) == 1 and o.parts[0] in features
    ]
    changes = [float(model.scores[i] @ model.axes[:, j] * model.noise[j]) for i, j in own]
    return bool(changes) and float(np.mean(changes)) < _KNOCKED_DOWN


def _without(given: Any, names: Any) -> Any:
    """A table or mapping without some entries; ``None`` where nothing is left."""
    if given is None:
        return None
    if isinstance(given, pd.DataFrame):
        left = given.drop(columns=[name for name in names if name in given])
        return left if len(left.columns) else None
    left = {k: v for k, v in dict(given).items() if k not in names}
    return left or None
