import math
import warnings

import pytest
import torch

from scgm_scvi.diffusion import SAMPLERS, Denoiser, ancestral, dpmpp_2m, euler, heun, karras_sigmas

DETERMINISTIC = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def positive_grid(n_steps, low=0.1, high=10.0):
    """Levels that end above 0, so that the exact flow has somewhere to be compared at."""
    return karras_sigmas(n_steps + 1, low, high)[:-1]


def noise(gaussian, sigma, n=50):
    return gaussian.sample(n) + sigma * torch.randn(n, 2, dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence_to_the_exact_flow(gaussian, name, order):
    x = noise(gaussian, 10.0)
    exact = gaussian.flow(x, 10.0, 0.1)
    errors = [
        (SAMPLERS[name].function(gaussian.denoise, x, positive_grid(n)).x - exact).norm().item()
        for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert errors[1] < 0.02 * exact.norm().item()


def test_dpmpp_2m_extrapolates_to_the_middle_of_its_step():
    """In ln(sigma); an order of convergence would not show it, as its errors telescope."""
    levels = torch.tensor([8.0, 6.0, 1.0], dtype=torch.float64)
    x = torch.ones(1, 1)
    linear = lambda x, sigma: (2.0 - 3.0 * sigma.log()).reshape(1, 1)
    first, second = (6.0 / 8.0), (1.0 / 6.0)
    x1 = first * x + (1 - first) * linear(x, levels[0])
    middle = linear(x, (levels[1] * levels[2]).sqrt())
    expected = second * x1 + (1 - second) * middle
    torch.testing.assert_close(dpmpp_2m(linear, x, levels).x, expected)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_default_steps_carry_noise_to_the_data(gaussian, name):
    function, n_steps = SAMPLERS[name]
    x = noise(gaussian, 80.0)
    error = function(gaussian.denoise, x, karras_sigmas(n_steps)).x - gaussian.flow(x, 80.0, 0.0)
    assert error.square().mean().sqrt().item() < 0.1 * gaussian.variances.mean().sqrt().item()


def test_ancestral_draws_from_the_data(gaussian):
    # Its bias falls as 1 / n_steps: 5% of the variance at 200 steps, 1% at the default.
    n_steps = SAMPLERS["ancestral"].default_steps
    x = noise(gaussian, 10.0, n=50_000)
    x = ancestral(gaussian.denoise, x, karras_sigmas(n_steps, 0.02, 10.0)).x
    scale = gaussian.covariance.diagonal().sqrt()
    assert ((x.mean(0) - gaussian.mean).abs() < 0.02 * scale).all()
    error = torch.cov(x.T) - gaussian.covariance
    assert error.norm().item() < 0.02 * gaussian.covariance.norm().item()


def test_ancestral_steps_are_draws_from_the_posterior():
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
        expected = (shrink + keep * (1 - shrink)) ** 2 * expected + t**2 * (1 - keep)
        assert measured[i] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "to_zero", "above_zero"),
    [("euler", 10, 10), ("heun", 19, 20), ("dpmpp_2m", 10, 10), ("ancestral", 10, 10)],
)
def test_number_of_evaluations(gaussian, name, to_zero, above_zero):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian.denoise(x, sigma)

    x = noise(gaussian, 10.0)
    for sigmas, expected in ((karras_sigmas(10), to_zero), (positive_grid(10), above_zero)):
        calls.clear()
        assert SAMPLERS[name].function(counted, x, sigmas).n_evaluations == expected == len(calls)


@pytest.mark.parametrize("name", SAMPLERS)
def test_registry(name):
    assert SAMPLERS[name].function.__name__ == name
    assert SAMPLERS[name].default_steps >= 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_lands_on_the_last_estimate(gaussian, name):
    estimates = []
    out = SAMPLERS[name].function(
        gaussian.denoise,
        noise(gaussian, 10.0),
        karras_sigmas(8, 0.01, 10.0),
        callback=lambda i, x, denoised: estimates.append(denoised),
    )
    torch.testing.assert_close(out.x, estimates[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_follows_every_step(gaussian, name):
    steps, states = [], []

    def callback(step, x, denoised):
        assert x.shape == denoised.shape == (50, 2)
        steps.append(step)
        states.append(x)

    x = noise(gaussian, 10.0)
    out = SAMPLERS[name].function(gaussian.denoise, x, positive_grid(7), callback=callback)
    assert steps == list(range(7))
    assert torch.equal(states[-1], out.x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_generator_is_random(gaussian, name):
    x, function = noise(gaussian, 10.0), SAMPLERS[name].function
    original, before = x.clone(), torch.get_rng_state()
    a, b, c = (
        function(
            gaussian.denoise, x, positive_grid(5), generator=torch.Generator().manual_seed(seed)
        ).x
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (name in DETERMINISTIC)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, original)


@pytest.mark.parametrize("name", SAMPLERS)
def test_computes_in_double_precision_around_a_float32_network(gaussian, name):
    def single(x, sigma):
        assert x.dtype == sigma.dtype == torch.float64
        assert sigma.ndim == 0
        return gaussian.denoise(x, sigma).float()

    x, g = noise(gaussian, 10.0).float(), torch.Generator()
    out = SAMPLERS[name].function(single, x, karras_sigmas(20), generator=g.manual_seed(0)).x
    assert out.dtype == torch.float64
    double = SAMPLERS[name].function(
        gaussian.denoise, x, karras_sigmas(20), generator=g.manual_seed(0)
    )
    torch.testing.assert_close(out, double.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [[1.0], [0.1, 1.0], [1.0, 1.0, 0.0], [[1.0, 0.5]]])
def test_grid_must_decrease(gaussian, name, sigmas):
    with pytest.raises(ValueError, match="sigmas must decrease and hold at least two levels"):
        SAMPLERS[name].function(gaussian.denoise, torch.zeros(1, 2), torch.tensor(sigmas))


@pytest.fixture
def curved():
    """A denoiser that no linear solution fits, for comparison with another implementation."""

    class Network(torch.nn.Module):
        def forward(self, x, noise):
            return torch.tanh(x.flip(1) * torch.tensor([2.0, -1.0]).to(x) + noise[:, None])

    return Denoiser(Network(), 2)


def denoise_with(denoiser):
    return lambda x, sigma: denoiser(x, sigma.expand(len(x)))


@pytest.fixture
def schedulers():
    with warnings.catch_warnings():  # an oracle's own warnings are none of ours
        warnings.simplefilter("ignore")
        yield pytest.importorskip("diffusers.schedulers", reason="diffusers is not installed")


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")],
)
def test_samplers_and_preconditioning_agree_with_diffusers(curved, schedulers, name, scheduler):
    """Both own the preconditioning of Karras et al. as well as the step and the grid."""
    theirs = getattr(schedulers, scheduler)(sigma_min=0.002, sigma_max=80.0, sigma_data=1.0)
    theirs.set_timesteps(12)
    torch.testing.assert_close(theirs.sigmas.double(), karras_sigmas(12), rtol=1e-5, atol=1e-6)
    start = 80 * torch.randn(30, 2)
    x = start
    for t in theirs.timesteps:
        output = curved.network(theirs.scale_model_input(x, t), t.expand(len(x)))
        x = theirs.step(output, t, x, return_dict=False)[0]
    ours = SAMPLERS[name].function(denoise_with(curved), start, karras_sigmas(12)).x
    torch.testing.assert_close(ours.float(), x, rtol=1e-3, atol=1e-4)


def test_heun_agrees_with_diffusers(curved, schedulers):
    theirs = schedulers.HeunDiscreteScheduler(prediction_type="sample")
    theirs.set_timesteps(12)
    sigmas = karras_sigmas(12, 0.01, 20.0)
    # its own grid belongs to DDPM's noise schedule
    theirs.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    theirs.set_begin_index(0)
    start = 20 * torch.randn(30, 2, dtype=torch.float64)
    x = start
    for i, t in enumerate(theirs.timesteps):
        level = theirs.sigmas[i if i % 2 == 0 else i + 1]
        assert level == sigmas[(i + 1) // 2]
        x = theirs.step(denoise_with(curved)(x, level), t, x, return_dict=False)[0]
    ours = heun(denoise_with(curved), start, sigmas)
    assert ours.n_evaluations == len(theirs.timesteps)
    torch.testing.assert_close(ours.x, x, rtol=1e-9, atol=1e-9)
