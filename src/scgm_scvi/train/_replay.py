"""Cells of earlier data beside each minibatch, so that a model that is tuned does not forget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

__all__ = ["Replay"]


class Replay:
    """Cells to be drawn beside those of a minibatch.

    They may come from the model itself, as it was before (generative replay): then no data of
    earlier studies are needed.

    Parameters
    ----------
    x
        Their features, ``(n, n_features)``.
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
    >>> replay = Replay(sparse.csr_matrix(np.ones((5, 3))), {"batch": torch.zeros(5, 1)}, 0.5, 0)
    >>> batch = {"X": torch.zeros(4, 3), "batch": torch.ones(4, 1)}
    >>> replay.beside(batch)["X"].shape
    torch.Size([2, 3])

    References
    ----------
    Shin et al. 2017, arXiv:1705.08690.
    """

    def __init__(
        self,
        x: sparse.csr_matrix | np.ndarray,
        tensors: Mapping[str, torch.Tensor],
        ratio: float,
        seed: int,
    ) -> None:
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio is {ratio!r}; it must be a number above 0.")
        self.x = x
        self.tensors = dict(tensors)
        self.ratio = ratio
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.x.shape[0]

    def rows(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The minibatch of these cells."""
        x = self.x[rows]
        x = x.toarray() if sparse.issparse(x) else x
        out = {k: v[torch.as_tensor(rows)] for k, v in self.tensors.items()}
        return {REGISTRY_KEYS.X_KEY: torch.as_tensor(x, dtype=torch.float32), **out}

    def beside(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As many cells as shall stand beside a minibatch, with its entries."""
        n = max(1, round(self.ratio * len(batch[REGISTRY_KEYS.X_KEY])))
        drawn = self.rows(self.generator.integers(len(self), size=n))
        return {k: drawn[k].to(v.device, v.dtype) for k, v in batch.items() if k in drawn}
