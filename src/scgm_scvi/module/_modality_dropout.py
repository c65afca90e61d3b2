"""Modalities that training hides."""

from __future__ import annotations

import torch

__all__ = ["modality_dropout_mask"]


def modality_dropout_mask(shown: torch.Tensor, rate: float) -> torch.Tensor:
    """Modalities to hide, drawn at random: one of each cell's, of some of the cells that have several.

    Parameters
    ----------
    shown
        Whether a cell has a modality, ``(n, n_modalities)``.
    rate
        Share of cells to draw.

    Returns
    -------
    Boolean tensor ``(n, n_modalities)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import modality_dropout_mask
    >>> modality_dropout_mask(torch.tensor([[True, True], [True, False]]), rate=1.0).sum(dim=1)
    tensor([1, 0])
    """
    score = torch.rand(shown.shape, device=shown.device) * shown
    chosen = torch.nn.functional.one_hot(score.argmax(dim=1), shown.shape[1]).bool()
    some = (torch.rand(len(shown), device=shown.device) < rate) & (shown.sum(dim=1) > 1)
    return chosen & some[:, None]
