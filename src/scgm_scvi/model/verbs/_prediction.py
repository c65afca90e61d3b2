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
from scvi import REGISTRY_KEYS

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.prior._measured_responses import Observed
from scgm_scvi.model.prior._response_contexts import context_conditions
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.requests._attributes import Attributes

from ._chunks import Chunk, ChunksMixin
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
            cell line, these are new contexts.
        perturbations
            Names: of perturbations that cells had or that have a vector in ``condition_embeddings``,
            or sets of them, ``"A+B"``, in any order. Or a DataFrame with a row for each prediction,
            and the columns that the model was set up with for perturbation and dose.
        n_cells
            Cells for each, drawn from the control cells, each as often as any other, give or take
            one. Default: every control cell once.
        dose
            Of all perturbations. Default: the largest that was seen.
        expression
            ``"counts"``: integers. ``"normalized"``: what is expected of the cell, scaled to 10,000.
        seed
            Same seed, same device, same cells. Default: a fresh one, recorded in the result.
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
        latents in ``obsm["X_scgm"]``, and in ``obs`` the perturbation, its dose, the other
        conditions of the control cell, and its name as ``"control_cell"``. In ``uns["scgm"]`` is
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
        run = self._run(seed, batch_size, progress_bar)
        require_expression(expression)
        model = self._responses()
        names, asked = self._read_asked(perturbations, dose, model)
        if n_cells is not None:
            n_cells = whole_number(n_cells, "n_cells")
        controls = self._read_controls(adata, model, run.batch_size)
        n_cells = adata.n_obs if n_cells is None else n_cells
        rows = self._drawn(adata.n_obs, n_cells, len(asked), run)
        pairs = [
            Observed(parts, amount, int(c))
            for (parts, amount), own in zip(asked, rows, strict=True)
            for c in np.unique(controls.context[own])
        ]
        predicted, expected = self._expected_changes(model, pairs, controls.places)
        place = ["/".join("unspecified" if v is None else v for v in of) for of in controls.values]
        expected["context"] = [place[a.context] for a in pairs]
        for doubt in self._doubts(expected["basis"], controls.places):
            warnings.warn(doubt, UserWarning, stacklevel=3)
        at = {
            (i.parts, i.dose, i.context): controls.folds[i.context].inverse(row)
            for i, row in zip(pairs, predicted.change, strict=True)
        }
        changes = [
            {c: at[parts, amount, int(c)] for c in np.unique(controls.context[own])}
            for (parts, amount), own in zip(asked, rows, strict=True)
        ]
        uns = self._provenance(
            run,
            kind="interventional",
            expression=expression,
            n_cells=n_cells,
            batch_size=run.batch_size,
            expected=expected,
        )
        chunks = self._predicted(controls, names, asked, rows, changes, expression, run)
        bar = run.bar(n_cells * len(asked), "Predicting")
        return self._handed_back(chunks, uns, bar, out)

    def _read_asked(
        self, given: Any, dose: float | None, model: ResponseModel
    ) -> tuple[list[str], list[tuple[tuple[str, ...], float]]]:
        """Names as they are asked for, their parts, and doses."""
        perturbations, usual = self._named_perturbations(), model.likeness.curve.doses[-1]
        doses: Any = usual if dose is None else dose
        if isinstance(given, pd.DataFrame):
            if perturbations.key not in given:
                raise KeyError(
                    f"perturbations has no column {perturbations.key!r}."
                    f"{nearest(perturbations.key, given.columns)} Columns: {listed(given.columns)}."
                )
            if perturbations.dose_key in given and dose is None:
                doses = given[perturbations.dose_key].fillna(usual).tolist()
            given = given[perturbations.key].tolist()
        names = [str(n) for n in ([given] if isinstance(given, str) else list(given))]
        if not names:
            raise ValueError("perturbations is empty; name at least one.")
        if dose is not None and perturbations.dose_key is None:
            raise ValueError(f"dose is {dose!r}, and the model was set up without a dose_key.")
        doses = doses if isinstance(doses, list) else [doses] * len(names)
        for amount in doses:
            if isinstance(amount, bool) or not np.isfinite(amount) or amount < 0:
                raise ValueError(f"dose is {amount!r}; it must be a number, zero or above.")
        parts = perturbations.require_known(names, model.singles)
        asked = list(zip(parts, map(float, doses), strict=True))
        if len(set(asked)) < len(asked):
            twice = [n for n, a in zip(names, asked, strict=True) if asked.count(a) > 1]
            raise ValueError(f"perturbations names {listed(twice, 3)} more than once.")
        return names, asked

    def _drawn(self, n: int, n_cells: int, n_asked: int, run: Run) -> list[np.ndarray]:
        """Rows of control cells for each perturbation, each as often as others."""
        out = []
        for i in range(n_asked):
            rng = np.random.default_rng([run.seed, i])
            rounds = [np.arange(n)] * (n_cells // n)
            out.append(np.concatenate([*rounds, np.sort(rng.permutation(n)[: n_cells % n])]))
        return out

    def _predicted(
        self,
        controls: Controls,
        names: list[str],
        asked: list[tuple[tuple[str, ...], float]],
        rows: list[np.ndarray],
        changes: list[dict[int, np.ndarray]],
        expression: str,
        run: Run,
    ) -> Iterator[Chunk]:
        """Predict some cells at a time, one perturbation after the other."""
        spec, perturbations, written = self.condition_spec, self._named_perturbations(), 0
        names_of = pd.CategoricalDtype(list(dict.fromkeys(names)))
        said = {
            name: _values(categories, [v[j] for v in controls.values])
            for j, (name, categories) in enumerate(context_conditions(spec).items())
        }
        sources = controls.adata.obs_names.astype(str)
        with self._registered(controls.adata, controls.reading) as cells, torch.no_grad():
            for i, name in enumerate(names):
                start = 0
                loaded = self._loaded(cells, controls.reading, rows[i], run.batch_size)
                for j, tensors in enumerate(loaded):
                    n = len(tensors[REGISTRY_KEYS.BATCH_KEY])
                    own = rows[i][start : start + n]
                    start += n
                    seed = int(np.random.SeedSequence([run.seed, i, j]).generate_state(1)[0])
                    context = controls.context[own]
                    change = np.stack([changes[i][c] for c in context])
                    moved = self._moved(tensors, change, seed)
                    index = pd.Index([f"predicted_{written + k}" for k in range(n)])
                    written += n
                    obs = Attributes.of(spec, tensors).obs(index)
                    for of, column in said.items():
                        obs[of] = column[context]
                    obs[perturbations.key] = pd.Categorical([name] * n, dtype=names_of)
                    if perturbations.dose_key is not None:
                        obs[perturbations.dose_key] = asked[i][1] if asked[i][0] else 0.0
                    obs[_SOURCE] = pd.Categorical(sources[own], categories=sources.unique())
                    yield Chunk(moved.expression(expression), moved.latent, obs)


def _values(categories: np.ndarray, said: list[str | None]) -> pd.Categorical:
    """What contexts are of a condition; as strings, where one is of a value that is not known."""
    own = {str(c): c for c in categories}
    if not own.keys() >= {v for v in said if v is not None}:
        own = {str(c): str(c) for c in [*categories, *filter(None, said)]}
    values = [None if v is None else own[v] for v in said]
    return pd.Categorical(values, categories=list(own.values()))
