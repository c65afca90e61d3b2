"""Modalities of features, each of which adds up to a total of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["modality_sums", "of_each_feature"]


def modality_sums(
    x: torch.Tensor, widths: Sequence[int], columns: torch.Tensor | Sequence[int] | None = None
) -> torch.Tensor:
    """Sums of each row over the features of each modality.

    Parameters
    ----------
    x
        Of shape ``(n, n_features)``.
    widths
        Numbers of features of the modalities, which follow one another.
    columns
        Numbers of the features that ``x`` has, where it has not all.

    Returns
    -------
    Tensor ``(n, n_modalities)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.distributions import modality_sums
    >>> modality_sums(torch.tensor([[1.0, 2.0, 3.0]]), [1, 2])
    tensor([[1., 5.]])
    >>> modality_sums(torch.tensor([[1.0, 2.0]]), [1, 2], columns=[1, 2])
    tensor([[0., 3.]])
    """
    if len(widths) == 1:
        return x.sum(dim=1, keepdim=True)
    if columns is None:
        return torch.stack([part.sum(dim=1) for part in x.split(list(widths), dim=1)], dim=1)
    own = _modality_of(widths, columns, x.device)
    return x.new_zeros(len(x), len(widths)).index_add(1, own, x)


def of_each_feature(
    values: torch.Tensor,
    widths: Sequence[int],
    columns: torch.Tensor | Sequence[int] | None = None,
) -> torch.Tensor:
    """Numbers of modalities, at the features of the modalities.

    Parameters
    ----------
    values
        Of shape ``(n, n_modalities)``.
    widths, columns
        As of :func:`modality_sums`.

    Returns
    -------
    Tensor ``(n, n_features)``; of a single modality ``(n, 1)``, which broadcasts to it.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.distributions import of_each_feature
    >>> of_each_feature(torch.tensor([[1.0, 5.0]]), [1, 2])
    tensor([[1., 5., 5.]])
    """
    if len(widths) == 1:
        return values
    if columns is None:
        return values.repeat_interleave(torch.as_tensor(widths, device=values.device), dim=1)
    return values[:, _modality_of(widths, columns, values.device)]


def _modality_of(
    widths: Sequence[int], columns: torch.Tensor | Sequence[int], device: torch.device
) -> torch.Tensor:
    """The number of the modality that each column is in."""
    ends = torch.as_tensor(widths, device=device).cumsum(0)
    return torch.bucketize(torch.as_tensor(columns, device=device), ends, right=True)
