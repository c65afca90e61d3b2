"""Edits to perturbations that were never done: what they make of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scgm_scvi._errors import listed
from scgm_scvi.model.prior._log_folds import LogFolds, moved_means
from scgm_scvi.model.prior._measured_responses import Observed
from scgm_scvi.model.prior._response_contexts import context_values
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._interventions import Intervention
from scgm_scvi.model.requests._sampling import Sampling

from ._control_cells import ControlCellsMixin, Controls
from ._edit_perturbations import AskedResponse, EditPerturbationsMixin
from ._edit_record import EditedPart
from ._verb import Run

__all__ = ["EditResponseMixin", "ResponseEdit", "perturbation_kept", "with_folds"]

_N_GENERATED = 128  # cells of a context that tell how means and mean logarithms go together


@dataclass(frozen=True, eq=False)
class ResponseEdit:
    """What responses make of cells.

    Attributes
    ----------
    rows, controls
        The cells that respond.
    folds, row
        Log fold changes ``(n_kinds, n_features)``, of which the first are none, and which of them
        each cell of all has.
    expected, doubts
        Of the responses.
    """

    rows: np.ndarray
    controls: Controls
    folds: np.ndarray
    row: np.ndarray
    expected: dict[str, list[Any]]
    doubts: list[str]

    def folds_of(self, rows: np.ndarray) -> np.ndarray:
        """Those of some of all cells."""
        return self.folds[self.row[rows]]


@dataclass(frozen=True, eq=False)
class _Contexts:
    """Contexts that cells are asked for in: of each cell, and of each place, value and folds."""

    of_cells: np.ndarray
    places: Places
    values: list[tuple[str | None, ...]]
    folds: dict[int, LogFolds]


class EditResponseMixin(ControlCellsMixin, EditPerturbationsMixin):
    """Ask the response model for what no cell of training had."""

    def _respond(
        self, adata: Any, asked: AskedResponse, own: Attributes, target: Attributes, run: Run
    ) -> ResponseEdit:
        """The responses of cells that have their ``own`` attributes, and shall have others."""
        model, rows = self._responses(), asked.rows
        cells = adata if len(rows) == adata.n_obs else adata[rows]
        controls = self._read_controls(cells, model, run.batch_size)
        some = torch.as_tensor(rows)
        there = self._contexts_asked(model, controls, own.rows(some), target.rows(some), run)
        pairs: dict[Observed, int] = {}
        row = np.zeros(adata.n_obs, dtype=int)
        each = zip(rows, asked.parts, asked.doses, there.of_cells, strict=True)
        for i, parts, dose, context in each:
            row[i] = 1 + pairs.setdefault(Observed(parts, dose, int(context)), len(pairs))
        predicted, expected = self._expected_changes(model, list(pairs), there.places)
        expected["context"] = [
            "/".join("unspecified" if v is None else v for v in there.values[a.context])
            for a in pairs
        ]
        folds = [
            there.folds[a.context].inverse(change)
            for a, change in zip(pairs, predicted.change, strict=True)
        ]
        return ResponseEdit(
            rows=rows,
            controls=controls,
            folds=np.stack([np.zeros_like(folds[0]), *folds]),
            row=row,
            expected=expected,
            doubts=self._doubts(expected["basis"], controls.places),
        )

    def _contexts_asked(
        self,
        model: ResponseModel,
        controls: Controls,
        own: Attributes,
        target: Attributes,
        run: Run,
    ) -> _Contexts:
        """The contexts that cells are to be in: their own, or others of training.

        Raises
        ------
        ValueError
            If training had no control cells in one.
        """
        spec = self.condition_spec
        position = spec.position(self._named_perturbations().key)
        before, after = (np.delete(a.tokens.numpy(), position, axis=1) for a in (own, target))
        after = np.where(after == 0, before, after)  # what is left open stays
        trained = [context_values(spec, c) for c in model.contexts]
        context, n_own = controls.context.copy(), len(controls.values)
        folds = dict(enumerate(controls.folds))
        elsewhere = (after != before).any(axis=1)
        for tokens in np.unique(after[elsewhere], axis=0):
            values = context_values(spec, tokens)
            if values not in trained:
                names = ["/".join(str(v) for v in known) for known in trained]
                raise ValueError(
                    f"conditions ask for a perturbation in {'/'.join(str(v) for v in values)!r}, and "
                    "training had no control cells there, so that no response is known of it. Ask "
                    f"for one of {listed(names, 10)}, or pass control cells of it and name the "
                    "perturbation alone."
                )
            there = n_own + trained.index(values)
            here = elsewhere & (after == tokens).all(axis=1)
            context[here] = there
            folds[there] = self._generated_folds(target.rows(torch.as_tensor(here)), run.seed)
        known = model.likeness.places
        places = Places(
            *(
                np.concatenate([getattr(p, name) for p in (controls.places, known)])
                for name in ("baselines", "vectors", "known")
            )
        )
        return _Contexts(context, places, [*controls.values, *trained], folds)

    def _generated_folds(self, target: Attributes, seed: int) -> LogFolds:
        """How far mean log expression moves with means where cells are not yet: of generated ones."""
        some = self._as_controls(target.rows(torch.arange(_N_GENERATED) % len(target)))
        prior = self.prior
        with torch.no_grad():
            states = prior.sample(some, Sampling.parse(prior.spec), prior.generator(seed))
            px = prior.decode(states, some)
            return LogFolds.of(self.module, [(px, self.module.modality_totals(px.mean))])

    def _edited_by_response(
        self, response: ResponseEdit, preserved: Intervention | None, expression: str, run: Run
    ) -> Iterator[EditedPart]:
        """Cells that nothing else is done to: their very counts, moved."""
        controls, folds = response.controls, response.folds_of(response.rows)
        if preserved is not None:
            folds[:, list(preserved.columns)] = 0  # their counts stay
        with self._registered(controls.adata, controls.reading) as cells, torch.no_grad():
            loaded = self._loaded(cells, controls.reading, None, run.batch_size)
            for (i, rows), tensors in zip(run.chunks(len(folds)), loaded, strict=True):
                seed = int(run.seeds(i, 1)[0] >> 1)
                moved = self._moved(tensors, folds[rows], seed)
                if preserved is not None:  # and what is expected of them
                    shares = (torch.as_tensor(x / 1e4) for x in (moved.after, moved.before))
                    moved = moved._replace(after=preserved.apply(*shares).numpy() * 1e4)
                yield EditedPart.of(
                    moved.expression(expression),
                    moved.latent,
                    moved.before,
                    moved.after,
                    np.log1p(moved.after) - np.log1p(moved.before),
                    np.full(len(moved.latent), np.nan),
                )


def perturbation_kept(own: Attributes, target: Attributes, rows: np.ndarray) -> Attributes:
    """The target with the perturbation and dose that some cells have: responses are for them."""
    spec = own.spec
    assert spec.perturbations is not None
    tokens, values = target.tokens.clone(), target.values.clone()
    position = spec.position(spec.perturbations.key)
    tokens[rows, position] = own.tokens[rows, position]
    if spec.perturbations.dose_key is not None:
        place = spec.value_columns[spec.perturbations.dose_key]
        values[rows, place] = own.values[rows, place]
    return replace(target, tokens=tokens, values=values)


def with_folds(folds: np.ndarray, share: torch.Tensor) -> torch.Tensor:
    """Proportions ``(n, n_features)`` of features once they have log fold changes."""
    factor, excess = moved_means(share * 1e4, torch.as_tensor(folds).to(share))
    return share * factor + excess / 1e4
