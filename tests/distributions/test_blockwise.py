from __future__ import annotations

import math

import pytest
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli

from scgm_scvi.distributions import (
    BlockwiseDistribution,
    at_depth,
    log_likelihood,
    mean_log1p,
    modality_sums,
    of_each_feature,
    positive_probability,
    rates_given_counts,
    with_dispersion,
    with_mean,
    zero_probability,
)

N, BLOCKS = 5, (4, 3, 2)


@pytest.fixture
def px() -> BlockwiseDistribution:
    g = torch.Generator().manual_seed(0)
    genes = NegativeBinomial(mu=3 * torch.rand(N, 4, generator=g), theta=torch.rand(N, 4))
    peaks = Bernoulli(probs=torch.rand(N, 3, generator=g))
    return BlockwiseDistribution([genes, peaks, Poisson(5 * torch.rand(N, 2, generator=g))])


def test_is_its_parts_side_by_side(px):
    assert px.widths == list(BLOCKS)
    for name in ("mean", "variance"):
        for whole, part in zip(px.split(getattr(px, name)), px.parts, strict=True):
            assert torch.equal(whole, getattr(part, name))
    torch.manual_seed(0)
    x = px.sample()
    torch.manual_seed(0)
    assert torch.equal(x, torch.cat([part.sample() for part in px.parts], dim=1))
    assert px.sample((2,)).shape == (2, N, sum(BLOCKS))
    assert set(x[:, 4:7].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(px.log_prob(x)[:, 4:7], px.parts[1].log_prob(x[:, 4:7]))


@pytest.mark.parametrize("parts", [[], [Poisson(torch.ones(2, 3)), Poisson(torch.ones(3, 3))]])
def test_needs_parts_of_the_same_cells(parts):
    with pytest.raises(ValueError, match="same cells"):
        BlockwiseDistribution(parts)


def test_a_block_without_counts_says_nothing(px):
    x = px.sample()
    x[0, 4:7] = 0
    x[1:, 4] = 1
    x[:, [0, 7]] = 1
    every = [part.log_prob(own).sum(1) for part, own in zip(px.parts, px.split(x), strict=True)]
    expected = sum(every)
    expected[0] = every[0][0] + every[2][0]
    torch.testing.assert_close(log_likelihood(px, x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(rates_given_counts(px, x)[:, 4:], px.mean[:, 4:])
    assert torch.equal(rates_given_counts(px, x)[:, :4], rates_given_counts(px.parts[0], x[:, :4]))
    x[2, :4] = 0
    assert torch.equal(rates_given_counts(px, x)[2], px.mean[2])


def test_other_mean(px):
    mean = 2 * torch.rand(N, sum(BLOCKS))
    mean[0, 4], mean[1, 4] = 0.5, 2.0
    new = with_mean(px, mean)
    torch.testing.assert_close(new.mean[:, :4], mean[:, :4])
    torch.testing.assert_close(new.mean[:, 4:7], mean[:, 4:7].clamp(max=1))
    assert [type(part) for part in new.parts] == [type(part) for part in px.parts]
    assert torch.equal(new.parts[0].theta, px.parts[0].theta)


@pytest.mark.parametrize("columns", [[0, 3, 4, 8], [1, 2], [5, 6], list(range(9))])
def test_at_depth(px, columns):
    columns = torch.tensor(columns)
    depth = torch.tensor([[2.0, 0.5, 3.0]]).expand(N, 3)
    part = at_depth(px, depth, columns)
    expected = px.mean * of_each_feature(depth, BLOCKS)
    torch.testing.assert_close(part.mean, expected[:, columns])
    torch.testing.assert_close(
        modality_sums(part.mean, BLOCKS, columns),
        torch.stack([
            expected[:, [c for c in columns.tolist() if a <= c < b]].sum(1)
            for a, b in ((0, 4), (4, 7), (7, 9))
        ], dim=1),
    )  # fmt: skip
    many = at_depth(px, 1e6 * depth, columns)
    assert log_likelihood(many, torch.zeros(N, len(columns))).eq(0).all()  # nothing was measured
    assert many.log_prob(torch.ones(N, len(columns))).isfinite().all()


def test_log1p_of_a_bernoulli_is_exact():
    p = torch.tensor([[0.0, 0.3, 1.0]])
    mean, counted = mean_log1p(Bernoulli(probs=p), torch.tensor([[2.0, 3.0, 4.0]]))
    torch.testing.assert_close(mean, p * torch.tensor([[2.0, 3.0, 4.0]]).log1p())
    torch.testing.assert_close(counted, p)


def test_zero_probability_of_each_part():
    zinb = ZeroInflatedNegativeBinomial(
        mu=torch.ones(1, 1), theta=torch.ones(1, 1), zi_logits=torch.zeros(1, 1)
    )
    px = BlockwiseDistribution(
        [zinb, Poisson(torch.ones(1, 1)), Bernoulli(torch.full((1, 1), 0.2))]
    )
    zero = torch.tensor([[0.75, math.exp(-1), 0.8]])
    torch.testing.assert_close(zero_probability(px), zero)
    torch.testing.assert_close(positive_probability(px), 1 - zero)


def test_other_dispersion(px):
    rows = torch.arange(N)[:, None] < 2
    new = with_dispersion(px, rows, torch.full((sum(BLOCKS),), 7.0))
    assert new.parts[0].theta[:2].eq(7).all()
    assert torch.equal(new.parts[0].theta[2:], px.parts[0].theta[2:])
    assert torch.equal(new.mean, px.mean)


def test_holds_counts_if_a_part_does(px):
    assert px.support.is_discrete
    assert px.support.check(px.sample()).all()
