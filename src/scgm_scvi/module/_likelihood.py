"""The negative binomial log-likelihood of mostly-zero counts."""

from __future__ import annotations

import torch

__all__ = ["nb_log_likelihood"]

_EPS = 1e-8  # as in scvi.distributions


def nb_log_likelihood(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    r"""Log-likelihood of cells, the sum over features of scvi's ``NegativeBinomial.log_prob``.

    The gamma functions cancel where a count is zero, so they are evaluated at the others alone.
    They are the larger part of a training step on a CPU, and most counts are zero:

    .. math::
        \sum_g \theta_g \ln\frac{\theta_g}{\theta_g + \mu_g} + \sum_{g: x_g > 0} \left[
        x_g \ln\frac{\mu_g}{\theta_g + \mu_g}
        + \ln\frac{\Gamma(x_g + \theta_g)}{\Gamma(\theta_g)\, x_g!}\right]

    Parameters
    ----------
    x, mu
        Counts and means of shape ``(n, n_features)``.
    theta
        Inverse dispersions, of the same shape or one that expands to it.

    Returns
    -------
    Nats of each cell, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.module import nb_log_likelihood
    >>> x, ones = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)
    >>> nb_log_likelihood(x, ones, ones).exp()  # 1/2 * 1/4
    tensor([0.1250])
    """
    theta = theta.expand_as(x)
    log_total = torch.log(theta + mu + _EPS)
    zero_part = (theta * (torch.log(theta + _EPS) - log_total)).sum(dim=1)
    rows, columns = x.nonzero(as_tuple=True)
    k, t = x[rows, columns], theta[rows, columns]
    log_odds = torch.log(mu[rows, columns] + _EPS) - log_total[rows, columns]
    part = k * log_odds + torch.lgamma(k + t) - torch.lgamma(t) - torch.lgamma(k + 1)
    return zero_part.index_add(0, rows, part)
