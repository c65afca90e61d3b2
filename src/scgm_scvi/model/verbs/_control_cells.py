"""Control cells that responses are asked for of, and their contexts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scgm_scvi._errors import listed
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.prior._log_folds import LogFolds
from scgm_scvi.model.prior._measured_responses import in_all_modalities
from scgm_scvi.model.prior._response_contexts import (
    context_conditions,
    context_values,
    places_of,
)
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes

from ._control_attributes import known_values, treated_cells
from ._moved_cells import MOST_MOVED, MovedCellsMixin
from ._responses import ResponsesMixin

__all__ = ["ControlCellsMixin", "Controls"]


class Controls(NamedTuple):
    """Control cells, as they came too: their contexts, and of these places, values, how means move."""

    adata: AnnData
    given: pd.DataFrame
    reading: Reading
    context: np.ndarray
    places: Places
    values: list[tuple[str | None, ...]]
    folds: list[LogFolds]


class ControlCellsMixin(ResponsesMixin, MovedCellsMixin):
    """Read control cells."""

    def _read_controls(self, adata: Any, model: ResponseModel, batch_size: int) -> Controls:
        """Control cells with their contexts; what the model does not know of them is hidden."""
        spec, perturbations = self.condition_spec, self._named_perturbations()
        conditions = context_conditions(spec)
        if not self._cells.is_cells(adata):
            raise TypeError(f"adata is a {type(adata).__name__}; pass an AnnData of control cells.")
        if not adata.n_obs:
            raise ValueError("adata has no cells; pass control cells.")
        obs = self._cells.obs(adata)
        self._require_controls(obs)
        said = pd.DataFrame(index=obs.index)
        hidden = obs.copy()
        for name, categories in conditions.items():
            column = obs[name].astype(object) if name in obs else pd.Series(None, obs.index, object)
            if name in spec.unspecified:
                column = column.mask(column.astype(str) == str(spec.unspecified[name]))
            column = column.where(column.notna(), None)
            known = known_values(column, categories)  # what the decoder is given, and the process
            both = known.where(known.notna(), column)
            said[name] = [None if v is None else str(v) for v in both]
            hidden[name] = known
        for name, categories in spec.nuisances.items():
            if name in obs:
                known = known_values(obs[name], categories)
                hidden[name] = known.where(known.notna(), obs[name].astype(object))
        absent = [name for name in spec.numeric if name not in obs]
        reading = Reading(
            ignored=[perturbations.key, *filter(None, [perturbations.dose_key]), *absent],
            any_nuisance=not self.module.encode_covariates,
            afresh=True,
        )
        shallow = self._cells.with_obs(adata, hidden)
        values = [tuple(v) for v in said.to_numpy(dtype=object)]
        kinds = sorted(set(values), key=lambda v: [str(x) for x in v])
        number = {v: i for i, v in enumerate(kinds)}
        context = np.array([number[v] for v in values])
        sums, whole = np.zeros((len(kinds), len(self.var_))), np.ones(len(obs), dtype=bool)
        start = 0
        with self._registered(shallow, reading) as cells:
            for tensors in self._loaded(cells, reading, None, batch_size):
                x = self.module.features(tensors)
                log = torch.log1p(self.module.proportions(x) * 1e4).cpu().numpy()
                here = slice(start, start + len(log))
                whole[here] = in_all_modalities(self.module, x)
                np.add.at(sums, context[here], log)
                start += len(log)
            self._require_whole(obs.index[~whole])
            folds = []
            for c in range(len(kinds)):
                rows = np.random.default_rng(0).permutation(np.flatnonzero(context == c))
                some = self._loaded(cells, reading, np.sort(rows[:MOST_MOVED]), batch_size)
                controls = ((t, self._as_controls(Attributes.of(spec, t))) for t in some)
                folds.append(self._log_folds(controls))
        trained = {context_values(spec, c): i for i, c in enumerate(model.contexts)}
        baselines = sums / np.bincount(context, minlength=len(kinds))[:, None]
        places = places_of(spec, baselines, kinds, trained)
        return Controls(shallow, obs, reading, context, places, kinds, folds)

    def _require_controls(self, obs: pd.DataFrame) -> None:
        perturbations = self._named_perturbations()
        treated = treated_cells(perturbations, obs)
        if treated.any():
            names = list(obs[perturbations.key][treated].unique())
            raise ValueError(
                f"adata has {int(treated.sum())} cells that are no controls: "
                f"obs[{perturbations.key!r}] is {listed(names, 3)}. Pass "
                f"adata[adata.obs[{perturbations.key!r}] == {perturbations.control!r}], or leave "
                "out the column where it says something else."
            )

    def _require_whole(self, lacking: pd.Index) -> None:
        """Raise if cells lack a modality."""
        if len(lacking):
            raise ValueError(
                f"{len(lacking)} of the cells were not measured in all modalities "
                f"({listed(lacking, 3)}), and a response is one of all of them. Leave these cells out, "
                "or fill in what they lack by model.translate, and pass a MuData of both."
            )

    def _as_controls(self, own: Attributes) -> Attributes:
        """Attributes of cells that nothing was done to."""
        spec, perturbations = own.spec, own.spec.perturbations
        assert perturbations is not None
        names = [str(name) for name in spec.categorical[perturbations.key]]
        if perturbations.control in names:  # as a rule, and fast
            control = names.index(perturbations.control)
        else:
            control = [perturbations.parts(name) for name in names].index(())
        return own.with_category(perturbations.key, control)
