"""Generate cells from nothing, by any of the attributes a model knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch.distributions import Distribution
from tqdm.auto import tqdm

from scgm_scvi._errors import whole_number
from scgm_scvi.distributions import with_mean
from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.requests._conditions import Conditions, Request
from scgm_scvi.model.requests._energy import Energy
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.training._diffusion import weights_fingerprint

__all__ = ["GenerationMixin", "fresh_seed", "require_expression", "stacked"]


class _Chunk(NamedTuple):
    x: sparse.csr_matrix | np.ndarray
    latent: np.ndarray
    obs: pd.DataFrame


class GenerationMixin:
    """Sample latents from stage two and decode them with stage one.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`, ``SamplingMixin`` and ``AnnDataMixin``;
    knows nothing of what the features are.
    """

    latent_key: str = "X_scgm"

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
            lower where better: any differentiable wish about latents or decoded expression.
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
        self._require_diffusion()
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
        if batch_size is None:
            batch_size = default_batch_size(len(self.var_))
        batch_size = whole_number(batch_size, "batch_size")
        require_expression(expression)
        if seed is None:
            seed = fresh_seed()
        uns = self._provenance(
            seed, **sampling.describe(), expression=expression, batch_size=batch_size
        )
        chunks = self._chunks(request, sampling, expression, seed, batch_size)
        bar = tqdm(total=len(request), unit="cell", desc="Generating", disable=not progress_bar)
        if out is None:
            with bar:
                return self._packed(self._collect(_counted(chunks, bar), uns))
        with self._writer(out) as writer, bar:
            for chunk in _counted(chunks, bar):
                writer.append(chunk.x, {self.latent_key: chunk.latent}, chunk.obs)
            writer.finish(self.var_, {"scgm": uns})
        return Path(out)

    def _provenance(self, seed: int, **parameters: Any) -> dict[str, Any]:
        """What made some cells, as builtins: the model, its ``parameters``, and the seed."""
        return {
            "model": weights_fingerprint(self.module.state_dict()),
            "class": type(self).__name__,
            **parameters,
            "seed": int(seed),
            "version": version("scgm_scvi"),
        }

    def _collect(self, chunks: Iterator[_Chunk], uns: dict[str, Any]) -> ad.AnnData:
        x, latents, obs = zip(*chunks, strict=True)
        return ad.AnnData(
            stacked(x),
            obs=pd.concat(obs),
            var=self.var_.copy(),
            obsm={self.latent_key: np.concatenate(latents)},
            uns={"scgm": uns},
        )

    def _chunks(
        self,
        request: Request,
        sampling: Sampling,
        expression: str,
        seed: int,
        batch_size: int,
    ) -> Iterator[_Chunk]:
        """Generate ``batch_size`` cells at a time, each chunk from its own seed."""
        for i, start in enumerate(range(0, len(request), batch_size)):
            part = request.rows(start, start + batch_size)
            seeds = np.random.SeedSequence([seed, i]).generate_state(2, np.uint64)
            numpy_seed, torch_seed = int(seeds[0]), int(seeds[1]) >> 1  # torch's has a sign bit
            tensors = part.draw_nuisances(self.diffusion_design_, np.random.default_rng(numpy_seed))
            generator = torch.Generator(device=self.device).manual_seed(torch_seed)
            state = self._sample_state(tensors, sampling, generator)
            x = self._express(state, tensors, expression, torch_seed)
            latent, _ = self.module.split_state(state)
            yield _Chunk(x, latent.cpu().numpy(), request.obs(tensors, start))

    @torch.no_grad()
    def _express(
        self,
        state: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
        expression: str,
        seed: int,
    ) -> sparse.csr_matrix | np.ndarray:
        """Decode; draw features, or take their mean scaled to 10,000 a cell and modality."""
        return self._drawn(self._decoded(state, tensors), expression, seed)

    @torch.no_grad()
    def _decoded(
        self,
        state: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
        adjust: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Distribution:
        """Distribution of the features of cells.

        ``adjust`` is a function of the expected proportions of features, in their modalities, to those
        that they shall have.
        """
        distribution = self.module.decode_state(state, tensors)
        if adjust is None:
            return distribution
        total = self.module.modality_totals(distribution.mean)
        return with_mean(distribution, adjust(distribution.mean / total) * total)

    @torch.no_grad()
    def _drawn(
        self, distribution: Distribution, expression: str, seed: int
    ) -> sparse.csr_matrix | np.ndarray:
        """Features drawn, or their mean scaled to 10,000 a cell and modality."""
        if expression == "normalized":
            return (self.module.proportions(distribution.mean) * 1e4).cpu().numpy()
        # torch.distributions take no generator: borrow the global one, and give it back.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            x = distribution.sample().cpu().numpy()
        return sparse.csr_matrix(x)


def fresh_seed() -> int:
    """A seed for who names none."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def require_expression(expression: str) -> None:
    """Raise ``ValueError`` unless it is a kind of expression that cells come in."""
    if expression not in ("counts", "normalized"):
        raise ValueError(f"expression is {expression!r}; use 'counts' or 'normalized'.")


def stacked(parts: Sequence[sparse.csr_matrix | np.ndarray]) -> sparse.csr_matrix | np.ndarray:
    """Chunks of features as one matrix, sparse if they are."""
    return (
        sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
    )


def _counted(chunks: Iterator[_Chunk], bar: tqdm) -> Iterator[_Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk.obs))
