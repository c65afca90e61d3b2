"""States of cells once they are edited, by whichever method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from scgm_scvi._errors import listed, nearest
from scgm_scvi.diffusion import strength_sigma
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.requests._spec import ConditionSpec

from ._latent_prior import LatentPrior

__all__ = [
    "Edit",
    "EditedCells",
    "change_scale",
    "check_method",
    "check_samples",
    "edited",
    "parse_sampling",
]

_COMPOSITIONS = ("auto", "joint", "additive")


@dataclass(frozen=True)
class Edit:
    """A checked request: how cells shall be edited; arguments of ``edit`` of these names."""

    method: str
    strength: float
    sampling: Sampling
    edit_library_size: bool = False


class EditedCells(NamedTuple):
    """Some cells to edit: attributes now and then, and states."""

    own: Attributes
    target: Attributes
    state: torch.Tensor

    def rows(self, rows: slice | torch.Tensor) -> EditedCells:
        """Those of some cells."""
        return EditedCells(self.own.rows(rows), self.target.rows(rows), self.state[rows])


def edited(
    prior: LatentPrior, cells: EditedCells, edit: Edit, generator: torch.Generator
) -> torch.Tensor:
    """States ``(n, n_latent + n_sizes)`` of the cells once they are edited."""
    split, state = prior.module.split_state, cells.state.to(prior.device)
    new = _METHODS[edit.method](prior, cells._replace(state=state), edit, generator)
    if not edit.edit_library_size:
        new = torch.cat([split(new)[0], split(state)[1]], dim=1)
    return new


def _sdedit(
    prior: LatentPrior, cells: EditedCells, edit: Edit, generator: torch.Generator
) -> torch.Tensor:
    """Noised at random, and denoised as what the cells shall be."""
    sampling = _up_to_strength(prior, edit)
    if sampling is None:
        return cells.state.clone()
    x = prior.module.denoiser.standardize(cells.state)
    return prior.descend(x, cells.target, sampling, generator, clean=True)


def _inversion(
    prior: LatentPrior, cells: EditedCells, edit: Edit, generator: torch.Generator
) -> torch.Tensor:
    """Carried up the probability flow as what the cells are, and down as what they shall be."""
    sampling = _up_to_strength(prior, edit)
    if sampling is None:
        return cells.state.clone()
    x = prior.invert(cells.state, cells.own, sampling)
    return prior.descend(x, cells.target, sampling, generator)


def _shift(
    prior: LatentPrior, cells: EditedCells, edit: Edit, generator: torch.Generator
) -> torch.Tensor:
    """The difference of the means of both attributes, added."""
    sigma = min(strength_sigma(edit.strength), prior.module.denoiser.noise.sigma_max)
    sampling = replace(edit.sampling, sigma_max=sigma)
    after = prior.mean_state(cells.target, sampling)
    return cells.state + edit.strength * (after - prior.mean_state(cells.own, Sampling()))


Method = Callable[[LatentPrior, EditedCells, Edit, torch.Generator], torch.Tensor]
_METHODS: dict[str, Method] = {"sdedit": _sdedit, "inversion": _inversion, "shift": _shift}


def _up_to_strength(prior: LatentPrior, edit: Edit) -> Sampling | None:
    """Sampling from the strength's level on; ``None`` if less noise than is left in any cell."""
    sigma = min(strength_sigma(edit.strength), prior.module.denoiser.noise.sigma_max)
    levels = prior.sigmas(edit.sampling)
    if sigma <= float(levels[levels > 0][-1]):
        return None
    return replace(edit.sampling, sigma_max=sigma)


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


def change_scale(
    guidance_scale: float | Mapping[str, float] | None, named: Collection[str]
) -> float:
    """The weight of a borrowed change: the largest given for a named attribute."""
    if isinstance(guidance_scale, Mapping):
        return max((v for k, v in guidance_scale.items() if k in named), default=1.0)
    return 1.0 if guidance_scale is None else guidance_scale


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
