import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from scgm_scvi.nn import MixturePrior


@pytest.mark.parametrize("n_components", [1, 5])
def test_log_prob_is_that_of_a_mixture(n_components):
    prior = MixturePrior(n_components, 3).double()
    for p in prior.parameters():
        torch.nn.init.normal_(p)
    expected = MixtureSameFamily(
        Categorical(logits=prior.logits),
        Independent(Normal(prior.means, prior.log_scales.exp()), 1),
    )
    z = 3 * torch.randn(4, 7, 3).double()
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z))


def test_float32_is_exact_enough_far_out():
    # (z - m)² is expanded into products, which could cancel
    prior = MixturePrior(8, 256)
    z = 10 * torch.randn(20, 256)
    torch.testing.assert_close(
        prior.log_prob(z), prior.double().log_prob(z.double()).float(), rtol=1e-5, atol=1e-3
    )


def test_density_integrates_to_one():
    prior = MixturePrior(3, 1).double()
    grid = torch.linspace(-15, 15, 20_001).double()
    assert torch.trapezoid(prior.log_prob(grid[:, None]).exp(), grid).item() == pytest.approx(1)


def test_every_parameter_learns():
    prior = MixturePrior(4, 3)
    prior.log_prob(torch.randn(10, 3)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in prior.parameters())
