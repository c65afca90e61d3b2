import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgm_scvi.diffusion import karras_sigmas, lognormal_sigmas


def test_karras_sigmas_are_equation_5():
    n, low, high, rho = 9, 0.01, 50.0, 7.0
    expected = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    sigmas = karras_sigmas(n, low, high, rho)
    assert sigmas.dtype == torch.float64
    torch.testing.assert_close(sigmas, torch.tensor([*expected, 0.0], dtype=torch.float64))


@given(
    n_steps=st.integers(1, 200),
    low=st.floats(1e-4, 1.0),
    ratio=st.floats(1.1, 1e5),
    rho=st.floats(0.5, 20.0),
)
def test_karras_sigmas_decrease_from_largest_to_zero(n_steps, low, ratio, rho):
    sigmas = karras_sigmas(n_steps, low, low * ratio, rho)
    assert sigmas.shape == (n_steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[0].item() == pytest.approx(low * ratio)
    assert sigmas[-1].item() == 0
    if n_steps > 1:
        assert sigmas[-2].item() == pytest.approx(low)


def test_large_rho_approaches_a_geometric_grid():
    steps = karras_sigmas(20, 0.1, 10.0, rho=1e4)[:-1].log().diff()
    torch.testing.assert_close(
        steps, torch.full_like(steps, -math.log(100) / 19), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), "n_steps is 0"),
        ((5, 0.0, 1.0), "sigma_min=0.0 and sigma_max=1.0"),
        ((5, 2.0, 1.0), "need 0 < sigma_min < sigma_max"),
        ((5, 1.0, 1.0), "need 0 < sigma_min < sigma_max"),
    ],
)
def test_karras_sigmas_refuse(arguments, text):
    with pytest.raises(ValueError, match=text):
        karras_sigmas(*arguments)


@pytest.mark.parametrize(("mean", "std"), [(-0.5, 1.2), (1.0, 0.3)])
def test_lognormal_sigmas_have_the_moments(mean, std):
    sigmas = lognormal_sigmas(20_000, mean, std)
    assert sigmas.dtype == torch.float32
    log = sigmas.double().log()
    # Stratification makes the error far smaller than 1/sqrt(n).
    assert log.mean().item() == pytest.approx(mean, abs=1e-3)
    assert log.std().item() == pytest.approx(std, rel=1e-3)


def test_lognormal_sigmas_default_to_unit_variance_data():
    log = lognormal_sigmas(20_000).double().log()
    assert log.mean().item() == pytest.approx(-1.2 + math.log(2), abs=0.01)
    assert log.std().item() == pytest.approx(1.2, rel=1e-3)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_lognormal_sigmas_fall_one_into_each_quantile_bin(n):
    g = torch.Generator().manual_seed(1)
    quantiles = torch.special.ndtr((lognormal_sigmas(n, generator=g).double().log() + 0.5) / 1.2)
    bins = (quantiles * n).long()
    assert sorted(bins.tolist()) == list(range(n))
    if n > 1:
        assert bins.tolist() != list(range(n))  # cells must not always get the same level


def test_lognormal_sigmas_use_only_their_generator():
    before = torch.get_rng_state()
    a, b, c = (
        lognormal_sigmas(50, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)
