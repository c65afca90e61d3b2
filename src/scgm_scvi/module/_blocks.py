"""Blocks of features, each of which adds up to a total of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["block_sums", "drawn_to_hide", "of_each_feature"]


def block_sums(
    x: torch.Tensor, blocks: Sequence[int], columns: torch.Tensor | Sequence[int] | None = None
) -> torch.Tensor:
    """Sums of each row over the features of each block.

    Parameters
    ----------
    x
        Of shape ``(n, n_features)``.
    blocks
        Numbers of features of the blocks, which follow one another.
    columns
        Numbers of the features that ``x`` has, where it has not all.

    Returns
    -------
    Tensor ``(n, n_blocks)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import block_sums
    >>> block_sums(torch.tensor([[1.0, 2.0, 3.0]]), [1, 2])
    tensor([[1., 5.]])
    >>> block_sums(torch.tensor([[1.0, 2.0]]), [1, 2], columns=[1, 2])
    tensor([[0., 3.]])
    """
    if len(blocks) == 1:
        return x.sum(dim=1, keepdim=True)
    if columns is None:
        return torch.stack([part.sum(dim=1) for part in x.split(list(blocks), dim=1)], dim=1)
    own = _block_of(blocks, columns, x.device)
    return x.new_zeros(len(x), len(blocks)).index_add(1, own, x)


def of_each_feature(
    values: torch.Tensor,
    blocks: Sequence[int],
    columns: torch.Tensor | Sequence[int] | None = None,
) -> torch.Tensor:
    """Numbers of blocks, at the features of the blocks.

    Parameters
    ----------
    values
        Of shape ``(n, n_blocks)``.
    blocks, columns
        As of :func:`block_sums`.

    Returns
    -------
    Tensor ``(n, n_features)``; of a single block ``(n, 1)``, which broadcasts to it.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import of_each_feature
    >>> of_each_feature(torch.tensor([[1.0, 5.0]]), [1, 2])
    tensor([[1., 5., 5.]])
    """
    if len(blocks) == 1:
        return values
    if columns is None:
        return values.repeat_interleave(torch.as_tensor(blocks, device=values.device), dim=1)
    return values[:, _block_of(blocks, columns, values.device)]


def drawn_to_hide(shown: torch.Tensor, rate: float) -> torch.Tensor:
    """Blocks to hide, drawn at random: one of each cell's, of some of the cells that have several.

    Parameters
    ----------
    shown
        Whether a cell has a block, ``(n, n_blocks)``.
    rate
        Share of cells to draw.

    Returns
    -------
    Boolean tensor ``(n, n_blocks)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import drawn_to_hide
    >>> drawn_to_hide(torch.tensor([[True, True], [True, False]]), rate=1.0).sum(dim=1)
    tensor([1, 0])
    """
    score = torch.rand(shown.shape, device=shown.device) * shown
    chosen = torch.nn.functional.one_hot(score.argmax(dim=1), shown.shape[1]).bool()
    some = (torch.rand(len(shown), device=shown.device) < rate) & (shown.sum(dim=1) > 1)
    return chosen & some[:, None]


def _block_of(
    blocks: Sequence[int], columns: torch.Tensor | Sequence[int], device: torch.device
) -> torch.Tensor:
    """The number of the block that each column is in."""
    ends = torch.as_tensor(blocks, device=device).cumsum(0)
    return torch.bucketize(torch.as_tensor(columns, device=device), ends, right=True)
