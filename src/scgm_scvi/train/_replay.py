"""Cells of earlier data beside each minibatch, so that a model that is tuned does not forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

__all__ = ["Replay"]


class Replay:
    """Cells to be drawn beside those of a minibatch.

    They come from the model itself, as it was before (generative replay): no data of earlier
    studies are needed, and the state that each was decoded from is known.

    Parameters
    ----------
    x
        Their features, ``(n, n_features)``.
    state
        Their states, latents and log sizes.
    tensors
        The other entries of a minibatch, each ``(n, k)``.
    ratio
        How many of them are drawn for each cell of a minibatch.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        If the ratio is no number above 0.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from scipy import sparse
    >>> from scgm_scvi.train import Replay
    >>> x, state = sparse.csr_matrix(np.ones((5, 3))), torch.zeros(5, 2)
    >>> replay = Replay(x, state, {"batch": torch.zeros(5, 1)}, ratio=0.5, seed=0)
    >>> state, tensors = replay.beside({"X": torch.zeros(4, 3), "batch": torch.ones(4, 1)})
    >>> tensors["X"].shape
    torch.Size([2, 3])

    References
    ----------
    Shin et al. 2017, arXiv:1705.08690.
    """

    def __init__(
        self,
        x: sparse.csr_matrix | np.ndarray,
        state: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
        ratio: float,
        seed: int,
    ) -> None:
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio is {ratio!r}; it must be a number above 0.")
        self.x, self.state = x, state
        self.tensors = dict(tensors)
        self.ratio = ratio
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.x.shape[0]

    def beside(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """States and minibatch, with the entries of ``batch``, of cells to stand beside it."""
        n = max(1, round(self.ratio * len(batch[REGISTRY_KEYS.X_KEY])))
        rows = self.generator.integers(len(self), size=n)
        x: Any = self.x[rows]
        drawn = {k: v[rows] for k, v in self.tensors.items()}
        drawn[REGISTRY_KEYS.X_KEY] = torch.as_tensor(x.toarray() if sparse.issparse(x) else x)
        like = batch[REGISTRY_KEYS.X_KEY]
        tensors = {k: drawn[k].to(v.device, v.dtype) for k, v in batch.items() if k in drawn}
        return self.state[rows].to(like.device), tensors
