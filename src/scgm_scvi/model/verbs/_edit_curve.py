"""What an edit gains and costs by its strength, and the strength that is taken where none is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from scgm_scvi._errors import whole_number
from scgm_scvi.diffusion import strength_sigma
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.prior._borrowed_responses import were_seen
from scgm_scvi.model.prior._edited_states import (
    Edit,
    EditedCells,
    check_method,
    edited,
    parse_sampling,
)
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.training._fingerprint import weights_fingerprint

from ._verb import Verb

__all__ = ["EditCurveMixin"]

_STRENGTHS = tuple(np.linspace(0.1, 1, 10).round(2).tolist())
_ENOUGH = 0.95  # of the greatest effect
_KEPT = 0.95  # of the identity that generated cells have
_N_REFERENCE = 2000  # generated cells that a classifier of identity learns from
_FEWEST = 20  # held-out cells that a choice can be made from


class EditCurveMixin(Verb):
    """Effect and identity of edits, on latents."""

    @leaves_random_state
    def edit_curve(
        self,
        adata: AnnData | None = None,
        conditions: Conditions = None,
        *,
        method: Literal["sdedit", "inversion", "shift"] = "sdedit",
        strengths: Sequence[float] = _STRENGTHS,
        guidance_scale: float | Mapping[str, float] | None = None,
        composition: Literal["auto", "joint", "additive"] = "auto",
        n_cells: int = 500,
        seed: int = 0,
        progress_bar: bool = True,
    ) -> pd.DataFrame:
        r"""Effect obtained and identity kept, by the strength of an edit.

        Measured in the latent, against what the model itself generates under the attributes that
        the cells have, and under those that they are to have:

        - ``effect``: how far the edited cells have come, as a linear discriminant between the two
          generated populations sees it: 0 where they started, 1 where the target's cells are.
        - ``identity``: share of edited cells whose other attributes (the cell type) are still
          recognised, by a logistic regression on generated cells. NaN where there is none.
        - ``identity_generated``: the same of cells generated as the target.
        - ``similarity``: mean correlation of an edited cell's latent with its source's, once the
          mean of either population is subtracted: what makes this cell different from its like,
          and stays.

        Parameters
        ----------
        adata
            Cells to try; not changed. Default: held-out cells of the model's own data which do not
            have the target's conditions yet.
        conditions, method, guidance_scale, composition
            As in :meth:`edit`.
        strengths
            Strengths to try, each from 0 to 1.
        n_cells
            At most so many cells, drawn at random.
        seed
            Same seed, same device, same curve.
        progress_bar
            Whether to show one.

        Returns
        -------
        DataFrame with a row for each strength, in ascending order: ``strength``, ``sigma`` (its
        noise level), ``effect``, ``identity``, ``identity_generated``, ``similarity``, ``chosen``
        (the one that :meth:`edit` takes where it is given none: the lowest with 95% of the
        greatest effect, among those with 95% of the identity of generated cells; SDEdit's strength
        1, at which nothing of a cell is left, is never chosen).

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, ValueError
            If an attribute, category or number makes no sense, or there is no cell to try.

        Examples
        --------
        >>> curve = model.edit_curve(adata, {"condition": "stimulated"})  # doctest: +SKIP
        >>> scgm_scvi.pl.edit_curve(curve)  # doctest: +SKIP
        """
        self._require_diffusion()
        check_method(method)
        sampling = parse_sampling(self.condition_spec, guidance_scale, composition)
        strengths = sorted(float(s) for s in strengths)
        if not strengths:
            raise ValueError("strengths is empty; give at least one number from 0 to 1.")
        sigmas = [strength_sigma(s) for s in strengths]
        n_cells = whole_number(n_cells, "n_cells")
        if conditions is None or not len(conditions):
            raise ValueError("conditions is empty: name what is to change.")
        cells = self._cells_to_try() if adata is None else adata
        request = Request.parse(self.condition_spec, None, conditions, cells.obs_names)
        rng = np.random.default_rng(seed)
        generator = self.prior.generator(seed)
        own, state = self._states(cells)
        named = {str(name) for name in conditions}
        tried = EditedCells(own, self._target(request, own, named), state)
        differs = tried.own.differs(tried.target).numpy()
        if not differs.any():
            raise ValueError(
                "No cell is left to try: all have what conditions ask for already. Pass others."
            )
        if composition == "auto":  # the others' counts are moved, which takes no strength
            tokens = tried.target.tokens.numpy()
            differs &= were_seen(self.prior.design["tokens"][:, : tokens.shape[1]], tokens)
        rows = np.flatnonzero(differs)
        if not len(rows):
            raise ValueError(
                "No cell is left to try: training never showed what conditions ask for of such "
                "cells, and edit moves their counts by a borrowed response, whatever the strength. "
                "Pass composition='joint' for what networks make of it."
            )
        tried = tried.rows(torch.as_tensor(np.sort(rng.permutation(rows)[:n_cells])))
        with torch.no_grad():
            scores = _evaluator(self.prior, tried, rng, generator)
            records = []
            for strength, sigma in zip(
                tqdm(strengths, desc="Editing", disable=not progress_bar), sigmas, strict=True
            ):
                states = edited(self.prior, tried, Edit(method, strength, sampling), generator)
                records.append({"strength": strength, "sigma": sigma, **scores(states)})
        curve = pd.DataFrame(records)
        curve["chosen"] = curve.index == _choice(curve, method)
        return curve

    def _target(self, request: Request, own: Attributes, named: Collection[str]) -> Attributes:
        """The ``own`` attributes of cells with those in ``named`` as the request has them.

        Unless a dose is named, cells without one that get a perturbation get the largest that was
        seen, and cells that are to be controls that of controls: nothing else was ever seen.
        """
        target, spec = request.over(own, named), self.condition_spec
        perturbations, design = spec.perturbations, self.prior.design
        if perturbations is None or perturbations.key not in named:
            return target
        name = perturbations.dose_key
        if name is None or name in named:
            return target
        place, position = spec.value_columns[name], spec.position(perturbations.key)
        kinds = [bool(perturbations.parts(c)) for c in spec.categorical[perturbations.key]]
        given, control = (
            torch.tensor([False, *kinds]),
            torch.tensor([False, *(not k for k in kinds)]),
        )
        known, was = design["values"][:, place], torch.as_tensor(design["tokens"][:, position])
        doses = known[known > 0]
        none = known[control[was].numpy()[:, None] & ~np.isnan(known)]
        largest = float(doses.max()) if len(doses) else np.nan
        usual = float(np.median(none)) if len(none) else np.nan
        values, token = target.values.clone(), target.tokens[:, position]
        lacking = given[token][:, None] & ~(values[:, place] > 0)
        values[:, place] = values[:, place].masked_fill(lacking, largest)
        values[:, place] = values[:, place].masked_fill(control[token][:, None], usual)
        return replace(target, values=values)

    def _cells_to_try(self) -> AnnData:
        """Cells that neither stage was trained on; all, where there are too few."""
        with self._registered(None) as cells:
            held_out = self._stage_one_split(cells.n_obs)[1]
            return cells[held_out] if len(held_out) >= _FEWEST else cells

    def _default_strength(
        self,
        adata: AnnData,
        conditions: Any,
        method: str,
        guidance_scale: float | Mapping[str, float] | None,
        composition: str,
    ) -> float:
        """The strength that an edit curve chooses, of held-out cells where the model has them."""
        typical = {str(k): _typical(v) for k, v in conditions.items()}
        guidance = {"guidance_scale": guidance_scale, "composition": composition}
        key = str((weights_fingerprint(self.module.state_dict()), method, typical, guidance))
        known = self.fitted_.get("edit_strengths", {})
        if key not in known:
            options: dict[str, Any] = {"method": method, **guidance, "progress_bar": False}
            try:
                curve = self.edit_curve(None, typical, **options)
            except ValueError:  # loaded without data, or without cells to try: those at hand
                curve = self.edit_curve(adata, typical, **options)
            known = {**known, key: float(curve.strength[curve.chosen].iloc[0])}
            self.fitted_["edit_strengths"] = known
        return known[key]


def _typical(value: Any) -> Any:
    """The value itself, or the most frequent of those of each cell."""
    if np.ndim(value) == 0:
        return value
    most = pd.Series(np.asarray(value, dtype=object)).mode()
    return most[0] if len(most) else None


def _evaluator(
    prior: LatentPrior, tried: EditedCells, rng: np.random.Generator, generator: torch.Generator
) -> Callable[[torch.Tensor], dict[str, float]]:
    """A function from edited states to their effect, identity and similarity."""
    sampling, design = Sampling.parse(prior.spec), prior.design

    def latent(states: torch.Tensor) -> np.ndarray:
        return prior.latents(prior.module.denoiser.standardize(states))

    def generated(attributes: Attributes) -> np.ndarray:
        return latent(prior.sample(attributes, sampling, generator))

    own, target, source = tried.own, tried.target, latent(tried.state)
    populations = np.repeat([0, 1], len(source))
    between = LogisticRegression(C=0.1, max_iter=1000)
    both = np.concatenate([generated(own), generated(target)])
    towards = between.fit(both, populations).coef_[0]
    # others than those it was fitted on, which it sets apart too well
    start, way = (
        (source @ towards).mean(),
        ((generated(target) - source) @ towards).mean(),
    )

    kept = (own.tokens == target.tokens).all(dim=0).numpy()
    label = _patterns(own.tokens.numpy()[:, kept])
    rows = rng.choice(len(design["tokens"]), _N_REFERENCE)
    reference = Request.of_design(prior.spec, design, rows)
    reference_label = _patterns(reference.tokens[:, kept])
    known = None
    if kept.any() and len(np.unique(reference_label)) > 1:
        cells = generated(reference.draw_nuisances(design, rng))
        known = LogisticRegression(C=0.1, max_iter=1000).fit(cells, reference_label)

    def identity(latents: np.ndarray) -> float:
        return np.nan if known is None else float((known.predict(latents) == label).mean())

    of_generated = identity(generated(target))
    own_part = _centred(source, label)

    def scores(states: torch.Tensor) -> dict[str, float]:
        latents = latent(states)
        part = _centred(latents, label)
        return {
            "effect": float(((latents @ towards).mean() - start) / way),
            "identity": identity(latents),
            "identity_generated": of_generated,
            "similarity": _correlation(own_part, part),
        }

    return scores


def _patterns(tokens: np.ndarray) -> np.ndarray:
    return np.array([" ".join(map(str, row)) for row in tokens.tolist()])


def _centred(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Rows less the mean of their label."""
    frame = pd.DataFrame(x.astype(np.float64))
    return (frame - frame.groupby(label).transform("mean")).to_numpy()


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean correlation of rows; a cell that is alone of its label has nothing to tell."""
    told = (x.std(axis=1) > 0) & (y.std(axis=1) > 0)
    pairs = zip(x[told], y[told], strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])) if told.any() else np.nan


def _choice(curve: pd.DataFrame, method: str) -> int:
    """The row of the lowest strength that has enough effect, and keeps identity."""
    kept = ~(curve.identity < _KEPT * curve.identity_generated)
    if method == "sdedit":  # at 1 nothing of the cell is left
        kept &= curve.strength < 1
    fit = curve[kept] if kept.any() else curve
    most = fit.effect.max()
    enough = fit.effect >= (_ENOUGH * most if most > 0 else most)  # the wrong way, all of them
    return int(fit.index[enough | fit.effect.isna().all()][0])
