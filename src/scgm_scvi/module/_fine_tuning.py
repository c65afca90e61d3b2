"""Which entries of the weights belong to new categories, and what trains in fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scvi.nn import FCLayers
from torch import nn

from scgm_scvi.nn import ExpressionDecoder

from ._two_stage_vae import TwoStageVAE

__all__ = ["CategoryCounts", "grow", "new_entries", "only_trained"]

_ADAPTER = "adapter_"


@dataclass(frozen=True)
class CategoryCounts:
    """Number of categories of each nuisance (batch first) and of each condition.

    Examples
    --------
    >>> from scgm_scvi.module import CategoryCounts
    >>> CategoryCounts(nuisances=(2,), conditions=(3,)).nuisances
    (2,)
    """

    nuisances: Sequence[int]
    conditions: Sequence[int]


def grow(
    module: TwoStageVAE,
    state: Mapping[str, torch.Tensor],
    before: CategoryCounts,
    after: CategoryCounts,
) -> None:
    """Load the weights of a module that knows fewer categories.

    Known categories keep their weights, wherever they stand now. A new one starts at the mean of
    its attribute's known ones, so that the network answers as for an average batch or type;
    shifts of features and of dispersions start at zero.

    Parameters
    ----------
    module
        A :class:`SCGMVAE` with ``after`` categories, changed in place.
    state
        Of a module with ``before``, otherwise of the same shape.
    before, after
        Categories of the two.

    Raises
    ------
    RuntimeError
        If they differ in more than that.
    """
    grown = dict(state)
    for key, dim, stretches in _growing(module, before, after):
        grown[key] = _grown(grown[key], dim, stretches, at_zero="_shifts" in key)
    module.load_state_dict(grown)


def new_entries(
    module: TwoStageVAE, before: CategoryCounts, after: CategoryCounts
) -> dict[str, torch.Tensor]:
    """Parameter name to a mask of its entries that belong to categories only ``after`` has.

    Parameters
    ----------
    module
        A :class:`SCGMVAE` with ``after`` categories.
    before, after
        Categories of the reference, and of the query.

    Returns
    -------
    Boolean tensors, of the parameters' shapes; parameters without such entries are left out.
    """
    parameters, out = dict(module.named_parameters()), {}
    for key, dim, stretches in _growing(module, before, after):
        is_new = torch.cat([torch.arange(s.n_total) >= s.n_known for s in stretches])
        if is_new.any():
            shape = [1, 1]
            shape[dim] = -1
            p = parameters[key]
            out[key] = is_new.reshape(shape).expand_as(p).to(p.device)
    return out


@contextmanager
def only_trained(
    part: nn.Module, new: Mapping[str, torch.Tensor], *, adapters: bool
) -> Iterator[None]:
    """Within it nothing in ``part`` is trainable but new entries, and adapters where so asked.

    What was frozen before stays frozen.

    Parameters
    ----------
    part
        The module whose parameters ``new`` names.
    new
        Masks, from :func:`new_entries`.
    adapters
        Whether the low-rank adapters train.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import only_trained
    >>> part, mask = torch.nn.Linear(2, 1), torch.tensor([[True, False]])
    >>> with only_trained(part, {"weight": mask}, adapters=False):
    ...     part(torch.ones(1, 2)).sum().backward()
    ...     part.weight.grad, part.bias.requires_grad
    (tensor([[1., 0.]]), False)
    """
    hooks, before = [], {k: p.requires_grad for k, p in part.named_parameters()}
    try:
        for key, p in part.named_parameters():
            is_adapter = adapters and key.rsplit(".", 1)[-1].startswith(_ADAPTER)
            p.requires_grad_(before[key] and (key in new or is_adapter))
            if key in new and before[key]:
                hooks.append(p.register_hook(lambda grad, mask=new[key]: grad * mask))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for key, p in part.named_parameters():
            p.requires_grad_(before[key])


class _Stretch(NamedTuple):
    """A stretch of entries along one dimension: those of one attribute, or all the others."""

    source: int  # where it begins in the smaller weight
    n_source: int  # 0: a single category, which the smaller layer was not given
    n_known: int
    n_total: int


def _growing(
    module: TwoStageVAE, before: CategoryCounts, after: CategoryCounts
) -> Iterator[tuple[str, int, list[_Stretch]]]:
    """Weights with an entry a category, the dimension it lies along, and what lies along it."""
    for name, layers in module.named_modules():
        if isinstance(layers, FCLayers) and layers.n_cat_list:
            for key, p in layers.named_parameters():
                if p.dim() == 2 and not key.endswith("adapter_up"):
                    n_rest = p.shape[1] - sum(layers.n_cat_list)
                    yield f"{name}.{key}", 1, _one_hot(n_rest, before, after)
    nuisances = list(zip(before.nuisances, after.nuisances, strict=True))
    conditions = list(zip(before.conditions, after.conditions, strict=True))
    batches = [_Stretch(0, nuisances[0][0], *nuisances[0])]
    for name, layers in module.named_modules():
        if isinstance(layers, ExpressionDecoder):
            yield f"{name}.batch_shifts.weight", 0, batches
    if module.px_r.dim() == 2:
        yield "px_r", 1, batches
    for prefix, pairs in {
        "condition_embedding.tables": conditions,
        "px_r_shifts": conditions[: len(module.px_r_shifts)],
        "denoiser.network.conditions.tables": [*conditions, *nuisances],
    }.items():
        for j, (old, new) in enumerate(pairs):
            null = _Stretch(0, 1, 1, 1)  # row 0: unspecified
            yield f"{prefix}.{j}.weight", 0, [null, _Stretch(1, old, old, new)]


def _one_hot(n_rest: int, before: CategoryCounts, after: CategoryCounts) -> list[_Stretch]:
    """Columns of a layer that gets every nuisance one-hot; one with a single category, not at all."""
    out, source = [_Stretch(0, n_rest, n_rest, n_rest)], n_rest
    for old, new in zip(before.nuisances, after.nuisances, strict=True):
        width = old if old > 1 else 0
        if new > 1:
            out.append(_Stretch(source, width, old, new))
        source += width
    return out


def _grown(value: torch.Tensor, dim: int, stretches: list[_Stretch], at_zero: bool) -> torch.Tensor:
    """``value`` with new entries along ``dim``, at the mean of their attribute's known ones."""
    parts, slices = [], value.movedim(dim, 0)
    for s in stretches:
        known = slices[s.source : s.source + s.n_source]
        if not s.n_source:
            known = slices.new_zeros(s.n_known, *slices.shape[1:])
        new = known.mean(dim=0, keepdim=True) * (not at_zero)
        parts += [known, new.expand(s.n_total - s.n_known, *slices.shape[1:])]
    return torch.cat(parts).movedim(0, dim).contiguous()
