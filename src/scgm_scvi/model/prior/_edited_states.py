"""States of cells once they are edited, by whichever method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from scgm_scvi._errors import listed, nearest
from scgm_scvi.diffusion import strength_sigma
from scgm_scvi.model.requests._conditions import ConditionSpec
from scgm_scvi.model.requests._sampling import Sampling

from ._analogy import Analogy

__all__ = [
    "Cells",
    "Edit",
    "EditedStatesMixin",
    "analogy_scale",
    "check_method",
    "check_samples",
    "parse_sampling",
]

Tensors = dict[str, torch.Tensor]
_METHODS = ("sdedit", "inversion", "shift")
_COMPOSITIONS = ("auto", "joint", "additive")
_ANALOGY_SCALE = 1.25  # at 1, what is taken over falls short (benchmarks/record/editing.md)


@dataclass(frozen=True)
class Edit:
    """A checked request: how cells shall be edited; arguments of ``edit`` of these names."""

    method: str
    strength: float
    sampling: Sampling
    edit_library_size: bool = False


class Cells(NamedTuple):
    """Some cells to edit: attributes now and then, states, and what stands in for the unseen."""

    own: Tensors
    target: Tensors
    state: torch.Tensor
    analogy: Analogy | None = None


class EditedStatesMixin:
    """The three methods of editing, on states.

    Needs :class:`scgm_scvi.model.SamplingMixin` and ``EncodingMixin``.
    """

    def _edited(self, cells: Cells, edit: Edit, generator: torch.Generator) -> torch.Tensor:
        """States ``(n, n_latent + n_sizes)`` of the cells once they are edited."""
        denoiser, state = self.module.denoiser, cells.state.to(self.device)
        sigma = min(strength_sigma(edit.strength), denoiser.noise.sigma_max)
        sampling = replace(edit.sampling, sigma_max=sigma)
        if edit.method == "shift":
            after = self._mean_state(cells.target, sampling, cells.analogy)
            new = state + edit.strength * (after - self._mean_state(cells.own, Sampling()))
        elif sigma <= self._lowest(edit.sampling):  # less noise than is left in any cell
            new = state.clone()
        elif edit.method == "inversion":
            x = self._inverted(cells.own, state, sampling)
            new = self._descend(x, cells.target, sampling, generator, analogy=cells.analogy)
        else:
            x = denoiser.standardize(state)
            new = self._descend(
                x, cells.target, sampling, generator, clean=True, analogy=cells.analogy
            )
        if not edit.edit_library_size:
            own = self.module.split_state
            new = torch.cat([own(new)[0], own(state)[1]], dim=1)
        return new

    def _lowest(self, sampling: Sampling) -> float:
        """The lowest positive level of the grid."""
        levels = self._sigmas(sampling)
        return float(levels[levels > 0][-1])

    def _mean_state(
        self, tensors: Tensors, sampling: Sampling, analogy: Analogy | None = None
    ) -> torch.Tensor:
        """What is expected of cells with these attributes: the denoiser's answer to mere noise."""
        denoiser = self.module.denoiser
        sigma = torch.tensor(denoiser.noise.sigma_max, dtype=torch.float64, device=self.device)
        n = len(next(iter(tensors.values())))
        x = torch.zeros(n, denoiser.n_dims, dtype=torch.float64, device=self.device)
        denoise = self._denoise(tensors, sampling, analogy=analogy)
        return denoiser.unstandardize(denoise(x, sigma).float())


def parse_sampling(
    spec: ConditionSpec,
    guidance_scale: float | Mapping[str, float] | None,
    composition: str,
    **options: Any,
) -> Sampling:
    """The sampling of targets that were seen; ``composition`` may be ``"auto"``."""
    if composition not in _COMPOSITIONS:
        raise ValueError(f"composition is {composition!r}; use one of {listed(_COMPOSITIONS)}.")
    return Sampling.parse(
        spec,
        guidance_scale=1.0 if guidance_scale is None else guidance_scale,
        composition="joint" if composition == "auto" else composition,
        **options,
    )


def analogy_scale(
    guidance_scale: float | Mapping[str, float] | None, named: Collection[str]
) -> float:
    """The weight of a change by analogy: the largest given for a named attribute."""
    if isinstance(guidance_scale, Mapping):
        return max((v for k, v in guidance_scale.items() if k in named), default=_ANALOGY_SCALE)
    return _ANALOGY_SCALE if guidance_scale is None else guidance_scale


def check_method(method: str) -> None:
    """Raise ``ValueError`` unless it is the name of one."""
    if method not in _METHODS:
        raise ValueError(
            f"method {method!r} is unknown.{nearest(method, _METHODS)} Known: {listed(_METHODS)}."
        )


def check_samples(method: str, n_samples: int, intervenes: bool) -> None:
    """Raise ``ValueError`` where a method can't do what is asked of it."""
    if method != "sdedit" and n_samples > 1:
        raise ValueError(
            f"n_samples is {n_samples}, but method {method!r} draws nothing, so that all would be "
            "the same; use method='sdedit'."
        )
    if method == "shift" and intervenes:
        raise ValueError(
            "method 'shift' takes no steps at which genes or an energy could intervene; use "
            "'sdedit' or 'inversion'."
        )
