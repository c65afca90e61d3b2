"""Control cells that responses are asked for of: their contexts, and what becomes of their counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch.distributions import Distribution

from scgm_scvi._errors import listed
from scgm_scvi.distributions import moved_counts
from scgm_scvi.model._random_state import torch_seed
from scgm_scvi.model.data._matrices import Matrix
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.prior._log_folds import LogFolds, moved_means
from scgm_scvi.model.prior._measured_responses import in_all_modalities
from scgm_scvi.model.prior._response_contexts import (
    context_conditions,
    context_values,
    places_of,
)
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.module import FEATURE_KEYS

from ._control_attributes import known_values, treated_cells
from ._responses import ResponsesMixin

__all__ = ["ControlCellsMixin", "Controls", "MovedCells"]


_MOST_MOVED = 128  # cells that tell how means and mean logarithms go together


class Controls(NamedTuple):
    """Control cells, as they came too: their contexts, and of these places, values, how means move."""

    adata: AnnData
    given: pd.DataFrame
    reading: Reading
    context: np.ndarray
    places: Places
    values: list[tuple[str | None, ...]]
    folds: list[LogFolds]


class MovedCells(NamedTuple):
    """Expected counts per 10,000 of some cells before and after, their counts and latents after."""

    before: np.ndarray
    after: np.ndarray
    counts: torch.Tensor
    latent: np.ndarray

    def expression(self, kind: str) -> Matrix:
        """What is handed back of them: ``"counts"``, or ``"normalized"``."""
        return self.after if kind == "normalized" else sparse.csr_matrix(self.counts.cpu().numpy())


class ControlCellsMixin(ResponsesMixin):
    """Read control cells, and move their counts."""

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
            folds = [
                self._log_folds(cells, np.flatnonzero(context == c), batch_size, reading)
                for c in range(len(kinds))
            ]
        trained = {context_values(spec, c): i for i, c in enumerate(model.contexts)}
        baselines = sums / np.bincount(context, minlength=len(kinds))[:, None]
        places = places_of(spec, baselines, kinds, trained)
        return Controls(shallow, obs, reading, context, places, kinds, folds)

    def _log_folds(
        self, cells: Any, rows: np.ndarray, batch_size: int, reading: Reading
    ) -> LogFolds:
        """How far mean log expression of some of the cells moves with their means."""
        few = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_MOVED])
        module = self.module

        def distributions() -> Iterator[tuple[Distribution, torch.Tensor]]:
            for tensors in self._loaded(cells, reading, few, batch_size):
                own = self._as_controls(Attributes.of(self.prior.spec, tensors))
                px = self.prior.decode(module.encode_state(tensors)[0], own)
                yield px, module.modality_totals(px.mean)

        with torch.no_grad():
            return LogFolds.of(module, distributions())

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

    def _moved(self, tensors: dict[str, torch.Tensor], folds: np.ndarray, seed: int) -> MovedCells:
        """Cells whose expected expression has log fold changes."""
        prior, module = self.prior, self.module
        own = self._as_controls(Attributes.of(prior.spec, tensors))
        px = prior.decode(module.encode_state(tensors)[0], own)
        mean, x = px.mean, module.features(tensors).to(prior.device)
        size = module.modality_totals(mean)
        share = mean / size * 1e4
        factor, excess = moved_means(share, torch.as_tensor(folds, dtype=mean.dtype).to(mean))
        with torch_seed(seed, prior.device):
            counts = moved_counts(px, x, factor, excess * size / 1e4)
        # a cell without counts in a modality was not measured in it
        counts = torch.where(module.modality_totals(counts) == 0, x, counts)
        others = {k: v for k, v in tensors.items() if k not in FEATURE_KEYS}
        latent = prior.latents(module.encode_state({**others, REGISTRY_KEYS.X_KEY: counts})[0])
        expected = module.proportions(share * factor + excess) * 1e4
        return MovedCells(share.cpu().numpy(), expected.cpu().numpy(), counts, latent)
