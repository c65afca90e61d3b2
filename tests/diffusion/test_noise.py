import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgm_scvi.diffusion import NOISE_PROCESSES, lognormal_sigmas

RANGE = 80 / 0.002


def beta(t):
    return 0.1 + 19.9 * t


# dx = f(t) x dt + g(t) dw: (f, g²), as the papers have them
SDE = {
    "edm": (lambda t: 0.0, lambda t: 2 * math.log(RANGE) * (0.002 * RANGE**t) ** 2),
    "ve": (lambda t: 0.0, lambda t: 25 ** (2 * t)),
    "vp": (lambda t: -beta(t) / 2, beta),
    "sub_vp": (
        lambda t: -beta(t) / 2,
        lambda t: beta(t) * (1 - math.exp(-0.2 * t - 19.9 * t**2)),
    ),
}
NAMES = pytest.mark.parametrize("name", NOISE_PROCESSES)


def time(*t):
    return torch.tensor(t, dtype=torch.float64)


@NAMES
def test_marginals_are_those_of_the_forward_sde(name):
    """Mean factor and variance of its small steps, of which no draw is needed: it is linear."""
    (f, g2), process, n = SDE[name], NOISE_PROCESSES[name], 20_000
    mean, variance = 1.0, process.sigma(time(0.0)).item() ** 2
    for i in range(n):
        t = (i + 0.5) / n  # of the coefficients; converges faster than the start of the step
        mean, variance = (1 + f(t) / n) * mean, (1 + f(t) / n) ** 2 * variance + g2(t) / n
        if i + 1 in (n // 100, n // 10, n // 2, n):
            now = time((i + 1) / n)
            alpha, sigma = process.alpha(now).item(), process.sigma(now).item()
            assert alpha == pytest.approx(mean, rel=2e-3)
            assert (alpha * sigma) ** 2 == pytest.approx(variance, rel=1e-2)


@NAMES
def test_simulated_paths_have_the_marginals(name):
    (f, g2), process, n, paths = SDE[name], NOISE_PROCESSES[name], 400, 20_000
    g = torch.Generator().manual_seed(0)
    x = torch.full((paths,), 3.0, dtype=torch.float64)
    for i in range(n):
        t = (i + 0.5) / n
        x = x + f(t) / n * x
        x += math.sqrt(g2(t) / n) * torch.randn(paths, generator=g, dtype=torch.float64)
        if i + 1 in (n // 4, n):
            now = time((i + 1) / n)
            alpha, std = process.alpha(now).item(), (process.alpha(now) * process.sigma(now)).item()
            assert x.mean().item() == pytest.approx(3 * alpha, abs=0.02 * std + 0.01)
            assert x.std().item() == pytest.approx(std, rel=0.03)


@NAMES
@given(t=st.floats(1e-5, 1.0))
def test_time_is_the_inverse_of_sigma(name, t):
    process = NOISE_PROCESSES[name]
    assert process.time(process.sigma(time(t))).item() == pytest.approx(t, rel=1e-9)


@NAMES
def test_small_times_keep_their_digits(name):
    """Differences of numbers near 1 would lose all of them in single precision."""
    t = torch.logspace(-4, -2, 20, dtype=torch.float64)
    single = NOISE_PROCESSES[name].sigma(t.float()).double()
    torch.testing.assert_close(single, NOISE_PROCESSES[name].sigma(t), rtol=1e-6, atol=0)


@NAMES
def test_variance_preserving_means_it(name):
    t, process = torch.linspace(0, 1, 11, dtype=torch.float64), NOISE_PROCESSES[name]
    total = process.alpha(t) ** 2 * (1 + process.sigma(t) ** 2)
    if name == "vp":
        torch.testing.assert_close(total, torch.ones_like(t))
    elif name == "sub_vp":
        assert (total[1:-1] < 1).all()
    else:
        assert torch.equal(process.alpha(t), torch.ones_like(t))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("edm", 0.002, 80.0),
        ("ve", 0.031674, 9.8452),
        ("vp", 0.010488, 152.18),
        ("sub_vp", 1.0995e-4, 152.18),
    ],
)
def test_range(name, low, high):
    process = NOISE_PROCESSES[name]
    assert process.sigma_min == pytest.approx(low, rel=1e-3)
    assert process.sigma_max == pytest.approx(high, rel=1e-3)


@NAMES
def test_native_grid_has_even_times(name):
    process = NOISE_PROCESSES[name]
    sigmas = process.sigmas(50)
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (51,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0
    torch.testing.assert_close(
        process.time(sigmas[:-1]), torch.linspace(1, process.t_min, 50, dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="n_steps is 0"):
        process.sigmas(0)


@pytest.mark.parametrize("name", ["ve", "vp", "sub_vp"])
@pytest.mark.parametrize("n", [1, 7, 1000])
def test_training_draws_even_times_one_in_each_bin(name, n):
    process = NOISE_PROCESSES[name]
    levels = process.draw(n, generator=torch.Generator().manual_seed(1))
    assert levels.dtype == torch.float32
    t = (process.time(levels.double()) - 1e-3) / (1 - 1e-3)
    bins = (t * n + 1e-3).floor().clamp(0, n - 1).long().tolist()
    # single precision may push a time at the edge of its bin over it
    expected = range(n)
    assert sum(a != b for a, b in zip(sorted(bins), expected, strict=True)) <= n // 100
    if n > 1:
        assert bins != sorted(bins)  # cells must not always get the same level


def test_default_training_draws_are_lognormal():
    seeded = lambda: torch.Generator().manual_seed(2)
    drawn = NOISE_PROCESSES["edm"].draw(300, generator=seeded())
    assert torch.equal(drawn, lognormal_sigmas(300, generator=seeded()))


@NAMES
def test_draws_use_only_their_generator(name):
    before = torch.get_rng_state()
    a, b, c = (
        NOISE_PROCESSES[name].draw(50, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


@NAMES
def test_weight_turns_the_networks_error_into_that_of_the_noise(name):
    sigma, process = torch.tensor([0.01, 1.0, 30.0]), NOISE_PROCESSES[name]
    expected = torch.ones(3) if name == "edm" else 1 / (1 + sigma**2)
    torch.testing.assert_close(process.weight(sigma), expected)


@NAMES
def test_processes_are_copied_and_pickled(name):
    process = NOISE_PROCESSES[name]
    for twin in (copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
        assert twin == process


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
