"""How cells are sampled: guidance, sampler and grid, whatever the cells shall be."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.diffusion import (
    GRIDS,
    NOISE_PROCESSES,
    SAMPLERS,
    classifier_free,
    energy_guidance,
    guidance_interval,
    guidance_variants,
    sdedit,
    sigmas_for,
)
from scgm_scvi.module import SCGM_KEYS

from ._conditions import ConditionSpec, require_known
from ._energy import Energy, energy_of_states

if TYPE_CHECKING:
    from scgm_scvi.model.prior._analogy import Analogy

__all__ = ["Sampling", "SamplingMixin"]

Tensors = Mapping[str, torch.Tensor]
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
_SIGMA_MIN = 0.01  # nothing is left to remove: posterior samples are noisier by far
_TOO_FAR = 50.0  # standard deviations: nothing that can be decoded
_COMMON = ("denoise", "x", "sigmas", "generator", "callback")  # what every sampler takes


@dataclass(frozen=True)
class Sampling:
    """A checked choice of guidance and sampler; the arguments of ``generate`` of these names."""

    guidance_scale: float | Mapping[str, float] = 1.0
    guidance_interval: tuple[float, float] | None = None
    composition: str = "joint"
    energy: Energy | None = None
    sampler: str = "dpmpp_2m"
    n_steps: int = 1
    grid: str = "karras"
    sigma_min: float | None = None
    sigma_max: float | None = None
    precision: str = "float32"
    compile: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        spec: ConditionSpec,
        *,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        composition: str = "joint",
        energy: Energy | None = None,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
    ) -> Sampling:
        """Read what a user asked for.

        Raises
        ------
        ValueError
            If a name is unknown, or a number makes no sense.
        KeyError
            If a scale is given for an attribute that the model does not know.
        TypeError
            If the sampler has no such option.
        """
        if sampler not in SAMPLERS:
            raise ValueError(
                f"sampler {sampler!r} is unknown.{nearest(sampler, SAMPLERS)} "
                f"Known: {listed(SAMPLERS)}."
            )
        if composition not in ("joint", "additive"):
            raise ValueError(f"composition is {composition!r}; use 'joint' or 'additive'.")
        if energy is not None and not callable(energy):
            raise TypeError(
                f"energy is {energy!r}; pass a function of DenoisedCells that returns one number a "
                "cell."
            )
        if not isinstance(sampling_kwargs, Mapping | None):
            raise TypeError(
                f"sampling_kwargs is {sampling_kwargs!r}; pass a dict of option to value."
            )
        _check_guidance(guidance_scale, spec)
        if guidance_interval is not None:
            guidance_interval = _interval(guidance_interval)
        entry, kwargs = SAMPLERS[sampler], dict(sampling_kwargs or {})
        engine = {
            k: kwargs.pop(k)
            for k in ("grid", "sigma_min", "sigma_max", "precision", "compile")
            if k in kwargs
        }
        grids = [*GRIDS, *NOISE_PROCESSES]
        grid = engine.setdefault("grid", entry.grid)
        if grid not in grids:
            raise ValueError(
                f"grid {grid!r} is unknown.{nearest(grid, grids)} Known: {listed(grids)}."
            )
        if engine.get("precision", "float32") not in _PRECISIONS:
            raise ValueError(
                f"precision is {engine['precision']!r}; use one of {listed(_PRECISIONS)}."
            )
        known = [p for p in inspect.signature(entry.function).parameters if p not in _COMMON]
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"sampling_kwargs: {name!r} is no option of sampler {sampler!r}, which has "
                    f"{listed(known)}; besides there are 'grid', 'sigma_min', 'sigma_max', "
                    "'precision' and 'compile'."
                )
        return cls(
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            composition=composition,
            energy=energy,
            sampler=sampler,
            n_steps=whole_number(entry.default_steps if n_steps is None else n_steps, "n_steps"),
            options=kwargs,
            **engine,
        )

    def describe(self) -> dict[str, Any]:
        """Every parameter, as builtins that any file format takes."""
        scale = self.guidance_scale
        out: dict[str, Any] = {
            "sampler": self.sampler,
            "n_steps": self.n_steps,
            "grid": self.grid,
            "guidance_scale": (
                {str(k): float(v) for k, v in scale.items()}
                if isinstance(scale, Mapping)
                else float(scale)
            ),
            "composition": self.composition,
            "precision": self.precision,
            "compile": bool(self.compile),
            **{k: getattr(v, "item", lambda v=v: v)() for k, v in self.options.items()},
        }
        if self.guidance_interval is not None:
            out["guidance_interval"] = list(self.guidance_interval)
        for name in ("sigma_min", "sigma_max"):
            if getattr(self, name) is not None:
                out[name] = float(getattr(self, name))
        if self.energy is not None:
            out["energy"] = getattr(self.energy, "__name__", type(self.energy).__name__)
        return out


class SamplingMixin:
    """From conditions and a :class:`Sampling` to a denoiser, and to states.

    Needs :class:`scgm_scvi.model.LatentDiffusionMixin`; knows nothing of what the features are.
    """

    def _sigmas(self, sampling: Sampling) -> torch.Tensor:
        """The grid that was asked for, over the levels that the denoiser was trained on."""
        low, high = sampling.sigma_min, sampling.sigma_max
        if sampling.grid in GRIDS:
            noise = self.module.denoiser.noise
            low = max(noise.sigma_min, _SIGMA_MIN) if low is None else low
            high = noise.sigma_max if high is None else high
        return sigmas_for(sampling.grid, sampling.n_steps, low, high).to(self.device)

    @torch.no_grad()
    def _sample_state(
        self, tensors: Tensors, sampling: Sampling, generator: torch.Generator
    ) -> torch.Tensor:
        """Sample states ``(n, n_latent + n_sizes)``, float32, in the units of the latent."""
        noise = self._noise(len(next(iter(tensors.values()))), sampling, generator)
        return self._descend(noise, tensors, sampling, generator)

    def _noise(self, n: int, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
        """Noise ``(n, n_dims)`` of the grid's first level, where samplers begin."""
        d = self.module.denoiser.n_dims
        noise = torch.randn(n, d, generator=generator, device=self.device, dtype=torch.float64)
        return noise * self._sigmas(sampling)[0]

    def _descend(
        self,
        x: torch.Tensor,
        tensors: Tensors,
        sampling: Sampling,
        generator: torch.Generator,
        *,
        clean: bool = False,
        **mix: Any,
    ) -> torch.Tensor:
        """States of noise ``x`` of the grid's first level; of ``clean`` data, noised to it."""
        sampler = SAMPLERS[sampling.sampler].function
        result = (partial(sdedit, sampler=sampler) if clean else sampler)(
            self._denoise(tensors, sampling, **mix),
            x,
            self._sigmas(sampling),
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

    def _denoise(
        self,
        tensors: Tensors,
        sampling: Sampling | None = None,
        *,
        towards: Tensors | None = None,
        weight: torch.Tensor | None = None,
        analogy: Analogy | None = None,
    ) -> Denoise:
        """The denoiser of cells with the conditions of ``tensors``, guided as ``sampling`` says.

        With ``towards`` and ``weight`` ``(n, 1)``, that of cells between two conditions:
        ``1 - weight`` times the one and ``weight`` times the other. Cells that an ``analogy``
        calls unseen are denoised as it says.
        """
        sampling = sampling or Sampling()
        ends = [(1.0, tensors)]
        if towards is not None:
            weight = weight.to(self.device)
            ends = [(1 - weight, tensors), (weight, towards)]

        def with_scale(scale: float | Mapping[str, float]) -> Denoise:
            variants = [
                (share * w, conditions)
                for share, end in ends
                for w, conditions in self._variants(end, scale, sampling.composition)
            ]
            if analogy is not None:
                unseen = analogy.unseen.to(self.device)
                variants = (
                    [] if bool(unseen.all()) else [(w * (1 - unseen), c) for w, c in variants]
                )
                for w, end in analogy.terms():
                    variants.append((w * unseen, self._network_conditions(end)))
            return classifier_free(self._network(sampling), variants)

        denoise = with_scale(sampling.guidance_scale)
        if sampling.guidance_interval is not None:
            denoise = guidance_interval(denoise, with_scale(1.0), sampling.guidance_interval)
        if sampling.energy is not None:
            energy = energy_of_states(sampling.energy, self.module, tensors)
            denoise = energy_guidance(denoise, energy, curvature=True)
        return denoise

    def _network(self, sampling: Sampling) -> Callable[..., torch.Tensor]:
        """The denoiser, compiled or in half precision where that was asked for."""
        denoiser, dtype = self.module.denoiser, _PRECISIONS[sampling.precision]
        if sampling.compile:
            denoiser = torch.compile(denoiser)
        if dtype is None:
            return denoiser

        def in_half_precision(*args: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, dtype):
                return denoiser(*args).float()

        return in_half_precision

    def _variants(
        self, tensors: Tensors, scale: float | Mapping[str, float], composition: str
    ) -> list[tuple[float, tuple[torch.Tensor, torch.Tensor]]]:
        """Weights and network conditions of the estimates that guidance combines."""
        spec, own = self.condition_spec, self.module.conditions(tensors)
        out = []
        for dropped, w in guidance_variants(scale, _specified(*own, spec), composition):
            some = {**tensors, **_without(*own, dropped, spec)}
            out.append((w, self._network_conditions(some)))
        return out

    def _network_conditions(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, values = self.module.denoiser_conditions(tensors)
        return tokens.to(self.device), values.to(self.device)


def _check_guidance(scale: float | Mapping[str, float], spec: ConditionSpec) -> None:
    named = scale if isinstance(scale, Mapping) else {"guidance_scale": scale}
    for name, value in named.items():
        if isinstance(scale, Mapping):
            require_known(name, spec.steered, "guidance_scale")
        if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; a guidance scale is a number, 0 or more.")


def _interval(interval: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in interval)
    except (TypeError, ValueError):  # refused below, with its value
        low = high = math.nan
    if not 0 <= low < high:
        raise ValueError(
            f"guidance_interval is {interval!r}; it must be two noise levels, the lower one first."
        )
    return low, high


def _specified(tokens: torch.Tensor, values: torch.Tensor, spec: ConditionSpec) -> list[str]:
    """Conditions that at least one cell of the minibatch specifies."""
    names = [n for j, n in enumerate(spec.categorical) if bool((tokens[:, j] > 0).any())]
    return names + [
        n for j, n in enumerate(spec.continuous) if not bool(values[:, j].isnan().all())
    ]


def _without(
    tokens: torch.Tensor, values: torch.Tensor, dropped: frozenset[str], spec: ConditionSpec
) -> dict[str, torch.Tensor]:
    """The conditions with some attributes unspecified, as entries of a minibatch."""
    tokens, values = tokens.clone(), values.clone()
    tokens[:, [j for j, name in enumerate(spec.categorical) if name in dropped]] = 0
    values[:, [j for j, name in enumerate(spec.continuous) if name in dropped]] = float("nan")
    return {SCGM_KEYS.CONDITIONS_KEY: tokens, SCGM_KEYS.CONDITION_VALUES_KEY: values}
