"""Which cells of an edit are asked for perturbations that no cell had, and which for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._perturbations import Parts, require_dose
from scgm_scvi.model.prior._borrowed_responses import were_seen
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._condition_tables import Conditions, read_table
from scgm_scvi.model.requests._energy import Energy
from scgm_scvi.model.requests._gene_targets import preserved_genes, require_apart
from scgm_scvi.model.requests._interventions import Genes, Preserve
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._tokens import without_unspecified

from ._control_attributes import treated_cells
from ._responses import ResponsesMixin

__all__ = ["AskedResponse", "EditPerturbationsMixin"]

_KNOCKED_DOWN = -0.2  # mean change of log expression of the target itself


@dataclass(frozen=True, eq=False)
class AskedResponse:
    """What is asked of the response model, and what is left to ask of networks.

    Attributes
    ----------
    rows
        Numbers of the cells that it answers for.
    parts, doses
        Of the perturbation of each of them.
    conditions, genes
        Without what the responses answer.
    """

    rows: np.ndarray
    parts: list[Parts]
    doses: list[float]
    conditions: Any
    genes: Any


class EditPerturbationsMixin(ResponsesMixin):
    """Tell what networks were shown from what the response model answers."""

    def _asked_response(
        self,
        adata: Any,
        attributes: Attributes,
        conditions: Conditions,
        genes: Genes,
        preserve: Preserve,
        energy: Energy | None,
    ) -> AskedResponse | None:
        """Perturbations that no cell had, knock-outs that are some, and no perturbation at all.

        So are control cells that are to have a perturbation that no cell of their context had, and
        those that are to be controls, or to have a perturbation at no dose: that of nothing is
        known, and no network leaves a cell as it is. ``None`` where there are no such cells, so that
        networks can answer all of it. ``attributes`` are those that the cells have.
        """
        spec = self.condition_spec
        perturbations = spec.perturbations
        if perturbations is None:
            return None
        table, n, _ = read_table(spec.names, None, conditions, adata.obs_names)
        taken = [perturbations.key, perturbations.dose_key]
        names = _column(table, perturbations.key, n, spec.unspecified.get(perturbations.key))
        amounts = _column(table, perturbations.dose_key, n)
        doses = [
            None if a is None else require_dose(a, str(perturbations.dose_key)) for a in amounts
        ]
        knocked = self._knock_outs(genes)
        require_apart(knocked, preserved_genes(preserve))
        left = _without(genes, knocked)
        alone = left is None and energy is None and not table.keys() - set(taken)
        of = {v: perturbations.parts(v) for v in {str(v) for v in names if v is not None}}
        seen = {perturbations.parts(c) for c in spec.categorical[perturbations.key]}
        treated = (
            treated_cells(perturbations, self._cells.obs(adata)) if len(table) else np.zeros(n)
        )
        elsewhere = self._seen_elsewhere(attributes, conditions, adata.obs_names, names, of)
        rows, parts = [], []
        for i, (name, dose) in enumerate(zip(names, doses, strict=True)):
            own = None if name is None else of[str(name)]
            is_new = bool(knocked) or (own is not None and own not in seen)
            is_nothing = dose == 0 or (alone and own == ())
            if is_new or ((is_nothing or elsewhere[i]) and not treated[i]):
                rows.append(i)
                parts.append(tuple(sorted({*(own or ()), *knocked})))
        if not rows:
            return None
        model = self._responses()
        had = {part for own in seen for part in own}
        asked = map(perturbations.name, dict.fromkeys(parts))
        perturbations.require_known(asked, model.singles, had)
        usual = float(model.likeness.curve.doses[-1])
        given = [doses[i] for i in rows]
        return AskedResponse(
            rows=np.array(rows),
            parts=parts,
            doses=[usual if dose is None else dose for dose in given],
            conditions=(
                _without(conditions, taken)
                if len(rows) == n
                else {k: _open(v, rows) if k in taken else v for k, v in table.items()}
            ),
            genes=left,
        )

    def _seen_elsewhere(
        self,
        attributes: Attributes,
        conditions: Conditions,
        index: pd.Index,
        names: list[Any],
        of: Mapping[str, Parts],
    ) -> np.ndarray:
        """Which cells are to have a perturbation that was seen, but of none of their context."""
        spec, perturbations = self.condition_spec, self._named_perturbations()
        out = np.zeros(len(names), dtype=bool)
        codes = {
            perturbations.parts(c): j + 1
            for j, c in enumerate(spec.categorical[perturbations.key])
            if perturbations.parts(c)
        }
        rows = [i for i, v in enumerate(names) if v is not None and of[str(v)] in codes]
        if not rows or not self._has_responses():
            return out
        others = _without(conditions, [perturbations.key, perturbations.dose_key])
        if others is not None:
            asked = {str(name) for name in others}
            attributes = Request.parse(spec, None, others, index).over(attributes, asked)
        tokens = attributes.tokens.numpy()[rows].copy()
        tokens[:, spec.position(perturbations.key)] = [codes[of[str(names[i])]] for i in rows]
        out[rows] = ~were_seen(self.prior.design["tokens"][:, : tokens.shape[1]], tokens)
        return out

    def _has_responses(self) -> bool:
        try:
            self._responses()
        except ValueError:
            return False
        return True

    def _knock_outs(self, genes: Genes) -> list[str]:
        """Genes to be knocked out whose loss the model has learnt of, or has a vector of."""
        perturbations = self.condition_spec.perturbations
        knocked = [str(g) for g, target in (genes or {}).items() if target == "knockout"]
        if perturbations is None or not knocked:
            return []
        model = self._responses()
        known = {*model.singles, *perturbations.vectors.index}
        knocked = [gene for gene in knocked if gene in known]
        return knocked if knocked and _silences(model, self.var_.index) else []


def _column(
    table: dict[str, list | np.ndarray], name: str | None, n: int, unspecified: Any = None
) -> list[Any]:
    """Values of a condition, ``None`` where it is open."""
    if name not in table:
        return [None] * n
    column = without_unspecified(pd.Series(table[name], dtype=object), unspecified)
    return [v if is_said else None for v, is_said in zip(column, column.notna(), strict=True)]


def _open(values: Any, rows: list[int]) -> np.ndarray:
    """Values of a condition, some of which are left open."""
    out = np.array(values, dtype=object)
    out[rows] = None
    return out


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
