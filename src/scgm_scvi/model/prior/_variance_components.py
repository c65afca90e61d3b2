"""How much of what varies each covariance explains."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["fit_components"]

_STEPS = 60
_TOWARDS_EVEN = 0.05  # strength of the prior that all components explain about the same
_KNOWN_NOISE = 4.0  # of the prior that noise is as measured: its logarithm deviates by 1/2


def fit_components(
    scores: np.ndarray, covariances: np.ndarray, noise: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Weights of covariances that make scores most probable, for each column by itself.

    Maximises :math:`\ln N(t_k; 0, \sum_j \theta_{jk} K_j + \nu_k V)` over the
    logarithms of :math:`\theta` and :math:`\nu`, by L-BFGS, with weak Gaussian priors that keep
    weights from running off where nothing decides.

    Parameters
    ----------
    scores
        Columns ``(n, n_axes)`` that are independent of each other.
    covariances
        :math:`K`, ``(n_components, n, n)``.
    noise
        Covariance :math:`V` of the rows by noise, ``(n, n)``.
    factor
        What :math:`\nu` is about, ``(n_axes,)``.

    Returns
    -------
    Weights ``(n_axes, n_components)``, and factors of the noise ``(n_axes,)``.

    References
    ----------
    Rasmussen & Williams 2006, section 5.4.1.
    """
    if not scores.size:  # no axis
        return np.zeros((scores.shape[1], len(covariances))), np.zeros(scores.shape[1])
    given = (scores.T, covariances, noise, np.log(np.maximum(factor, 1e-9)))
    t, k, v, known = (torch.as_tensor(np.ascontiguousarray(a)) for a in given)
    # each explains its share of what is not noise, to begin with
    size = torch.diagonal(k, dim1=1, dim2=2).mean(dim=1).clamp(min=1e-3)
    by_noise = known.exp() * torch.diagonal(v).mean()
    signal = torch.maximum(t.square().mean(dim=1) - by_noise, 0.1 * by_noise)
    even = (signal[:, None] / (len(k) * size)).log()
    log_weights = even.clone().requires_grad_(True)
    log_noise = known.clone().requires_grad_(True)
    small = 1e-9 * torch.eye(t.shape[1], dtype=t.dtype)

    def loss() -> torch.Tensor:
        c = torch.einsum("aj,jmn->amn", log_weights.exp(), k) + small
        c = c + log_noise.exp()[:, None, None] * v
        root = torch.linalg.cholesky(c)
        white = torch.linalg.solve_triangular(root, t[:, :, None], upper=False)
        log_det = torch.diagonal(root, dim1=1, dim2=2).log().sum()
        prior = _TOWARDS_EVEN * (log_weights - even).square().sum()
        prior = prior + _KNOWN_NOISE * (log_noise - known).square().sum()
        return white.square().sum() / 2 + log_det + prior / 2

    optimizer = torch.optim.LBFGS(
        [log_weights, log_noise], max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return log_weights.detach().exp().numpy(), log_noise.detach().exp().numpy()
