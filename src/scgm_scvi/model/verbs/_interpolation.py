"""Trajectories between cells, or between conditions, along the probability flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgm_scvi._errors import whole_number
from scgm_scvi.diffusion import slerp
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._matrices import stacked
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._condition_tables import Conditions, row_names, rows_of
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling

from ._verb import Verb, require_expression

__all__ = ["InterpolationMixin"]


class _Ends(NamedTuple):
    """Both ends of some trajectories: attributes and noise of each.

    At position ``turn``, ``(n, 1)``, a trajectory's decoder passes from source to target.
    """

    source: Attributes
    target: Attributes
    source_noise: torch.Tensor
    target_noise: torch.Tensor
    turn: torch.Tensor

    def rows(self, rows: slice) -> _Ends:
        """Those of some trajectories."""
        source, target = self.source.rows(rows), self.target.rows(rows)
        return _Ends(source, target, *(values[rows] for values in self[2:]))

    def between(self, w: float) -> tuple[Attributes, Attributes]:
        """Both ends, continuous conditions moved to position ``w`` where both are known."""
        a, b = self.source.values, self.target.values
        value = (1 - w) * a + w * b
        moved = [torch.where(value.isnan(), own, value) for own in (a, b)]
        return replace(self.source, values=moved[0]), replace(self.target, values=moved[1])


class InterpolationMixin(Verb):
    """Cells in between."""

    @leaves_random_state
    def interpolate(
        self,
        source: ad.AnnData | Conditions,
        target: ad.AnnData | Conditions,
        n_points: int = 11,
        *,
        n_cells: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        n_steps: int = 36,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> ad.AnnData:
        r"""Trajectories from a source to a target, each of which is cells or conditions.

        Every point of a trajectory is a cell that the model holds possible: it comes from noise
        along the probability flow. Cells are carried up to their noise, and between two cells the
        noise is interpolated on the sphere; between two conditions the denoiser is,
        :math:`(1-w) D_{source} + w D_{target}`, and a continuous condition itself (a dose from 0
        to 10 passes 5).

        ================  ================  ===================================================
        ``source``        ``target``        trajectory
        ================  ================  ===================================================
        conditions        conditions        one noise denoised under conditions that change
        cells             conditions        each cell as the named conditions change; its other
                                            conditions, batch and covariates stay
        conditions        cells             the same backwards
        cells             cells             from each cell to its partner in the same row
        ================  ================  ===================================================

        Parameters
        ----------
        source, target
            An AnnData of cells, registered like the model's own if they are not yet, and not
            changed; or conditions as in :meth:`generate`. A table whose index has names goes by
            those of the cells, or of the table at the other end.
        n_points
            Number of cells on a trajectory, both ends included; at least 2.
        n_cells
            Number of trajectories, where it does not follow from ``source`` and ``target``.
        guidance_scale
            As in :meth:`generate`. Cells are carried up without guidance, so with a scale other
            than 1 a trajectory begins near its cell, not at it.
        n_steps
            Steps of the flow, up (for cells) and down.
        expression
            As in :meth:`generate`. ``"normalized"`` shows a gene along the way without the noise
            of counting.
        seed
            Same seed, same device, same cells. Default: a fresh one, recorded in the result.
        batch_size
            Trajectories at a time, as in :meth:`generate`.
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData as :meth:`generate` returns it, ``n_points`` cells a trajectory, with
        ``obs["scgm_trajectory"]``, the name of the cell it belongs to or a number, and
        ``obs["scgm_position"]``, from 0 to 1. The decoder, and batch and categorical conditions in
        ``obs``, pass from the source's to the target's at a point of each trajectory's own,
        drawn evenly, so that averages over trajectories change evenly.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, ValueError
            If an attribute, category or number makes no sense, or source and target differ in
            number; the message names it.

        Examples
        --------
        >>> model.interpolate({"dose": 0}, {"dose": 10}, n_cells=200)  # doctest: +SKIP
        >>> model.interpolate(stem_cells, {"cell_type": "Ery"}, n_points=21)  # doctest: +SKIP

        References
        ----------
        Song et al. 2021, arXiv:2011.13456, section 4.3; Song, Meng & Ermon 2021,
        arXiv:2010.02502, section 5.3.
        """
        run = self._run(seed, batch_size, progress_bar)
        n_points = whole_number(n_points, "n_points")
        if n_points < 2:
            raise ValueError("n_points is 1; a trajectory has two ends at least.")
        require_expression(expression)
        sampling = Sampling.parse(
            self.condition_spec, guidance_scale=guidance_scale, n_steps=n_steps
        )
        rng, generator = np.random.default_rng(run.seed), self.prior.generator(run.seed)
        with torch.no_grad():
            ends, names = self._ends(source, target, n_cells, sampling, rng, generator)
            parts = []
            with run.bar(n_points * len(names), "Interpolating") as bar:
                for _, rows in run.chunks(len(names)):
                    start = run.seed + rows.start
                    part = self._trajectories(
                        ends.rows(rows), n_points, sampling, expression, start, generator
                    )
                    parts.append(part)
                    bar.update(part.n_obs)
        x = [part.X for part in parts]
        obs = pd.concat([part.obs for part in parts], ignore_index=True)
        obs["scgm_trajectory"] = pd.Categorical(np.repeat(names, n_points), categories=names)
        obs.index = [f"{name}_{i}" for name in names for i in range(n_points)]
        uns = {
            **self._provenance(run, **sampling.describe(), expression=expression),
            "interpolate": {
                "n_points": n_points,
                "source": _described(source),
                "target": _described(target),
            },
        }
        cells = ad.AnnData(
            stacked(x),
            obs=obs,
            var=self.var_.copy(),
            obsm={self.latent_key: np.concatenate([p.obsm[self.latent_key] for p in parts])},
            uns={"scgm": uns},
        )
        return self._cells.pack(cells)

    def _ends(
        self,
        source: ad.AnnData | Conditions,
        target: ad.AnnData | Conditions,
        n_cells: int | None,
        sampling: Sampling,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[_Ends, list[str]]:
        """Conditions and noise of both ends, and the trajectories' names."""
        spec = self.condition_spec
        given: list[Any] = [source, target]
        both = [(g, self._cells.is_cells(g)) for g in given]
        numbers = [g.n_obs for g, are in both if are]
        if len(set(numbers)) > 1:
            raise ValueError(
                f"source has {numbers[0]} cells and target {numbers[1]}; a trajectory goes from "
                "each cell to its partner in the same row, so give as many of one as of the other."
            )
        if numbers and n_cells not in (None, numbers[0]):
            raise ValueError(f"n_cells is {n_cells}, but {numbers[0]} cells are given.")
        n = numbers[0] if numbers else n_cells
        if n is None:
            n = next((m for m in map(rows_of, given) if m is not None), None)
        # rows of a table go by the names of the cells, or of the table that comes first
        names_of = [g.obs_names if are else None for g, are in both[::-1]]
        names_of[1] = row_names(source) if names_of[1] is None else names_of[1]
        requests = [
            None if are else Request.parse(spec, n, g, names)
            for (g, are), names in zip(both, names_of, strict=True)
        ]
        prior = self.prior
        cells = [self._states(g) if are else None for g, are in both]
        known = [c for c in cells if c is not None]
        asked = [r for r in requests if r is not None]
        names = [f"trajectory_{i}" for i in range(len(asked[0]) if asked else len(known[0][0]))]
        for g, are in both[::-1]:
            if are and g.obs_names.is_unique:
                names = list(g.obs_names.astype(str))
        if known:
            ends = [
                asked[0].over(known[0][0], set({} if g is None else g)) if c is None else c[0]
                for c, g in zip(cells, given, strict=True)
            ]
            codes = [prior.invert(state, own, sampling) for own, state in known]
            codes = codes * 2 if len(codes) == 1 else codes
        else:
            start = asked[0].draw_nuisances(prior.design, rng)
            ends = [start, asked[1].instead_of(start)]
            codes = [prior.noise(len(names), sampling, generator)] * 2
        turn = torch.as_tensor(rng.uniform(size=(len(names), 1)))
        return _Ends(ends[0], ends[1], codes[0], codes[1], turn), names

    def _trajectories(
        self,
        ends: _Ends,
        n: int,
        sampling: Sampling,
        expression: str,
        seed: int,
        generator: torch.Generator,
    ) -> ad.AnnData:
        """Cells of some trajectories, one trajectory after the other."""
        prior, n_cells = self.prior, len(ends.turn)
        x, latents, obs = [], [], []
        for w in np.linspace(0, 1, n).tolist():
            source, target = ends.between(w)
            state = prior.descend(
                slerp(ends.source_noise, ends.target_noise, w),
                source,
                sampling,
                generator,
                towards=target,
                weight=torch.full((n_cells, 1), w),
            )
            passed = ends.turn <= w if w > 0 else ends.turn < 0
            attributes = source.where(passed, target)
            x.append(prior.express(state, attributes, expression, seed))
            latents.append(prior.latents(state))
            obs.append(attributes.obs(pd.RangeIndex(n_cells)).assign(scgm_position=w))
        # position by position until here; a trajectory's cells belong together
        order = np.arange(n * n_cells).reshape(n, n_cells).T.ravel()
        x = stacked(x)
        obs = pd.concat(obs, ignore_index=True)
        cells = ad.AnnData(x, obs.set_axis(obs.index.astype(str)))
        cells.obsm[self.latent_key] = np.concatenate(latents)
        return cells[order].copy()


def _described(end: Any) -> str:
    """What an end was, for the record."""
    if isinstance(end, pd.DataFrame):
        return "conditions of each cell"
    return f"{end.n_obs} cells" if hasattr(end, "n_obs") else str(dict(end or {}))
