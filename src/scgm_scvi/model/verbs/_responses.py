"""What a model has learnt of perturbations, and what it expects of those that were never done."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from scgm_scvi._errors import listed
from scgm_scvi._perturbations import Perturbations
from scgm_scvi.model.prior._joined_responses import joined_responses
from scgm_scvi.model.prior._left_out import left_out_scores
from scgm_scvi.model.prior._measured_responses import LEAST_CONTROLS, Observed, measure_responses
from scgm_scvi.model.prior._response_axes import find_axes
from scgm_scvi.model.prior._response_contexts import context_values, places_of
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import Predicted, ResponseModel

from ._verb import Verb

__all__ = ["ResponsesMixin"]

_WHAT = {
    "perturbation": "perturbations",
    "combination": "combinations",
    "context": "contexts",
}


class ResponsesMixin(Verb):
    """Responses to perturbations, learnt once from the model's own cells."""

    @property
    def _predicts_responses(self) -> bool:
        """Whether the model was set up with perturbations, and of counts."""
        is_count_data = self._cells.setup.get("is_count_data", True)
        return is_count_data and self.condition_spec.perturbations is not None

    def _named_perturbations(self) -> Perturbations:
        """How perturbations are named.

        Raises
        ------
        ValueError
            If the model was set up without any, or of values that are no counts.
        """
        perturbations = self.condition_spec.perturbations
        if perturbations is None:
            name = self.registry_.get("setup_method_name", "setup_anndata")
            raise ValueError(
                "The model knows of no perturbations. Name them where it is set up, "
                f"{name}(..., perturbation_key=..., control=...), and train it."
            )
        if not self._predicts_responses:
            raise ValueError(
                "Responses to perturbations are predicted of counts, and the model was set up with "
                "is_count_data=False."
            )
        return perturbations

    def _learn_responses(
        self, minibatches: Iterable[Mapping[str, torch.Tensor]] | None = None
    ) -> None:
        """Learn from cells how perturbations change them; keep it.

        Cells of which none is perturbed teach nothing, and leave what was learnt before. What a
        model's reference had learnt stays known.

        Parameters
        ----------
        minibatches
            Each cell once; in a distributed run of a share of them in each process. Default: the
            model's own cells, of which each process has all.
        """
        spec, shared = self.condition_spec, minibatches is not None
        read = self._minibatches(None) if minibatches is None else minibatches
        measured = measure_responses(self.module, spec, read, shared=shared)
        if measured.left_out:
            names = ["/".join(map(str, context_values(spec, c))) for c in measured.left_out]
            warnings.warn(
                f"{listed(names, 5)}: contexts with perturbed cells and fewer than {LEAST_CONTROLS} "
                "control cells, of which no response can be learnt.",
                UserWarning,
                stacklevel=3,
            )
        if not measured.observed:
            return
        if before := self.fitted_.get("reference_responses"):
            absent = (self.fine_tuning_ or {}).get("missing", ())
            rows = np.flatnonzero(self.var_.index.isin(absent)).tolist()
            measured = joined_responses(ResponseModel.from_dict(before), measured, rows)
        values = [context_values(spec, c) for c in measured.contexts]
        places = places_of(spec, measured.baselines, values, {v: i for i, v in enumerate(values)})
        vectors = self._named_perturbations().vectors
        axes, of_halves = find_axes(measured)
        model = ResponseModel.fit(measured, vectors, places, axes)
        left_out = left_out_scores(measured, vectors, places, of_halves)
        self.fitted_["responses"] = {**model.to_dict(), "left_out": left_out}
        if measured.confounded:
            warnings.warn(
                f"{listed(measured.confounded, 5)}: perturbations in batches without control "
                "cells, or with too few, whose responses can't be told from those of the batch.",
                UserWarning,
                stacklevel=3,
            )

    def _responses(self) -> ResponseModel:
        """What was learnt of responses.

        Raises
        ------
        ValueError
            If no cell of the model was perturbed, or none of a context with controls.
        """
        self._named_perturbations()
        if "responses" not in self.fitted_ and self.adata is not None:
            self._learn_responses()
        if "responses" not in self.fitted_:
            raise ValueError(
                "No response to a perturbation was seen: that takes two perturbed cells or more "
                f"beside {LEAST_CONTROLS} control cells or more of the same context"
                f"{', all measured in each modality' if len(self.module.widths) > 1 else ''}."
            )
        return ResponseModel.from_dict(self.fitted_["responses"])

    def _expected_changes(
        self, model: ResponseModel, asked: Sequence[Observed], places: Places
    ) -> tuple[Predicted, dict[str, list[Any]]]:
        """Changes that are expected of what is asked for, and what is expected of them."""
        found = model.predict(asked, places)
        seen = {(o.parts, o.context) for o in model.observed}
        sets, singles = {o.parts for o in model.observed}, set(model.singles)
        kinds = []
        for a in asked:
            here = int(places.known[a.context])
            if not a.parts or a.dose == 0:
                kinds.append("control")
            elif not singles.issuperset(a.parts):
                kinds.append("perturbation")
            elif a.parts not in sets:
                kinds.append("combination")
            else:
                kinds.append("seen" if (a.parts, here) in seen else "context")
        name = self._named_perturbations().name
        left_out = self.fitted_["responses"]["left_out"]
        expected: dict[str, list[Any]] = {
            "perturbation": [name(a.parts) for a in asked],
            "dose": [float(a.dose) for a in asked],
            "basis": kinds,
            "r2": [float(r) for r in found.r2],
            **{
                key: [float(left_out.get(kind, {}).get(key, np.nan)) for kind in kinds]
                for key in ("response", "mean_response")
            },
        }
        return found, expected

    def _doubts(self, kinds: Sequence[str], places: Places) -> list[str]:
        """Why some predictions are not to be trusted."""
        left_out, asked = self.fitted_["responses"]["left_out"], set(kinds) - {"control"}
        if not asked:
            return []
        seen = left_out["seen"]["response"]
        if not seen > 0:
            return [
                "Nothing tells the responses that were seen from noise: other cells of the same "
                "perturbations do not show the same. What is predicted of others is no more than that."
            ]
        if not np.isin(places.known, self.fitted_["responses"]["context"]).all():
            asked.add("context")
        out = []
        for kind in sorted(asked & set(_WHAT)):
            what = _WHAT[kind]
            if kind not in left_out:
                out.append(
                    f"Fewer than 3 {what} were seen, so that nothing tells how well responses "
                    "to others are predicted here."
                )
                continue
            found = left_out[kind]
            best = max(0.0, found["mean_response"])
            if np.isfinite(best) and found["response"] > best:
                continue
            out.append(
                f"Left out in turn, the {what} that were seen have responses that are predicted with "
                f"an R² of {found['response']:.2f}; the mean response of the others has "
                f"{found['mean_response']:.2f}, and no response 0. Nothing here tells how others "
                "would respond."
            )
        return out
