import math
import warnings

import pytest
import torch

from scgm_scvi.diffusion import (
    NOISE_PROCESSES,
    SAMPLERS,
    Denoiser,
    dpmpp_2m,
    dpmpp_2m_sde,
    heun,
    karras_sigmas,
    pc,
    sigmas_for,
)

DETERMINISTIC = ["euler", "heun", "dpmpp_2m"]
STOCHASTIC = ["ancestral", "euler_maruyama", "dpmpp_2m_sde", "pc"]


def positive_grid(n_steps, low=0.1, high=10.0):
    """Levels that end above 0, so that the exact flow has somewhere to be compared at."""
    return karras_sigmas(n_steps + 1, low, high)[:-1]


def noise(distribution, sigma, n=50):
    return distribution.sample(n) + sigma * torch.randn(n, 2, dtype=torch.float64)


def sde_without_noise(*arguments):
    return dpmpp_2m_sde(*arguments, eta=0.0)


ORDERS = pytest.mark.parametrize(
    ("function", "order"),
    [*((SAMPLERS[n].function, o) for n, o in zip(DETERMINISTIC, (1, 2, 2), strict=True))]
    + [(sde_without_noise, 2)],
)


@ORDERS
def test_order_of_convergence_to_the_exact_flow(gaussian, function, order):
    x = noise(gaussian, 10.0)
    exact = gaussian.flow(x, 10.0, 0.1)
    errors = [
        (function(gaussian.denoise, x, positive_grid(n)).x - exact).norm().item()
        for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert errors[1] < 0.02 * exact.norm().item()


@ORDERS
def test_order_of_convergence_on_a_mixture(mixture, function, order):
    x = noise(mixture, 10.0)
    fine = heun(mixture.denoise, x, positive_grid(2000)).x
    errors = [
        (function(mixture.denoise, x, positive_grid(n)).x - fine).norm().item() for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert errors[1] < 0.02 * fine.norm().item()


@pytest.mark.parametrize("name", NOISE_PROCESSES)
def test_any_process_is_sampled_over_its_own_grid(gaussian, name):
    """With one denoiser, as they differ by a change of variables only."""
    sigmas = NOISE_PROCESSES[name].sigmas(300)
    x = noise(gaussian, sigmas[0], n=200)
    error = heun(gaussian.denoise, x, sigmas).x - gaussian.flow(x, sigmas[0], 0.0)
    assert error.square().mean().sqrt() < 0.02 * gaussian.variances.min().sqrt()


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
    sampler = SAMPLERS[name]
    x, sigmas = noise(gaussian, 80.0), sigmas_for(sampler.grid, sampler.default_steps)
    error = sampler.function(gaussian.denoise, x, sigmas).x - gaussian.flow(x, 80.0, 0.0)
    assert error.square().mean().sqrt().item() < 0.1 * gaussian.variances.mean().sqrt().item()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("dpmpp_2m_sde", {"eta": -0.1}, "eta is -0.1"),
        ("pc", {"n_corrections": -1}, "n_corrections is -1"),
        ("pc", {"snr": 0.0}, "snr is 0.0"),
    ],
)
def test_options_that_make_no_sense(gaussian, name, options, text):
    with pytest.raises(ValueError, match=text):
        SAMPLERS[name].function(gaussian.denoise, torch.zeros(1, 2), positive_grid(3), **options)


@pytest.mark.parametrize(
    ("name", "options", "to_zero", "above_zero"),
    [
        ("euler", {}, 10, 10),
        ("heun", {}, 19, 20),
        ("dpmpp_2m", {}, 10, 10),
        ("dpmpp_2m_sde", {}, 10, 10),
        ("ancestral", {}, 10, 10),
        ("euler_maruyama", {}, 10, 10),
        ("pc", {}, 220, 220),
        ("pc", {"n_corrections": 1}, 30, 30),
        ("pc", {"n_corrections": 0}, 10, 10),
    ],
)
def test_number_of_evaluations(gaussian, name, options, to_zero, above_zero):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian.denoise(x, sigma)

    x, function = noise(gaussian, 10.0), SAMPLERS[name].function
    for sigmas, expected in (
        (karras_sigmas(10, 0.1, 10.0), to_zero),
        (positive_grid(10), above_zero),
    ):
        calls.clear()
        assert function(counted, x, sigmas, **options).n_evaluations == expected == len(calls)


@pytest.mark.parametrize("name", SAMPLERS)
def test_registry(name):
    assert SAMPLERS[name].function.__name__ == name
    sigmas = sigmas_for(SAMPLERS[name].grid, SAMPLERS[name].default_steps)
    assert len(sigmas) == SAMPLERS[name].default_steps + 1
    assert {*DETERMINISTIC, *STOCHASTIC} == set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_lands_on_the_last_estimate(gaussian, name):
    estimates = []
    out = SAMPLERS[name].function(
        gaussian.denoise,
        noise(gaussian, 10.0),
        karras_sigmas(8, 0.1, 10.0),
        callback=lambda i, x, denoised: estimates.append(denoised),
    )
    torch.testing.assert_close(out.x, estimates[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_follows_every_step(gaussian, name):
    steps, states, copies = [], [], []

    def callback(step, x, denoised):
        assert x.shape == denoised.shape == (50, 2)
        steps.append(step)
        states.append(x)
        copies.append(x.clone())

    x = noise(gaussian, 10.0)
    out = SAMPLERS[name].function(gaussian.denoise, x, positive_grid(7), callback=callback)
    assert steps == list(range(7))
    assert torch.equal(states[-1], out.x)
    # what it is given is not written over later
    assert all(map(torch.equal, states, copies))


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_generator_is_random(gaussian, name):
    x, function = noise(gaussian, 10.0), SAMPLERS[name].function
    original, before = x.clone(), torch.get_rng_state()
    a, b, c = (
        function(
            gaussian.denoise, x, positive_grid(7), generator=torch.Generator().manual_seed(seed)
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
    sigmas = karras_sigmas(20, 0.05)
    out = SAMPLERS[name].function(single, x, sigmas, generator=g.manual_seed(0)).x
    assert out.dtype == torch.float64
    double = SAMPLERS[name].function(gaussian.denoise, x, sigmas, generator=g.manual_seed(0))
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


def edm_scheduler(schedulers, name, **options):
    scheduler = getattr(schedulers, name)(
        sigma_min=0.002, sigma_max=80.0, sigma_data=1.0, **options
    )
    scheduler.set_timesteps(12)
    torch.testing.assert_close(scheduler.sigmas.double(), karras_sigmas(12), rtol=1e-5, atol=1e-6)
    return scheduler


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")],
)
def test_samplers_and_preconditioning_agree_with_diffusers(curved, schedulers, name, scheduler):
    """Both own the preconditioning of Karras et al. as well as the step and the grid."""
    theirs = edm_scheduler(schedulers, scheduler)
    start = 80 * torch.randn(30, 2)
    x = start
    for t in theirs.timesteps:
        output = curved.network(theirs.scale_model_input(x, t), t.expand(len(x)))
        x = theirs.step(output, t, x, return_dict=False)[0]
    ours = SAMPLERS[name].function(denoise_with(curved), start, karras_sigmas(12)).x
    torch.testing.assert_close(ours.float(), x, rtol=1e-3, atol=1e-4)


def test_dpmpp_2m_sde_agrees_with_diffusers_step_by_step(curved, schedulers):
    theirs = edm_scheduler(
        schedulers, "EDMDPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"
    )
    start, g = 80 * torch.randn(30, 2), torch.Generator()
    x, states = start.double(), []
    g.manual_seed(0)
    for t in theirs.timesteps:
        output = curved.network(theirs.scale_model_input(x, t), t.expand(len(x)).double())
        x = theirs.step(output, t, x, generator=g, return_dict=False)[0].double()
        states.append(x)
    ours = []
    dpmpp_2m_sde(
        denoise_with(curved),
        start,
        karras_sigmas(12),
        generator=g.manual_seed(0),
        callback=lambda i, x, denoised: ours.append(x),
    )
    for a, b in zip(ours, states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_predictor_agrees_with_diffusers_step_by_step(curved, schedulers):
    """The reverse diffusion of Song et al.; their corrector divides means over the batch."""
    theirs = schedulers.ScoreSdeVeScheduler(num_train_timesteps=12, sigma_min=0.05, sigma_max=20.0)
    theirs.set_timesteps(12)
    theirs.set_sigmas(12, 0.05, 20.0)
    levels = theirs.discrete_sigmas.flip(0).double()
    start, g = 20 * torch.randn(30, 2, dtype=torch.float64), torch.Generator().manual_seed(0)
    x, states = start, []
    for t, sigma in zip(theirs.timesteps, levels, strict=True):
        score = curved.score(x, sigma.expand(len(x)))
        x, x_mean = theirs.step_pred(score, t, x, generator=g, return_dict=False)
        states.append(x)
    states[-1] = x_mean  # to 0: no noise
    ours = []
    pc(
        denoise_with(curved),
        start,
        torch.cat([levels, levels.new_zeros(1)]),
        n_corrections=0,
        generator=g.manual_seed(0),
        callback=lambda i, x, denoised: ours.append(x),
    )
    for a, b in zip(ours, states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


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
