"""Guidance: from a conditional denoiser and a scale to a denoiser that a sampler can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from ._sampling import Denoise

__all__ = ["Variant", "classifier_free", "guidance_interval", "guidance_variants"]


class Variant(NamedTuple):
    """One term of guidance: the attributes left unspecified, and the weight of the estimate."""

    dropped: frozenset[str]
    weight: float


def guidance_variants(
    scale: float | Mapping[str, float],
    attributes: Sequence[str],
    composition: Literal["joint", "additive"] = "joint",
) -> list[Variant]:
    r"""Which conditional estimates to combine, and with what weights (they sum to 1).

    Joint, with one scale :math:`w` for all: :math:`D_\emptyset + w (D_c - D_\emptyset)` (Ho &
    Salimans 2022). With a scale per attribute:
    :math:`D_c + \sum_a (w_a - 1)(D_c - D_{c \setminus a})`, which is the same for one attribute.

    Additive: :math:`D_\emptyset + \sum_a w_a (D_a - D_\emptyset)`, where :math:`D_a` specifies
    attribute :math:`a` alone (Liu et al. 2022, conjunction). The network is never asked for a
    combination of attributes, so this also composes those that never occurred together. It is
    exact, at scale 1, for attributes that are independent of each other given the noisy data, and
    takes them to be so otherwise.

    Parameters
    ----------
    scale
        1 is the conditional model itself, 0 the unconditional one (of that attribute). An
        attribute that a mapping does not name has 1.
    attributes
        Names of the attributes that are specified.
    composition
        How attributes are composed; no matter where there is one.

    Raises
    ------
    ValueError
        If the composition is unknown.

    Examples
    --------
    >>> from scgm_scvi.diffusion import guidance_variants
    >>> guidance_variants(1.0, ["cell_type"])
    [Variant(dropped=frozenset(), weight=1.0)]
    >>> [v.weight for v in guidance_variants({"cell_type": 3.0}, ["cell_type", "donor"])]
    [3.0, -2.0]
    >>> variants = guidance_variants(1.0, ["cell_type", "donor"], composition="additive")
    >>> [(sorted(v.dropped), v.weight) for v in variants]
    [(['donor'], 1.0), (['cell_type'], 1.0), (['cell_type', 'donor'], -1.0)]

    References
    ----------
    Ho & Salimans 2022, arXiv:2207.12598; Liu et al. 2022, arXiv:2206.01714.
    """
    if composition not in ("joint", "additive"):
        raise ValueError(f"composition is {composition!r}; use 'joint' or 'additive'.")
    everything = frozenset(attributes)
    if composition == "additive" and attributes:
        named = scale if isinstance(scale, Mapping) else dict.fromkeys(attributes, scale)
        weights = {everything - {name}: float(named.get(name, 1.0)) for name in attributes}
        weights[everything] = 1.0 - sum(weights.values())
    elif isinstance(scale, Mapping):
        weights = {frozenset(): 1.0}
        for name, w in scale.items():
            if name in attributes:
                weights[frozenset()] += w - 1
                weights[frozenset([name])] = 1.0 - w
    elif attributes:
        weights = {frozenset(): float(scale), everything: 1.0 - scale}
    else:
        weights = {frozenset(): 1.0}
    # 1 - 0.3 - 0.7 is not quite 0, and a variant costs a pass through the network
    return [Variant(dropped, w) for dropped, w in weights.items() if abs(w) > 1e-12]


def classifier_free(
    denoiser: Callable[..., torch.Tensor],
    variants: Sequence[tuple[float | torch.Tensor, tuple[torch.Tensor, ...]]],
) -> Denoise:
    """Weighted sum of denoiser estimates under several conditions, in one batched call.

    Parameters
    ----------
    denoiser
        Called as ``denoiser(x, sigma, *conditions)`` with ``sigma`` of shape ``(1,)``.
    variants
        ``(weight, conditions)`` pairs; each tensor of ``conditions`` has ``n`` rows. A weight is a
        number, or one a row: a tensor of shape ``(n, 1)``.

    Returns
    -------
    ``denoise(x, sigma)`` as samplers want it. The network sees float32, whatever ``x`` is.

    Raises
    ------
    ValueError
        If there is no variant, or a tensor of weights has not one weight a row.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import classifier_free
    >>> shift = lambda x, sigma, c: x + c
    >>> one = torch.ones(2, 1)
    >>> classifier_free(shift, [(2.0, (one,)), (-1.0, (0 * one,))])(0 * one, torch.tensor(1.0))
    tensor([[2.],
            [2.]])

    Half-way between two conditions in the first row, at the first of them in the second:

    >>> t = torch.tensor([[0.5], [0.0]])
    >>> classifier_free(shift, [(1 - t, (0 * one,)), (t, (one,))])(0 * one, torch.tensor(1.0))
    tensor([[0.5000],
            [0.0000]])
    """
    if not variants:
        raise ValueError("variants is empty: there is no condition to denoise under.")
    n_variants = len(variants)
    weights = [_weight(w, conditions) for w, conditions in variants]
    stacked = tuple(torch.cat(parts) for parts in zip(*(c for _, c in variants), strict=True))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        x32 = x.float()
        if n_variants > 1:
            x32 = x32.repeat(n_variants, 1)
        # one level for all rows, so that whatever depends on it alone is worked out once
        estimates = denoiser(x32, sigma.to(x32).reshape(1), *stacked)
        if n_variants == 1:
            only = weights[0]
            return estimates if isinstance(only, float) and only == 1 else only * estimates
        first, *others = estimates.chunk(n_variants)
        total = weights[0] * first
        for w, e in zip(weights[1:], others, strict=True):  # in place: rows are many
            total = total.add_(e, alpha=w) if isinstance(w, float) else total.addcmul_(w, e)
        return total

    return denoise


def _weight(w: float | torch.Tensor, conditions: Sequence[torch.Tensor]) -> float | torch.Tensor:
    if not isinstance(w, torch.Tensor) or w.ndim == 0:
        return float(w)
    n = len(conditions[0]) if conditions else len(w)
    if w.shape != (n, 1):
        raise ValueError(
            f"a weight has shape {tuple(w.shape)}; it must be one number, or one a row: {(n, 1)}."
        )
    return w.float()


def guidance_interval(guided: Denoise, unguided: Denoise, interval: tuple[float, float]) -> Denoise:
    r"""Guide at noise levels in :math:`(low, high]` only, which are those where it helps.

    Guidance narrows the diversity of samples at high noise and does next to nothing at low noise;
    outside of the interval its scale is 1, which also costs fewer passes through the network:

    - joint composition: the conditional model alone, ``guidance_variants(1.0, attributes)``, one
      pass;
    - additive composition: the same composition at scale 1, ``guidance_variants(1.0, attributes,
      "additive")``, because the network may not know the combination.

    Parameters
    ----------
    guided, unguided
        Denoisers inside and outside of the interval, as from :func:`classifier_free`; one of them
        is called at each evaluation.
    interval
        ``(low, high)``, noise levels in units of the standardised data.

    Raises
    ------
    ValueError
        If the interval is not ``0 <= low < high``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import guidance_interval
    >>> denoise = guidance_interval(lambda x, s: x + 1, lambda x, s: x, (0.2, 5.0))
    >>> [denoise(torch.zeros(1), torch.tensor(sigma)).item() for sigma in (0.2, 1.0, 5.0, 5.1)]
    [0.0, 1.0, 1.0, 0.0]

    References
    ----------
    Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"interval is {interval}; need 0 <= low < high.")

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (guided if low < sigma <= high else unguided)(x, sigma)

    return denoise
