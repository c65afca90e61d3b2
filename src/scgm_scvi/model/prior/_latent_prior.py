"""The diffusion model of latents, as an engine: from attributes to denoisers, states and cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch.distributions import Distribution

from scgm_scvi.diffusion import (
    GRIDS,
    SAMPLERS,
    classifier_free,
    energy_guidance,
    guidance_interval,
    guidance_variants,
    invert,
    sdedit,
    sigmas_for,
)
from scgm_scvi.distributions import with_mean
from scgm_scvi.model._random_state import torch_seed
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._energy import energy_of_states
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import LatentDiffusionModule

__all__ = ["LatentPrior"]

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
_SIGMA_MIN = 0.01  # nothing is left to remove: posterior samples are noisier by far
_TOO_FAR = 50.0  # standard deviations: nothing that can be decoded


@dataclass(frozen=True)
class LatentPrior:
    """A trained diffusion model of states, and the decoder that makes cells of them.

    A state ``(n, n_latent + n_sizes)`` is a cell's latent with its log library sizes, in their own
    units; samplers work on standardised ones. Nothing here knows of AnnData, nor what features are.

    Attributes
    ----------
    module
        Encoder, decoder and denoiser.
    spec
        Attributes that the model knows.
    design
        Of training cells, a row each: ``"tokens"`` of conditions and nuisances, ``"values"`` and
        ``"numeric"`` covariates. What a request leaves open is drawn from it.

    Examples
    --------
    >>> attributes = request.draw_nuisances(model.prior.design, rng)  # doctest: +SKIP
    >>> states = model.prior.sample(attributes, sampling, generator)  # doctest: +SKIP
    """

    module: LatentDiffusionModule
    spec: ConditionSpec
    design: Mapping[str, np.ndarray]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness on the device."""
        return torch.Generator(device=self.device).manual_seed(seed)

    # the way down, from noise

    def sigmas(self, sampling: Sampling) -> torch.Tensor:
        """The grid that is asked for, over the levels that the denoiser was trained on."""
        low, high = sampling.sigma_min, sampling.sigma_max
        if sampling.grid in GRIDS:
            noise = self.module.denoiser.noise
            low = max(noise.sigma_min, _SIGMA_MIN) if low is None else low
            high = noise.sigma_max if high is None else high
        return sigmas_for(sampling.grid, sampling.n_steps, low, high).to(self.device)

    def noise(self, n: int, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
        """Noise ``(n, n_dims)`` of the grid's first level, where samplers begin."""
        d = self.module.denoiser.n_dims
        noise = torch.randn(n, d, generator=generator, device=self.device, dtype=torch.float64)
        return noise * self.sigmas(sampling)[0]

    @torch.no_grad()
    def sample(
        self,
        attributes: Attributes,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Sample states ``(n, n_latent + n_sizes)``, float32, in the units of the latent."""
        noise = self.noise(len(attributes), sampling, generator)
        return self.descend(noise, attributes, sampling, generator)

    def descend(
        self,
        x: torch.Tensor,
        attributes: Attributes,
        sampling: Sampling,
        generator: torch.Generator,
        *,
        clean: bool = False,
        **mix: Any,
    ) -> torch.Tensor:
        """States of noise ``x`` of the grid's first level; of ``clean`` data, noised to it.

        Parameters
        ----------
        **mix
            As of :meth:`denoiser`.

        Raises
        ------
        RuntimeError
            If cells go off to infinity.
        """
        sampler = SAMPLERS[sampling.sampler].function
        result = (partial(sdedit, sampler=sampler) if clean else sampler)(
            self.denoiser(attributes, sampling, **mix),
            x,
            self.sigmas(sampling),
            generator=generator,
            **sampling.options,
        )
        lost = int((~(result.x.abs() < _TOO_FAR).all(dim=1)).sum())
        if lost:
            raise RuntimeError(
                f"{lost} of {len(result.x)} cells went off to infinity while they were sampled. "
                "Take more steps (n_steps), or guide less: a smaller guidance_scale, or an energy "
                "that is less steep."
            )
        return self.module.denoiser.unstandardize(result.x.float())

    def invert(
        self, state: torch.Tensor, attributes: Attributes, sampling: Sampling
    ) -> torch.Tensor:
        """The noise that cells come from, under their own attributes."""
        x = self.module.denoiser.standardize(state.to(self.device))
        return invert(self.denoiser(attributes), x, self.sigmas(sampling)).x

    def mean_state(self, attributes: Attributes, sampling: Sampling) -> torch.Tensor:
        """What is expected of cells with these attributes: the denoiser's answer to mere noise."""
        denoiser = self.module.denoiser
        sigma = torch.tensor(denoiser.noise.sigma_max, dtype=torch.float64, device=self.device)
        x = torch.zeros(len(attributes), denoiser.n_dims, dtype=torch.float64, device=self.device)
        denoise = self.denoiser(attributes, sampling)
        return denoiser.unstandardize(denoise(x, sigma).float())

    # denoisers

    def denoiser(
        self,
        attributes: Attributes,
        sampling: Sampling | None = None,
        *,
        towards: Attributes | None = None,
        weight: torch.Tensor | None = None,
    ) -> Denoise:
        """The denoiser of cells with these attributes, guided as ``sampling`` says.

        With ``towards`` and ``weight`` ``(n, 1)``, that of cells between two conditions:
        ``1 - weight`` times the one and ``weight`` times the other.
        """
        sampling = sampling or Sampling()
        ends: list[tuple[Any, Attributes]] = [(1.0, attributes)]
        if towards is not None and weight is not None:
            weight = weight.to(self.device)
            ends = [(1 - weight, attributes), (weight, towards)]

        def with_scale(scale: float | Mapping[str, float]) -> Denoise:
            variants = [
                (share * w, conditions)
                for share, end in ends
                for w, conditions in self._variants(end, scale, sampling.composition)
            ]
            return classifier_free(self._network(sampling), variants)

        denoise = with_scale(sampling.guidance_scale)
        if sampling.guidance_interval is not None:
            denoise = guidance_interval(denoise, with_scale(1.0), sampling.guidance_interval)
        if sampling.energy is not None:
            energy = energy_of_states(sampling.energy, self.module, attributes)
            denoise = energy_guidance(denoise, energy, curvature=True)
        return denoise

    def _network(self, sampling: Sampling) -> Callable[..., torch.Tensor]:
        """The denoiser, compiled or in half precision where that was asked for."""
        denoiser: Callable[..., torch.Tensor] = self.module.denoiser
        dtype = _PRECISIONS[sampling.precision]
        if sampling.compile:
            denoiser = torch.compile(denoiser)
        if dtype is None:
            return denoiser

        def in_half_precision(*args: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, dtype):
                return denoiser(*args).float()

        return in_half_precision

    def _variants(
        self, attributes: Attributes, scale: float | Mapping[str, float], composition: Any
    ) -> list[tuple[float, tuple[torch.Tensor, torch.Tensor]]]:
        """Weights and network conditions of the estimates that guidance combines."""
        variants = guidance_variants(scale, attributes.specified, composition)
        return [(w, self._conditions(attributes.without(dropped))) for dropped, w in variants]

    def _conditions(self, attributes: Attributes) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, values = self.module.denoiser_conditions(attributes.tensors)
        return tokens.to(self.device), values.to(self.device)

    # decoding

    @torch.no_grad()
    def decode(
        self,
        state: torch.Tensor,
        attributes: Attributes,
        adjust: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Distribution:
        """Distribution of the features of cells with these states and attributes.

        ``adjust`` is a function of the expected proportions of features, within their modalities,
        to those that they shall have.
        """
        distribution = self.module.decode_state(state, attributes.tensors)
        if adjust is None:
            return distribution
        total = self.module.modality_totals(distribution.mean)
        return with_mean(distribution, adjust(distribution.mean / total) * total)

    @torch.no_grad()
    def draw(
        self, distribution: Distribution, expression: str, seed: int
    ) -> sparse.csr_matrix | np.ndarray:
        """Features drawn, or their mean scaled to 10,000 a cell and modality."""
        if expression == "normalized":
            return (self.module.proportions(distribution.mean) * 1e4).cpu().numpy()
        with torch_seed(seed, self.device):
            x = distribution.sample().cpu().numpy()
        return sparse.csr_matrix(x)

    def express(
        self, state: torch.Tensor, attributes: Attributes, expression: str, seed: int
    ) -> sparse.csr_matrix | np.ndarray:
        """Decode; draw features, or take their mean scaled to 10,000 a cell and modality."""
        return self.draw(self.decode(state, attributes), expression, seed)

    def latents(self, state: torch.Tensor) -> np.ndarray:
        """Latents ``(n, n_latent)`` of states."""
        return self.module.split_state(state)[0].cpu().numpy()
