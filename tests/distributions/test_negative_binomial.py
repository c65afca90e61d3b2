from __future__ import annotations

import pytest
import torch
from scvi.distributions import NegativeBinomial

from scgm_scvi.distributions import nb_log_likelihood


@pytest.mark.parametrize("theta_shape", [(30,), (1, 30), (20, 30)])
def test_equals_scvi(theta_shape):
    g = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(20, 30, generator=g), generator=g)
    x[0] = 0  # a cell without any count has no gamma function to evaluate
    mu = torch.rand(20, 30, generator=g, requires_grad=True)
    theta = (3 * torch.rand(theta_shape, generator=g)).requires_grad_()
    ours = nb_log_likelihood(x, mu, theta)
    scvi = NegativeBinomial(mu=mu, theta=theta, validate_args=False).log_prob(x).sum(-1)
    torch.testing.assert_close(ours, scvi, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(ours.sum(), (mu, theta))
    expected = torch.autograd.grad(scvi.sum(), (mu, theta))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
