"""What is asked of distributions, against sums and integrals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Gumbel
from torch.distributions import Poisson as TorchPoisson

from scgm_scvi.distributions import (
    OpenFeatures,
    at_depth,
    at_size,
    log_likelihood,
    mean_log1p,
    positive_probability,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

ONES = torch.ones(2, 3)


def distributions():
    nb = {"mu": 2 * ONES, "theta": ONES, "scale": ONES / 3}
    return {
        "nb": NegativeBinomial(**nb),
        "zinb": ZeroInflatedNegativeBinomial(**nb, zi_logits=0 * ONES),
        "poisson": Poisson(2 * ONES),
        "torch": TorchPoisson(2 * ONES),
        "bernoulli": Bernoulli(ONES / 4),
        "open": OpenFeatures(ONES / 4, 0 * ONES),
    }


class TestRates:
    """Against sums over a fine grid of rates."""

    MU, THETA, PI = 3.0, 0.7, 0.4

    @pytest.mark.parametrize("x", [0, 1, 8])
    @pytest.mark.parametrize("pi", [0.0, 0.4])
    def test_negative_binomial_with_and_without_inflated_zeros(self, x, pi):
        rate = np.exp(np.linspace(-25, 5, 200_001))
        prior = stats.gamma(self.THETA, scale=self.MU / self.THETA).pdf(rate) * rate
        prior *= (1 - pi) / prior.sum()
        joint = prior * stats.poisson(rate).pmf(x)
        want = (joint * rate).sum() / (joint.sum() + pi * (x == 0))
        mu, theta = torch.tensor([[self.MU]]), torch.tensor([[self.THETA]])
        px = NegativeBinomial(mu=mu, theta=theta)
        if pi:
            logits = torch.logit(torch.tensor([[pi]]))
            px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits)
        got = rates_given_counts(px, torch.tensor([[float(x)]]))
        assert got.item() == pytest.approx(want, rel=1e-3)

    def test_the_rate_of_a_poisson_is_known(self):
        rate = torch.tensor([[2.0, 3.0]])
        assert (rates_given_counts(Poisson(rate), torch.tensor([[0.0, 9.0]])) == rate).all()

    @pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
    def test_probability_of_zero_and_depth(self, name):
        mu = torch.tensor([[0.01, 1.0, 20.0]])
        theta = torch.tensor([[0.5, 2.0, 1e4]])
        logits = torch.tensor([[-1.0, 0.0, 1.0]])
        px = {
            "nb": NegativeBinomial(mu=mu, theta=theta),
            "zinb": ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits),
            "poisson": Poisson(mu),
        }[name]
        zero = px.log_prob(torch.zeros_like(mu)).exp()
        torch.testing.assert_close(zero_probability(px), zero, rtol=1e-3, atol=1e-7)
        columns, depth = torch.tensor([2, 0]), torch.tensor([[3.0]])
        part = at_depth(px, depth, columns)
        assert type(part) is type(px)
        torch.testing.assert_close(part.mean, 3 * px.mean[:, columns])
        if name != "poisson":
            torch.testing.assert_close(part.theta, theta[:, columns])


@pytest.mark.parametrize("mu", [0.02, 0.7, 6.0])
@pytest.mark.parametrize("theta", [0.4, 3.0, 1e3])
@pytest.mark.parametrize("factor", [2.0, 30.0])
def test_mean_log1p(mu, theta, factor):
    """Against the sum over counts."""
    x = np.arange(2000)
    pmf = stats.nbinom(theta, theta / (theta + mu)).pmf(x)
    want = (pmf * np.log1p(factor * x)).sum()
    px = NegativeBinomial(mu=torch.tensor([[mu]]), theta=torch.tensor([[theta]]))
    mean, counted = mean_log1p(px, torch.tensor([[factor]]))
    assert counted.item() == pytest.approx(1 - pmf[0], rel=1e-3)
    assert mean.item() == pytest.approx(want, rel=0.05)


def test_mean_log1p_of_other_counts():
    rate, logits = torch.tensor([[0.5, 4.0]]), torch.tensor([[0.3, -1.0]])
    theta = torch.tensor([[2.0, 2.0]])
    generator = np.random.default_rng(0)
    lam = generator.gamma(2, rate.numpy() / 2, (200_000, 2))
    x = generator.poisson(lam) * (generator.random((200_000, 2)) < torch.sigmoid(-logits).numpy())
    px = ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=logits)
    mean, counted = mean_log1p(px, torch.tensor([[5.0]]))
    np.testing.assert_allclose(counted[0], (x > 0).mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(mean[0], np.log1p(5 * x).mean(axis=0), rtol=0.05)
    x = generator.poisson(rate.numpy(), (200_000, 2))
    mean, counted = mean_log1p(Poisson(rate), torch.tensor([[5.0]]))
    np.testing.assert_allclose(counted[0], (x > 0).mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(mean[0], np.log1p(5 * x).mean(axis=0), rtol=0.03)


def test_a_distribution_at_another_size():
    size, own = torch.tensor([[2.0], [10.0]]), torch.tensor([[5.0], [4.0]])
    share = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    theta, logits = torch.ones(2, 2), torch.zeros(2, 2)
    nb = {"mu": share * own, "theta": theta, "scale": share}
    for px in (
        NegativeBinomial(**nb),
        ZeroInflatedNegativeBinomial(**nb, zi_logits=logits),
        Poisson(share * own),
    ):
        for factors in (None, own):
            found = at_size(px, size, factors)
            mean = found.mu if isinstance(px, NegativeBinomial) else found.mean
            torch.testing.assert_close(mean, share * size)
    odds = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    px = OpenFeatures(odds * own / (1 + odds * own), odds.log())
    torch.testing.assert_close(at_size(px, size).probs, odds * size / (1 + odds * size))
    torch.testing.assert_close(at_size(px, own).probs, px.probs)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "torch"])
def test_log_likelihood_is_the_sum_of_log_probabilities(name):
    px, x = distributions()[name], torch.tensor([[0.0, 1.0, 4.0], [0.0, 0.0, 2.0]])
    torch.testing.assert_close(log_likelihood(px, x), px.log_prob(x).sum(dim=1))


@pytest.mark.parametrize("parent", [NegativeBinomial, Poisson])
def test_a_subclass_keeps_its_own_density(parent):
    class Flat(parent):
        def log_prob(self, value):
            return torch.zeros_like(value)

    px = Flat(**({"rate": ONES} if parent is Poisson else {"mu": ONES, "theta": ONES}))
    assert log_likelihood(px, ONES).eq(0).all()


def test_a_small_probability_of_any_count():
    assert positive_probability(Bernoulli(torch.tensor([1e-12]))).item() == pytest.approx(1e-12)
    for px in distributions().values():
        torch.testing.assert_close(positive_probability(px), 1 - zero_probability(px))


def test_another_dispersion():
    rows, theta = torch.tensor([[True], [False]]), torch.tensor([5.0, 6.0, 7.0])
    for name, px in distributions().items():
        new = with_dispersion(px, rows, theta)
        assert torch.equal(new.mean, px.mean)
        if name in ("nb", "zinb"):
            assert type(new) is type(px)
            assert torch.equal(new.theta, torch.stack([theta, torch.ones(3)]))
            assert torch.equal(new.scale, px.scale)
        else:
            assert new is px
    normal = with_dispersion(Normal(ONES, ONES, normal_mu=ONES), rows, theta)
    assert torch.equal(normal.scale, torch.stack([theta, torch.ones(3)]))


@pytest.mark.parametrize("px", [Gumbel(ONES, ONES), Normal(ONES, ONES)])
def test_what_is_no_distribution_of_counts(px):
    name = type(px).__name__
    with pytest.raises(TypeError, match=f"a {name} can't be given another mean"):
        with_mean(px, ONES)
    with pytest.raises(TypeError, match=f"a {name} can't be taken to another size"):
        at_size(px, ONES)
    for ask in (
        lambda: at_depth(px, ONES[:, :1], torch.tensor([0])),
        lambda: zero_probability(px),
        lambda: positive_probability(px),
        lambda: rates_given_counts(px, ONES),
        lambda: mean_log1p(px, ONES),
    ):
        with pytest.raises(TypeError, match=f"{name} is no distribution of counts"):
            ask()


def test_a_kind_without_a_known_dispersion():
    with pytest.raises(TypeError, match="a Gumbel can't be given another dispersion"):
        with_dispersion(Gumbel(ONES, ONES), ONES[:, :1].bool(), ONES)
