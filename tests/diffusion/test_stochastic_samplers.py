"""Samplers of the reverse SDE. What every sampler must do is in ``test_samplers``."""

import itertools
import math

import pytest
import torch

from scgm_scvi.diffusion import (
    SAMPLERS,
    ancestral,
    dpmpp_2m,
    dpmpp_2m_sde,
    exponential_sigmas,
    karras_sigmas,
    pc,
    sigmas_for,
)

STOCHASTIC = ["ancestral", "euler_maruyama", "dpmpp_2m_sde", "pc"]
# of which Langevin steps are short enough to be off by less than 1%, and many enough
OPTIONS = {"pc": {"n_corrections": 40, "snr": 0.05}}


def noise(distribution, sigma, n=50):
    return distribution.sample(n) + sigma * torch.randn(n, 2, dtype=torch.float64)


def variances_of_samples(name, variances, sigmas, monkeypatch, **options):
    """Variance of the samples of a Gaussian, with no draw: all is linear in the noise.

    A cell has a block of coordinates for each variance, and in it a coordinate for each draw of
    noise, which is all there. Mean squares over a block are then variances, those in lengths of
    scores too, as of a cell of infinitely many dimensions.
    """
    per_level = 1 + options.get("n_corrections", 0)
    width = 1 + (len(sigmas) - 1) * per_level
    v = torch.tensor(variances, dtype=torch.float64).repeat_interleave(width)
    draws = itertools.count()

    def one_draw(shape, **_):
        n = torch.zeros(len(variances), width, dtype=torch.float64)
        n[:, next(draws)] = math.sqrt(width)
        return n.reshape(shape)

    x = one_draw((1, len(v))) * (v + sigmas[0] ** 2).sqrt()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", one_draw)
        out = SAMPLERS[name].function(lambda x, s: v / (v + s**2) * x, x, sigmas, **options)
    return out.x.reshape(len(variances), width).square().mean(1)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_give_a_gaussian_its_variance(name, monkeypatch):
    grid, options = SAMPLERS[name].grid, OPTIONS.get(name, {})
    sigmas = sigmas_for(grid if name != "pc" else "exponential", 200, 0.01, 20.0)
    truth = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    v = variances_of_samples(name, truth.tolist(), sigmas, monkeypatch, **options)
    assert (v / truth - 1).abs().max() < 0.01


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_give_a_gaussian_its_mean(gaussian, name, monkeypatch):
    """Without noise they end at their mean given the start, which the denoiser knows at once."""
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
    options = {"n_corrections": 0} if name == "pc" else {}
    sigmas = exponential_sigmas(200, 0.01, 20.0)
    start = gaussian.mean + 20 * torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.5, 1.0]]).double()
    x = SAMPLERS[name].function(gaussian.denoise, start, sigmas, **options).x
    expected = gaussian.denoise(start, sigmas[0])
    assert ((x - expected).abs() / gaussian.covariance.diagonal().sqrt()).max() < 0.02
    torch.testing.assert_close(x[0], gaussian.mean)


@pytest.mark.parametrize("name", ["ancestral", "euler_maruyama", "dpmpp_2m_sde"])
def test_error_of_the_variance_is_of_second_order_in_even_steps(name, monkeypatch):
    errors = [
        variances_of_samples(name, [0.3, 1.0], exponential_sigmas(n, 1e-4, 1e3), monkeypatch)
        / torch.tensor([0.3, 1.0])
        - 1
        for n in (200, 400)
    ]
    for coarse, fine in zip(*errors, strict=True):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", ["ancestral", "euler_maruyama", "dpmpp_2m_sde"])
def test_default_steps_give_a_gaussian_its_variance(name, monkeypatch):
    sampler = SAMPLERS[name]
    sigmas = sigmas_for(sampler.grid, sampler.default_steps)
    v = variances_of_samples(name, [1.0], sigmas, monkeypatch)
    assert v.item() == pytest.approx(1, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_draw_from_a_mixture(mixture, name):
    g, n = torch.Generator().manual_seed(1), 40_000
    options, shape = {}, (n, 2)
    if name == "pc":  # many points side by side: its step is for cells of many dimensions
        n, options = 16_000, {"n_corrections": 5, "snr": 0.07}
        shape = (16, 2000)
    sigmas = exponential_sigmas(200, 0.02, 20.0)
    x = mixture.sample(n, g) + 20 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    x = (
        SAMPLERS[name]
        .function(mixture.denoise, x.reshape(shape), sigmas, generator=g, **options)
        .x.reshape(n, 2)
    )
    scale = mixture.covariance.diagonal().sqrt()
    assert ((x.mean(0) - mixture.mean).abs() / scale).max() < 0.01
    assert ((torch.cov(x.T) - mixture.covariance).abs() / scale.outer(scale)).max() < 0.01


@pytest.mark.parametrize("snr", [0.16, 0.3])
def test_langevin_corrections_settle_at_a_known_variance(snr):
    v, sigma, g = 0.5, 0.7, torch.Generator().manual_seed(0)
    x = math.sqrt(v + sigma**2) * torch.randn(50, 4000, generator=g, dtype=torch.float64)
    sigmas = torch.tensor([sigma, sigma * (1 - 1e-12)], dtype=torch.float64)
    x = pc(
        lambda x, s: v / (v + s**2) * x,
        x,
        sigmas,
        generator=g,
        n_corrections=round(3 / snr**2),
        snr=snr,
    ).x
    assert x.square().mean().item() == pytest.approx((v + sigma**2) / (1 - snr**2), rel=0.005)


def test_corrections_of_a_cell_do_not_depend_on_others(gaussian):
    x = noise(gaussian, 10.0, n=4)
    far = torch.cat([x[:3], 100 * x[3:]])
    run = lambda x: (
        pc(gaussian.denoise, x, karras_sigmas(5), generator=torch.Generator().manual_seed(0)).x
    )
    torch.testing.assert_close(run(x)[:3], run(far)[:3], rtol=0, atol=0)


def test_corrections_survive_a_score_of_zero(gaussian):
    x = gaussian.mean.repeat(500, 1)
    assert pc(gaussian.denoise, x, karras_sigmas(50)).x.abs().max() < 50


def test_sde_without_noise_is_dpmpp_2m(gaussian):
    x, g = noise(gaussian, 10.0), torch.Generator()
    before = g.get_state()
    quiet = dpmpp_2m_sde(gaussian.denoise, x, karras_sigmas(9), generator=g, eta=0.0)
    assert torch.equal(quiet.x, dpmpp_2m(gaussian.denoise, x, karras_sigmas(9)).x)
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_sde_of_any_eta_has_the_same_marginals(eta, monkeypatch):
    v = variances_of_samples(
        "dpmpp_2m_sde", [0.5, 1.0], exponential_sigmas(400, 0.01, 20.0), monkeypatch, eta=eta
    )
    torch.testing.assert_close(v, torch.tensor([0.5, 1.0]).double(), rtol=2e-3, atol=0)


def test_ancestral_steps_have_the_variance_between_ddpms_two():
    """A Gaussian's variance after each step is known, coarse as the grid may be."""
    n, v, sigmas = 200_000, 0.5, karras_sigmas(6, 0.05, 5.0)
    expected, x = v + 25.0, math.sqrt(v + 25) * torch.randn(n, 1, dtype=torch.float64)
    measured = []
    ancestral(
        lambda x, s: x * v / (v + s**2),
        x,
        sigmas,
        callback=lambda i, x, denoised: measured.append(x.var().item()),
    )
    for i, (s, t) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        shrink = v / (v + s**2)
        keep = (t / s) ** 2
        lower, upper = t**2 * (1 - keep), s**2 - t**2
        added = math.sqrt(lower * upper)
        expected = (shrink + keep * (1 - shrink)) ** 2 * expected + added
        assert measured[i] == pytest.approx(expected, rel=0.02)


def test_euler_maruyama_refuses_steps_with_which_it_diverges(gaussian):
    x = torch.zeros(1, 2)
    run = lambda *sigmas: SAMPLERS["euler_maruyama"].function(
        gaussian.denoise, x, torch.tensor(sigmas, dtype=torch.float64)
    )
    run(7.0, 2.6, 1.0, 0.0)
    with pytest.raises(ValueError, match="cannot step from sigma=2.6 to 0.9: .* Take more steps"):
        run(7.0, 2.6, 0.9, 0.0)
