"""Edits to perturbations that were never done: what they make of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scgm_scvi._errors import listed
from scgm_scvi.model._random_state import torch_seed
from scgm_scvi.model.prior._log_folds import LogFolds
from scgm_scvi.model.prior._measured_responses import Observed
from scgm_scvi.model.prior._response_contexts import context_values
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._sampling import Sampling

from ._control_cells import ControlCellsMixin, Controls
from ._edit_perturbations import AskedResponse, EditPerturbationsMixin
from ._moved_cells import Moves
from ._verb import Run

__all__ = ["EditResponseMixin", "ResponseEdit", "perturbation_kept"]

_N_GENERATED = 128  # cells of a context that tell how means and mean logarithms go together


@dataclass(frozen=True, eq=False)
class ResponseEdit:
    """What responses make of cells, what is expected of them, and why to doubt it."""

    moves: Moves
    expected: dict[str, list[Any]]
    doubts: list[str]


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
        self,
        adata: Any,
        asked: AskedResponse,
        own: Attributes,
        target: Attributes,
        run: Run,
        n_draws: int = 0,
    ) -> ResponseEdit:
        """The responses of cells that have their ``own`` attributes, and shall have others."""
        model, rows = self._responses(), asked.rows
        cells = adata if len(rows) == adata.n_obs else adata[rows]
        controls = self._read_controls(cells, model, run.batch_size)
        some = torch.as_tensor(rows)
        there = self._contexts_asked(model, controls, own.rows(some), target.rows(some), run)
        pairs: dict[Observed, int] = {}
        row = np.full(adata.n_obs, -1)
        each = zip(rows, asked.parts, asked.doses, there.of_cells, strict=True)
        for i, parts, dose, context in each:
            row[i] = pairs.setdefault(Observed(parts, dose, int(context)), len(pairs))
        predicted, expected = self._expected_changes(model, list(pairs), there.places)
        expected["context"] = [
            "/".join("unspecified" if v is None else v for v in there.values[a.context])
            for a in pairs
        ]
        draws = model.draws(predicted, n_draws, np.random.default_rng([run.seed, 2]))
        means = [there.folds[a.context] for a in pairs]
        return ResponseEdit(
            moves=Moves.of(row, predicted.change, draws, means),
            expected=expected,
            doubts=self._doubts(expected["basis"], controls.places),
        )

    def _as_asked(self, own: Attributes, asked: AskedResponse | None) -> Attributes:
        """Attributes of cells as what is asked of responses takes them: for controls."""
        if asked is None:
            return own
        chosen = torch.zeros(len(own), 1, dtype=torch.bool)
        chosen[asked.rows] = True
        return own.where(chosen, self._as_controls(own))

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
            with torch_seed(seed, prior.device):
                return LogFolds.of(self.module, [(px, px.sample())])


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
