"""The log size that a modality would have had, in cells that were not measured in it."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["MissingSizes"]

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # in units of the predictors' mean square
_MOST_CELLS = 20_000
_LEAST_CELLS = 3


class MissingSizes(nn.Module):
    """Log sizes as linear functions of the latent and of the other log sizes, and what is left.

    Ridge regressions, one a modality, whose penalties and residual variances come from leaving out
    each cell in turn.

    Parameters
    ----------
    n_latent
        Number of latent dimensions.
    n_sizes
        Number of modalities.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import MissingSizes
    >>> missing, latent = MissingSizes(1, 2), torch.linspace(-1, 1, 50)[:, None]
    >>> missing.fit(latent, torch.cat([latent, 5 + 2 * latent], dim=1), torch.ones(50, 2).bool())
    >>> known = torch.tensor([[True, False]])
    >>> mean, variance = missing(torch.tensor([[0.5]]), torch.tensor([[0.5, 0.0]]), known)
    >>> mean.round(decimals=1)
    tensor([[0.5000, 6.0000]])

    References
    ----------
    Leaving out one cell: Allen 1974, doi:10.1080/00401706.1974.10489157.
    """

    weights: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor

    def __init__(self, n_latent: int, n_sizes: int) -> None:
        super().__init__()
        # By modality: of the latent, of all log sizes (its own is 0), and a constant.
        self.register_buffer("weights", torch.zeros(n_sizes, n_latent + n_sizes + 1))
        self.register_buffer("means", torch.zeros(n_sizes))
        self.register_buffer("variances", torch.ones(n_sizes))

    @torch.no_grad()
    def fit(self, latent: torch.Tensor, sizes: torch.Tensor, measured: torch.Tensor) -> None:
        """Learn from cells: ``latent`` ``(n, n_latent)``, ``sizes`` and ``measured`` ``(n, n_sizes)``.

        A modality that was measured in fewer than three cells is left as it is.
        """
        for j in range(sizes.shape[1]):
            if measured[:, j].any():
                self.means[j] = sizes[measured[:, j], j].mean()
        predictors = self._predictors(latent, sizes, measured).double()
        for j in range(sizes.shape[1]):
            rows = measured[:, j].nonzero()[:, 0]
            rows = rows[:: -(-len(rows) // _MOST_CELLS) or 1]
            if len(rows) < _LEAST_CELLS:
                continue
            x, y = predictors[rows].clone(), sizes[rows, j].double()
            x[:, latent.shape[1] + j] = 0
            weights, variance = _ridge(x, y)
            self.weights[j], self.variances[j] = weights.float(), variance.float()

    @torch.no_grad()
    def forward(
        self, latent: torch.Tensor, sizes: torch.Tensor, measured: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of log sizes ``(n, n_sizes)``: as measured, or as expected."""
        expected = self._predictors(latent, sizes, measured) @ self.weights.T
        variance = self.variances.expand_as(expected)
        return torch.where(measured, sizes, expected), torch.where(measured, 0.0, variance)

    def _predictors(
        self, latent: torch.Tensor, sizes: torch.Tensor, measured: torch.Tensor
    ) -> torch.Tensor:
        known = torch.where(measured, sizes - self.means, 0.0)
        return torch.cat([latent, known, torch.ones_like(latent[:, :1])], dim=1)


def _ridge(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the mean square error of a cell that is left out; the constant is the last."""
    mean = x[:, :-1].mean(dim=0)
    centred, left = x[:, :-1] - mean, y - y.mean()
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    n, fits = len(y), []
    for penalty in _PENALTIES:
        shrunk = s.square() / (s.square() + penalty * s.square().mean().clamp(min=1e-12))
        leverage = (u.square() * shrunk).sum(dim=1) + 1 / n
        error = ((left - u @ (shrunk * (u.T @ left))) / (1 - leverage).clamp(min=1e-6)).square()
        fits.append((error.mean(), v.T @ (shrunk / s.clamp(min=1e-12) * (u.T @ left))))
    error, weights = min(fits, key=lambda fit: float(fit[0]))
    return torch.cat([weights, (y.mean() - mean @ weights)[None]]), error
