"""Guidance: from a conditional denoiser and a scale to a denoiser that a sampler can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

__all__ = ["Variant", "classifier_free", "guidance_variants"]


class Variant(NamedTuple):
    """One term of guidance: the attributes left unspecified, and the weight of the estimate."""

    dropped: frozenset[str]
    weight: float


def guidance_variants(
    scale: float | Mapping[str, float], attributes: Sequence[str]
) -> list[Variant]:
    r"""Which conditional estimates to combine, and with what weights (they sum to 1).

    One scale :math:`w` for all: :math:`D_\emptyset + w (D_c - D_\emptyset)` (Ho & Salimans 2022,
    arXiv:2207.12598). A scale per attribute:
    :math:`D_c + \sum_a (w_a - 1)(D_c - D_{c \setminus a})`, which is the same for one attribute.

    Parameters
    ----------
    scale
        1 is the conditional model itself, 0 the unconditional one (of that attribute).
    attributes
        Names of the attributes that are specified.

    Examples
    --------
    >>> from scgm_scvi.diffusion import guidance_variants
    >>> guidance_variants(1.0, ["cell_type"])
    [Variant(dropped=frozenset(), weight=1.0)]
    >>> [v.weight for v in guidance_variants({"cell_type": 3.0}, ["cell_type", "donor"])]
    [3.0, -2.0]
    """
    if isinstance(scale, Mapping):
        weights = {frozenset(): 1.0}
        for name, w in scale.items():
            if name in attributes:
                weights[frozenset()] += w - 1
                weights[frozenset([name])] = 1.0 - w
    elif attributes:
        weights = {frozenset(): float(scale), frozenset(attributes): 1.0 - scale}
    else:
        weights = {frozenset(): 1.0}
    return [Variant(dropped, w) for dropped, w in weights.items() if w != 0]


def classifier_free(
    denoiser: Callable[..., torch.Tensor],
    variants: Sequence[tuple[float, tuple[torch.Tensor, ...]]],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Weighted sum of denoiser estimates under several conditions, in one batched call.

    Parameters
    ----------
    denoiser
        Called as ``denoiser(x, sigma, *conditions)`` with ``sigma`` of shape ``(n,)``.
    variants
        ``(weight, conditions)`` pairs; each tensor of ``conditions`` has ``n`` rows.

    Returns
    -------
    ``denoise(x, sigma)`` as samplers want it. The network sees float32, whatever ``x`` is.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import classifier_free
    >>> shift = lambda x, sigma, c: x + c
    >>> one = torch.ones(2, 1)
    >>> classifier_free(shift, [(2.0, (one,)), (-1.0, (0 * one,))])(0 * one, torch.tensor(1.0))
    tensor([[2.],
            [2.]])
    """
    n_variants = len(variants)
    weights = [w for w, _ in variants]
    stacked = tuple(torch.cat(parts) for parts in zip(*(c for _, c in variants), strict=True))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        x32 = x.float()
        if n_variants > 1:
            x32 = x32.repeat(n_variants, 1)
        levels = sigma.to(x32).expand(len(x32))
        estimates = denoiser(x32, levels, *stacked)
        if n_variants == 1:
            return estimates
        return sum(w * e for w, e in zip(weights, estimates.chunk(n_variants), strict=True))

    return denoise
