"""How cells are to be sampled: guidance, sampler and grid, whatever the cells shall be."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.diffusion import GRIDS, NOISE_PROCESSES, SAMPLERS

from ._condition_tables import require_known
from ._energy import Energy
from ._spec import ConditionSpec

__all__ = ["Sampling"]

_PRECISIONS = ("float32", "bfloat16")
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
