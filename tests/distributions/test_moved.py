"""Counts moved to another mean are draws from the distribution of that mean, and keep what they can."""

from __future__ import annotations

import pytest
import torch
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli

from scgm_scvi.distributions import BlockwiseDistribution, moved_counts, moved_log1p, with_mean

N = 40_000
MU = torch.tensor([[0.2, 3.0]])
KINDS = {
    "nb": NegativeBinomial(mu=MU, theta=torch.tensor([[0.7, 5.0]])),
    "zinb": ZeroInflatedNegativeBinomial(
        mu=MU, theta=torch.tensor([[2.0, 5.0]]), zi_logits=torch.tensor([[-1.0, 0.5]])
    ),
    "poisson": Poisson(MU),
    "bernoulli": Bernoulli(probs=torch.tensor([[0.2, 0.4]])),
}


def drawn(px, n=N):
    torch.manual_seed(0)
    return px.sample((n,)).squeeze(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.3, 1.7])
def test_moved_counts_are_draws_of_the_other_mean(kind, factor):
    px = KINDS[kind]
    x = drawn(px)
    found = moved_counts(px, x, torch.full_like(x, factor), torch.zeros_like(x))
    other = with_mean(px, px.mean * factor)
    expected = drawn(other)
    torch.testing.assert_close(found.mean(0), other.mean[0], rtol=0.06, atol=0.01)
    torch.testing.assert_close(found.var(0), expected.var(0), rtol=0.12, atol=0.02)
    zeros = (found == 0).float().mean(0), (expected == 0).float().mean(0)
    torch.testing.assert_close(*zeros, rtol=0.03, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_change_keeps_its_counts(kind):
    px, x = KINDS[kind], drawn(KINDS[kind], 500)
    assert torch.equal(moved_counts(px, x, torch.ones_like(x), torch.zeros_like(x)), x)


@pytest.mark.parametrize("kind", KINDS)
def test_an_excess_comes_to_the_mean(kind):
    px = KINDS[kind]
    x = drawn(px)
    found = moved_counts(px, x, torch.ones_like(x), torch.full_like(x, 0.3))
    torch.testing.assert_close(found.mean(0), px.mean[0] + 0.3, rtol=0.06, atol=0.01)
    assert (found >= x).all()


def test_modalities_side_by_side_are_moved_each_by_itself():
    px = BlockwiseDistribution([KINDS["poisson"], KINDS["bernoulli"]])
    x = drawn(px, 2000)
    one, no = torch.ones_like(x), torch.zeros_like(x)
    assert torch.equal(moved_counts(px, x, one, no), x)
    moved = moved_counts(px, x, torch.tensor([[0.5, 1.0, 1.0, 0.0]]).expand_as(x), no)
    assert torch.equal(moved[:, 1:3], x[:, 1:3])
    assert moved[:, 3].sum() == 0
    assert 0.4 < moved[:, 0].sum() / x[:, 0].sum() < 0.6


def test_values_that_are_no_counts_are_refused():
    px = Normal(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match="counts of a Normal can't be moved"):
        moved_counts(px, torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("factor", "excess"), [(0.3, 0.0), (1.0, 0.0), (1.7, 0.4)])
def test_mean_logarithms_of_moved_counts_are_known(kind, factor, excess):
    px = KINDS[kind]
    x = drawn(px)
    excess = 0.1 * excess if kind == "bernoulli" else excess
    move = torch.full_like(x, factor), torch.full_like(x, excess)
    scale = torch.full((len(x), 1), 3.0)
    expected = torch.log1p(3 * moved_counts(px, x, *move)).mean(0)
    found = moved_log1p(px, x, *move, scale).mean(0)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    if factor == 1:
        torch.testing.assert_close(found, torch.log1p(3 * x).mean(0))
