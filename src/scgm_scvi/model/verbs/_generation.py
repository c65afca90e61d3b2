"""Generate cells from nothing, by any of the attributes a model knows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import anndata as ad
import numpy as np

from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._energy import Energy
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling

from ._chunks import Chunk, ChunksMixin
from ._verb import Run, require_expression

__all__ = ["GenerationMixin"]


class GenerationMixin(ChunksMixin):
    """Sample latents from stage two and decode them with stage one."""

    @overload
    def generate(
        self,
        n_cells: int | None = None,
        conditions: Conditions = None,
        *,
        out: str | os.PathLike,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        composition: Literal["joint", "additive"] = "joint",
        energy: Energy | None = None,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> Path: ...

    @overload
    def generate(
        self,
        n_cells: int | None = None,
        conditions: Conditions = None,
        *,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        composition: Literal["joint", "additive"] = "joint",
        energy: Energy | None = None,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        out: None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> ad.AnnData: ...

    @leaves_random_state
    def generate(
        self,
        n_cells: int | None = None,
        conditions: Conditions = None,
        *,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        composition: Literal["joint", "additive"] = "joint",
        energy: Energy | None = None,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        out: str | os.PathLike | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> ad.AnnData | Path:
        """Generate cells that were never measured.

        Parameters
        ----------
        n_cells
            How many; may be left out where ``conditions`` has a row, or a value, a cell.
        conditions
            What the cells should be: a dict of attribute to one value for all cells or to a list
            with one a cell; or a DataFrame with a row a cell, whose index names the new cells.
            Attributes left out, and missing
            values, are unspecified. A batch or covariate may be named too; where it is not, it is
            drawn as it occurs among training cells with these conditions.
        guidance_scale
            1: the conditional model itself. Above 1: classifier-free guidance, cells more typical
            of their conditions and less diverse. A dict sets one scale per condition (batch and
            covariates have none).
        guidance_interval
            Noise levels ``(low, high]`` within which to guide; outside, the scale is 1. Default:
            everywhere.
        composition
            How attributes make up a cell. ``"joint"``: the network is asked for all of them at
            once. ``"additive"``: their effects on the denoiser are added, which also composes
            those that were never seen together.
        energy
            Function of :class:`scgm_scvi.model.DenoisedCells` that returns one number a cell,
            lower where better: any differentiable objective of latents or decoded expression.
        sampler
            A name in :data:`scgm_scvi.diffusion.SAMPLERS`.
        n_steps
            Steps the sampler takes; default: the sampler's own.
        sampling_kwargs
            Of the engine: ``grid``, a name in :data:`scgm_scvi.diffusion.GRIDS` or that of a noise
            process; ``sigma_min`` and ``sigma_max``, its ends (by default 0.01 and the largest
            level of training); ``precision``, ``"float32"`` or ``"bfloat16"`` for the network;
            ``compile``, whether by :func:`torch.compile`; and options of the sampler, such as
            ``eta`` of ``"dpmpp_2m_sde"``.
        expression
            ``"counts"``: integers drawn from the decoder's distribution. ``"normalized"``: its
            mean, scaled to 10,000 a cell.
        seed
            Same seed, same device, same cells. Default: a fresh one, recorded in the result.
        out
            File to write to in chunks, ``.h5ad`` or ``.zarr``, for more cells than memory holds.
            An existing file is not overwritten.
        batch_size
            Cells generated at a time; bounds the memory. Part of what the seed determines.
            Default: 2,048, or as many as are decoded within half a gigabyte.
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData with CSR counts in ``X``, the training ``var``, the conditions in ``obs``, latents
        in ``obsm["X_scgm"]`` and every parameter in ``uns["scgm"]``; or the path, if ``out`` is
        given. Categories in ``obs`` are in the order of the training data: those in use, in a file
        all.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since; or cells went off to infinity,
            for too much guidance in too few steps.
        KeyError, TypeError, ValueError
            If an attribute, category, sampler or number makes no sense; the message names it.

        Examples
        --------
        >>> cells = model.generate(1000, {"cell_type": "CD4 T"}, seed=0)  # doctest: +SKIP
        >>> twin = model.generate(conditions=adata.obs[["cell_type"]])  # doctest: +SKIP
        """
        run = self._run(seed, batch_size, progress_bar)
        request = Request.parse(self.condition_spec, n_cells, conditions)
        sampling = Sampling.parse(
            self.condition_spec,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            composition=composition,
            energy=energy,
            sampler=sampler,
            n_steps=n_steps,
            sampling_kwargs=sampling_kwargs,
        )
        require_expression(expression)
        uns = self._provenance(
            run, **sampling.describe(), expression=expression, batch_size=run.batch_size
        )
        chunks = self._chunks(request, sampling, expression, run)
        bar = run.bar(len(request), "Generating")
        return self._handed_back(chunks, uns, bar, out)

    def _chunks(
        self, request: Request, sampling: Sampling, expression: str, run: Run
    ) -> Iterator[Chunk]:
        """Generate some cells at a time, each chunk from its own seed."""
        prior = self.prior
        for i, rows in run.chunks(len(request)):
            part = request.rows(rows.start, rows.stop)
            seeds = run.seeds(i, 2)
            numpy_seed, torch_seed = int(seeds[0]), int(seeds[1]) >> 1  # torch's has a sign bit
            attributes = part.draw_nuisances(prior.design, np.random.default_rng(numpy_seed))
            state = prior.sample(attributes, sampling, prior.generator(torch_seed))
            x = prior.express(state, attributes, expression, torch_seed)
            obs = attributes.obs(request.index(rows.start, len(part)))
            yield Chunk(x, prior.latents(state), obs)
