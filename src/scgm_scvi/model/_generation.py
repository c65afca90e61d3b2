"""Generate cells from nothing, by any of the attributes a model knows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch.distributions import Distribution
from tqdm.auto import tqdm

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.diffusion import SAMPLERS, classifier_free, guidance_variants, karras_sigmas
from scgm_scvi.module import SCGM_KEYS

from ._conditions import Conditions, ConditionSpec, Request, require_known
from ._diffusion import _fingerprint
from ._writing import ChunkWriter

__all__ = ["GenerationMixin"]


class _Chunk(NamedTuple):
    x: sparse.csr_matrix | np.ndarray
    latent: np.ndarray
    obs: pd.DataFrame


class GenerationMixin:
    """Sample latents from stage two and decode them with stage one.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`; knows nothing of what the features are.
    """

    latent_key: str = "X_scgm"

    def generate(
        self,
        n_cells: int | None = None,
        conditions: Conditions = None,
        *,
        guidance_scale: float | Mapping[str, float] = 1.0,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        out: str | os.PathLike | None = None,
        batch_size: int = 2048,
        progress_bar: bool = True,
    ) -> ad.AnnData | Path:
        """Generate cells that were never measured.

        Parameters
        ----------
        n_cells
            How many; may be left out where ``conditions`` has a row, or a value, a cell.
        conditions
            What the cells should be: a dict of attribute to one value for all cells or to a list
            with one a cell; or a DataFrame with a row a cell. Attributes left out, and missing
            values, are unspecified. A batch or covariate may be named too; where it is not, it is
            drawn as it occurs among training cells with these conditions.
        guidance_scale
            1: the conditional model itself. Above 1: classifier-free guidance, cells more typical
            of their conditions and less diverse. A dict sets one scale per condition (batch and
            covariates have none).
        sampler
            A name in :data:`scgm_scvi.diffusion.SAMPLERS`.
        n_steps
            Steps the sampler takes; default: the sampler's own.
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
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData with CSR counts in ``X``, the training ``var``, the conditions in ``obs``, latents
        in ``obsm["X_scgm"]`` and every parameter in ``uns["scgm"]``; or the path, if ``out`` is
        given.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, ValueError
            If an attribute, category, sampler or number makes no sense; the message names it.

        Examples
        --------
        >>> cells = model.generate(1000, {"cell_type": "CD4 T"}, seed=0)  # doctest: +SKIP
        >>> twin = model.generate(conditions=adata.obs[["cell_type"]])  # doctest: +SKIP
        """
        self._require_diffusion()
        request = Request.parse(self.condition_spec, n_cells, conditions)
        if sampler not in SAMPLERS:
            raise ValueError(
                f"sampler {sampler!r} is unknown.{nearest(sampler, SAMPLERS)} "
                f"Known: {listed(SAMPLERS)}."
            )
        if n_steps is None:
            n_steps = SAMPLERS[sampler].default_steps
        n_steps = whole_number(n_steps, "n_steps")
        batch_size = whole_number(batch_size, "batch_size")
        if expression not in ("counts", "normalized"):
            raise ValueError(f"expression is {expression!r}; use 'counts' or 'normalized'.")
        self._check_guidance(guidance_scale)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        uns = {
            "model": _fingerprint(self.module.state_dict()),
            "class": type(self).__name__,
            "sampler": sampler,
            "n_steps": n_steps,
            "guidance_scale": dict(guidance_scale)
            if isinstance(guidance_scale, Mapping)
            else float(guidance_scale),
            "expression": expression,
            "seed": int(seed),
            "batch_size": batch_size,
            "version": version("scgm_scvi"),
        }
        chunks = self._chunks(
            request, guidance_scale, sampler, n_steps, expression, seed, batch_size
        )
        bar = tqdm(total=len(request), unit="cell", desc="Generating", disable=not progress_bar)
        if out is None:
            with bar:
                return self._collect(_counted(chunks, bar), uns)
        with ChunkWriter(out) as writer, bar:
            for chunk in _counted(chunks, bar):
                writer.append(chunk.x, {self.latent_key: chunk.latent}, chunk.obs)
            writer.finish(self.var_, {"scgm": uns})
        return Path(out)

    def _collect(self, chunks: Iterator[_Chunk], uns: dict[str, Any]) -> ad.AnnData:
        x, latents, obs = zip(*chunks, strict=True)
        return ad.AnnData(
            sparse.vstack(x, format="csr") if sparse.issparse(x[0]) else np.concatenate(x),
            obs=pd.concat(obs),
            var=self.var_.copy(),
            obsm={self.latent_key: np.concatenate(latents)},
            uns={"scgm": uns},
        )

    def _check_guidance(self, scale: float | Mapping[str, float]) -> None:
        named = scale if isinstance(scale, Mapping) else {"guidance_scale": scale}
        for name, value in named.items():
            if isinstance(scale, Mapping):
                require_known(name, self.condition_spec.steered, "guidance_scale")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}; a guidance scale is 0 or more.")

    def _chunks(
        self,
        request: Request,
        guidance_scale: float | Mapping[str, float],
        sampler: str,
        n_steps: int,
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
            state = self._sample_state(tensors, guidance_scale, sampler, n_steps, generator)
            distribution = self.module.decode_state(state, tensors)
            x = self._express(distribution, expression, torch_seed)
            yield _Chunk(x, state[:, :-1].cpu().numpy(), request.obs(tensors, start))

    @torch.inference_mode()
    def _sample_state(
        self,
        tensors: Mapping[str, torch.Tensor],
        guidance_scale: float | Mapping[str, float],
        sampler: str,
        n_steps: int,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Sample states ``(n, n_latent + 1)``, float32, in the units of the latent."""
        denoiser, device, spec = self.module.denoiser, self.device, self.condition_spec
        variants = []
        for dropped, weight in guidance_variants(guidance_scale, self._specified(tensors)):
            tokens, values = self.module.denoiser_conditions(
                {**tensors, **_without(tensors, dropped, spec)}
            )
            variants.append((weight, (tokens.to(device), values.to(device))))
        sigmas = karras_sigmas(n_steps).to(device)
        n = len(tensors[REGISTRY_KEYS.BATCH_KEY])
        noise = torch.randn(
            n, denoiser.n_dims, generator=generator, device=device, dtype=torch.float64
        )
        result = SAMPLERS[sampler].function(
            classifier_free(denoiser, variants), noise * sigmas[0], sigmas, generator=generator
        )
        return denoiser.unstandardize(result.x.float())

    def _specified(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Conditions that at least one cell of the minibatch specifies."""
        spec = self.condition_spec
        tokens = tensors[SCGM_KEYS.CONDITIONS_KEY]
        values = tensors[SCGM_KEYS.CONDITION_VALUES_KEY]
        names = [n for j, n in enumerate(spec.categorical) if bool((tokens[:, j] > 0).any())]
        return names + [
            n for j, n in enumerate(spec.continuous) if not bool(values[:, j].isnan().all())
        ]

    def _express(
        self, distribution: Distribution, expression: str, seed: int
    ) -> sparse.csr_matrix | np.ndarray:
        """Draw features, or take their mean scaled to 10,000 a cell."""
        if expression == "normalized":
            mean = distribution.mean
            return (mean / mean.sum(dim=1, keepdim=True) * 1e4).cpu().numpy()
        # torch.distributions take no generator: borrow the global one, and give it back.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            x = distribution.sample().cpu().numpy()
        return sparse.csr_matrix(x)


def _without(
    tensors: Mapping[str, torch.Tensor], dropped: frozenset[str], spec: ConditionSpec
) -> dict[str, torch.Tensor]:
    """The conditions of ``tensors`` with some attributes unspecified."""
    tokens = tensors[SCGM_KEYS.CONDITIONS_KEY].clone()
    values = tensors[SCGM_KEYS.CONDITION_VALUES_KEY].clone()
    tokens[:, [j for j, name in enumerate(spec.categorical) if name in dropped]] = 0
    values[:, [j for j, name in enumerate(spec.continuous) if name in dropped]] = float("nan")
    return {SCGM_KEYS.CONDITIONS_KEY: tokens, SCGM_KEYS.CONDITION_VALUES_KEY: values}


def _counted(chunks: Iterator[_Chunk], bar: tqdm) -> Iterator[_Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk.obs))
