"""Predict experiments that nobody did: control cells as they would be, perturbed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scgm_scvi._errors import whole_number
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.prior._measured_responses import Observed
from scgm_scvi.model.prior._response_contexts import context_conditions
from scgm_scvi.model.requests._attributes import Attributes

from ._asked_responses import Asked, read_asked
from ._chunks import Chunk, ChunksMixin
from ._control_attributes import as_given, values_of_contexts
from ._control_cells import ControlCellsMixin, Controls
from ._verb import Run, require_expression

__all__ = ["PredictionMixin"]

_SOURCE = "control_cell"


class PredictionMixin(ControlCellsMixin, ChunksMixin):
    """Predict perturbations."""

    @overload
    def predict(
        self,
        adata: AnnData,
        perturbations: str | Sequence[str] | pd.DataFrame,
        *,
        out: str | os.PathLike,
        n_cells: int | None = None,
        dose: float | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> Path: ...

    @overload
    def predict(
        self,
        adata: AnnData,
        perturbations: str | Sequence[str] | pd.DataFrame,
        *,
        n_cells: int | None = None,
        dose: float | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        out: None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData: ...

    @leaves_random_state
    def predict(
        self,
        adata: AnnData,
        perturbations: str | Sequence[str] | pd.DataFrame,
        *,
        n_cells: int | None = None,
        dose: float | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        out: str | os.PathLike | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData | Path:
        r"""Predict what perturbations would make of control cells, done before or not.

        The response of each perturbation, a change of mean log expression, is what a Gaussian
        process expects of it, that has learnt from the model's own cells: from perturbations whose
        vectors are alike, from the parts of a set, from other doses, and from contexts (cell types,
        lines, conditions) whose control cells are alike; of what was seen itself it is what was
        seen, as far as that can be told from noise. A context is known by its control cells alone.
        The counts of each control cell are then moved as its decoder's distribution moves, so that
        what does not respond keeps its very count.

        Parameters
        ----------
        adata
            Control cells with raw counts; not changed. They need none of the columns that the model
            was set up with; where they have values of a condition that it does not know, as of a new
            cell line, these are new contexts. A model of several modalities takes a MuData of cells
            that were measured in all, and returns one.
        perturbations
            Names: of perturbations that cells had or that have a vector in ``condition_embeddings``,
            or sets of them, ``"A+B"``, in any order. Or a DataFrame with a row for each prediction,
            and the columns that the model was set up with for perturbation and dose, alone: all are
            predicted of all the control cells.
        n_cells
            Cells for each, drawn from the control cells, each as often as any other, give or take
            one. Default: every control cell once.
        dose
            Of all perturbations, where no table has one for each. Default: the largest that was
            seen.
        expression
            ``"counts"``: integers. ``"normalized"``: what is expected of the cell, scaled to 10,000.
        seed
            Same seed, same device, same ``batch_size``, same cells of a perturbation, whatever else
            is asked for and in which order. Default: a fresh one, recorded in the result.
        out
            File to write to in chunks, ``.h5ad`` or ``.zarr``. An existing file is not overwritten.
        batch_size
            Cells at a time; bounds the memory. Default: as many as are decoded within half a
            gigabyte.
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData, or the path if ``out`` is given, with expression in ``X``, the training ``var``,
        latents in ``obsm["X_scgm"]``, and in ``obs`` the perturbation, its dose, what else the
        model was set up with as far as the control cell has it, and its name as ``"control_cell"``. In ``uns["scgm"]`` is
        what was asked, and ``"expected"``, a row for each perturbation and context: the ``basis``
        (``"seen"``; or what of it was not: a ``"perturbation"``, a ``"combination"``, the
        ``"context"``), the ``r2`` that the process expects of the change, and how well
        those that were seen are predicted when they are left out, ``"response"``, beside
        ``"mean_response"``, the mean response of the others: NaN where fewer than three were.

        Warns
        -----
        UserWarning
            If those that were seen are predicted no better than by their mean response, or by none;
            or too few were seen to know.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, TypeError, ValueError
            If a name is neither known nor has a vector, the model has no perturbations, cells that
            are no controls are passed for such, or a number makes no sense.

        Examples
        --------
        >>> cells = model.predict(controls, ["STAT1", "STAT1+IRF9"], n_cells=400)  # doctest: +SKIP
        >>> model.predict(controls, drugs[["drug", "dose"]], out="drugs.h5ad")  # doctest: +SKIP

        References
        ----------
        Rasmussen & Williams 2006, Gaussian processes for machine learning; what linear models and
        mean responses reach: Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6.
        """
        seed = None if seed is None else whole_number(seed, "seed", least=0)
        run = self._run(seed, batch_size, progress_bar)
        require_expression(expression)
        self._require_source_name()
        model = self._responses()
        named = self._named_perturbations()
        categories = self.condition_spec.categorical[named.key]
        had = {part for category in categories for part in named.parts(category)}
        asked = read_asked(perturbations, dose, named, model, had)
        if n_cells is not None:
            n_cells = whole_number(n_cells, "n_cells")
        controls = self._read_controls(adata, model, run.batch_size)
        n_cells = adata.n_obs if n_cells is None else n_cells
        rows = [self._drawn(adata.n_obs, n_cells, a, run) for a in asked]
        contexts = [np.unique(controls.context[own]) for own in rows]
        pairs = [
            Observed(a.parts, a.dose, int(c))
            for a, own in zip(asked, contexts, strict=True)
            for c in own
        ]
        predicted, expected = self._expected_changes(model, pairs, controls.places)
        # as it was written: "B+A", which is what obs has too
        expected["perturbation"] = [
            a.name for a, own in zip(asked, contexts, strict=True) for _ in own
        ]
        place = ["/".join("unspecified" if v is None else v for v in of) for of in controls.values]
        expected["context"] = [place[a.context] for a in pairs]
        for doubt in self._doubts(expected["basis"], controls.places):
            warnings.warn(doubt, UserWarning, stacklevel=3)
        at = {
            (i.parts, i.dose, i.context): controls.folds[i.context].inverse(row)
            for i, row in zip(pairs, predicted.change, strict=True)
        }
        changes = [
            {int(c): at[a.parts, a.dose, int(c)] for c in own}
            for a, own in zip(asked, contexts, strict=True)
        ]
        uns = self._provenance(
            run,
            kind="interventional",
            expression=expression,
            n_cells=n_cells,
            batch_size=run.batch_size,
            expected=expected,
        )
        chunks = self._predicted(controls, asked, rows, changes, expression, run)
        bar = run.bar(n_cells * len(asked), "Predicting")
        return self._handed_back(chunks, uns, bar, out)

    def _require_source_name(self) -> None:
        spec = self.condition_spec
        if _SOURCE in [*spec.names, *spec.numeric_covariates]:
            raise ValueError(
                f"The model was set up with a column {_SOURCE!r}, and predicted cells have the name of "
                f"their control cell there. Rename it, adata.obs.rename(columns={{{_SOURCE!r}: ...}}), "
                "and set up and train again."
            )

    def _drawn(self, n: int, n_cells: int, asked: Asked, run: Run) -> np.ndarray:
        """Rows of control cells for a perturbation, each as often as others."""
        rng = np.random.default_rng([run.seed, asked.key])
        rounds = [np.arange(n)] * (n_cells // n)
        return np.concatenate([*rounds, np.sort(rng.permutation(n)[: n_cells % n])])

    def _loaded_each(
        self, cells: Any, controls: Controls, rows: list[np.ndarray], batch_size: int
    ) -> Iterator[tuple[int, int, np.ndarray, dict[str, torch.Tensor]]]:
        """Minibatches of one perturbation each: its number, that of the minibatch, rows, tensors.

        Perturbations of few cells are loaded together, since a loader takes longer than the cells.
        """
        n = len(rows[0])  # as of all others
        together = max(1, batch_size // n)
        for first in range(0, len(rows), together):
            group = rows[first : first + together]
            every = np.concatenate(group)
            size = n if n <= batch_size else batch_size
            loaded = self._loaded(cells, controls.reading, every, batch_size)
            for j, tensors in enumerate(loaded):
                here = every[j * batch_size : (j + 1) * batch_size]
                for k, start in enumerate(range(0, len(here), size)):
                    of = slice(start, start + size)
                    part = {key: tensor[of] for key, tensor in tensors.items()}
                    yield first + k, j, here[of], part

    def _predicted(
        self,
        controls: Controls,
        asked: list[Asked],
        rows: list[np.ndarray],
        changes: list[dict[int, np.ndarray]],
        expression: str,
        run: Run,
    ) -> Iterator[Chunk]:
        """Predict some cells at a time, one perturbation after the other."""
        spec, perturbations, written = self.condition_spec, self._named_perturbations(), 0
        names_of = pd.CategoricalDtype(list(dict.fromkeys(a.name for a in asked)))
        said = {
            name: values_of_contexts(categories, [v[j] for v in controls.values])[controls.context]
            for j, (name, categories) in enumerate(context_conditions(spec).items())
        }
        given = as_given(controls.given, spec, said)
        sources = controls.adata.obs_names.astype(str)
        with self._registered(controls.adata, controls.reading) as cells, torch.no_grad():
            for i, j, own, tensors in self._loaded_each(cells, controls, rows, run.batch_size):
                one, n = asked[i], len(own)
                seed = int(np.random.SeedSequence([run.seed, one.key, j]).generate_state(1)[0])
                context = controls.context[own]
                change = np.stack([changes[i][c] for c in context])
                attributes = self._as_controls(Attributes.of(spec, tensors))
                moved = self._moved(tensors, attributes, change, seed)
                index = pd.Index([f"predicted_{written + k}" for k in range(n)])
                written += n
                obs = given.iloc[own].set_axis(index)
                obs[perturbations.key] = pd.Categorical([one.name] * n, dtype=names_of)
                if perturbations.dose_key is not None:
                    obs[perturbations.dose_key] = one.dose
                obs[_SOURCE] = pd.Categorical(sources[own], categories=sources.unique())
                yield Chunk(moved.expression(expression), moved.latent, obs)
