import pytest
import torch

from scgm_scvi.diffusion import Denoiser, energy_guidance, heun, karras_sigmas


class Observation:
    """One linear observation of Gaussian data, with noise: y = a x0 + tau n."""

    def __init__(self, data, a, tau, y):
        self.data, self.tau, self.y = data, tau, y
        self.a = torch.tensor(a, dtype=torch.float64)

    def energy(self, denoised, sigma):
        """-log p(y | x) but for a constant: the variance is the same for every x."""
        v = self.data.variances
        along = (self.a @ self.data.axes) ** 2
        variance = self.tau**2 + (along * v * sigma**2 / (v + sigma**2)).sum()
        return (self.y - denoised @ self.a) ** 2 / (2 * variance)

    def plain(self, denoised, sigma):
        """-log p(y | x0), that knows nothing of noise."""
        return (self.y - denoised @ self.a) ** 2 / (2 * self.tau**2)

    def posterior(self):
        c, a = self.data.covariance, self.a
        gain = c @ a / (a @ c @ a + self.tau**2)
        mean = self.data.mean + gain * (self.y - a @ self.data.mean)
        return type(self.data)(mean, c - torch.outer(gain, a @ c))


@pytest.fixture
def observation(gaussian):
    return Observation(gaussian, a=[0.8, -1.1], tau=0.4, y=4.5)


def quadratic(denoised, sigma):
    return (denoised - 1).square().sum(dim=1)


@pytest.mark.parametrize("counted", ["by the energy", "here"])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_guided_denoiser_is_that_of_the_posterior(observation, sigma, counted):
    """Whoever counts in how uncertain the clean data are."""
    sigma = torch.tensor(sigma, dtype=torch.float64)
    x = observation.data.sample(20) + sigma * torch.randn(20, 2, dtype=torch.float64)
    if counted == "here":
        guided = energy_guidance(observation.data.denoise, observation.plain, curvature=True)
    else:
        guided = energy_guidance(observation.data.denoise, observation.energy)
    torch.testing.assert_close(guided(x, sigma), observation.posterior().denoise(x, sigma))


def test_samples_are_the_posterior(observation):
    posterior = observation.posterior()
    x = posterior.sample(2000) + 80 * torch.randn(2000, 2, dtype=torch.float64)
    guided = energy_guidance(observation.data.denoise, observation.energy)
    with torch.no_grad():
        samples = heun(guided, x, karras_sigmas(100)).x
    exact = posterior.flow(x, 80.0, 0.0)  # a sample of the posterior, up to its own noise
    spread = posterior.covariance.diagonal().sqrt()
    assert ((samples.mean(0) - exact.mean(0)).abs() < 0.01 * spread).all()
    error = (torch.cov(samples.T) - torch.cov(exact.T)).norm() / posterior.covariance.norm()
    assert error < 0.01
    assert ((exact.mean(0) - posterior.mean).abs() < 0.1 * spread).all()


def test_curvature_of_a_scaled_energy_is_that_of_the_scaled(observation):
    """Twice the energy is an observation of half the variance."""
    x, sigma = observation.data.sample(5), torch.tensor(1.3, dtype=torch.float64)
    guided = energy_guidance(observation.data.denoise, observation.plain, 2.0, curvature=True)
    twice = guided(x, sigma)
    observation.tau = observation.tau / 2**0.5
    torch.testing.assert_close(twice, observation.posterior().denoise(x, sigma))


@pytest.mark.parametrize(
    "energy",
    [
        lambda denoised, sigma: denoised @ torch.tensor([1.0, -2.0]).double(),  # linear
        lambda denoised, sigma: 0 * denoised[:, 0],
        lambda denoised, sigma: -denoised.square().sum(dim=1) / 9,  # concave
    ],
)
def test_no_curvature_no_difference(gaussian, energy):
    x, sigma = gaussian.sample(5), torch.tensor(0.7, dtype=torch.float64)
    with_it, without = (
        energy_guidance(gaussian.denoise, energy, curvature=c)(x, sigma) for c in (True, False)
    )
    assert torch.equal(with_it, without)


def test_gradient_goes_through_a_denoiser_that_is_not_linear():
    """Against differences of the energy: the Jacobian of the denoiser must be in it."""
    denoise = lambda x, sigma: torch.tanh(x.flip(1) * x) + x / (1 + sigma**2)
    energy = lambda denoised, sigma: denoised.sin().sum(dim=1) / sigma
    x, sigma, step = torch.randn(5, 3, dtype=torch.float64), torch.tensor(0.7).double(), 1e-5
    gradient = torch.zeros_like(x)
    for j in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[j] = step
        up, down = (energy(denoise(x + s, sigma), sigma) for s in (shift, -shift))
        gradient[:, j] = (up - down) / (2 * step)
    expected = denoise(x, sigma) - 2.5 * sigma**2 * gradient
    torch.testing.assert_close(
        energy_guidance(denoise, energy, 2.5)(x, sigma), expected, rtol=1e-7, atol=1e-7
    )


def test_zero_scale_is_the_denoiser_itself(gaussian):
    refuse = lambda denoised, sigma: pytest.fail("an energy of no weight was computed")
    x, sigma = gaussian.sample(5), torch.tensor(0.5)
    guided = energy_guidance(gaussian.denoise, refuse, scale=0)
    assert torch.equal(guided(x, sigma), gaussian.denoise(x, sigma))


def test_energy_sees_the_clean_estimate_and_the_level(gaussian):
    seen = []

    def energy(denoised, sigma):
        seen.append((denoised.detach(), sigma))
        return quadratic(denoised, sigma)

    x, sigma = gaussian.sample(5), torch.tensor(0.5, dtype=torch.float64)
    energy_guidance(gaussian.denoise, energy)(x, sigma)
    [(denoised, level)] = seen
    assert torch.equal(denoised, gaussian.denoise(x, sigma))
    assert level is sigma


def test_rows_may_have_levels_of_their_own(gaussian):
    x, sigma = gaussian.sample(3), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    guided = energy_guidance(gaussian.denoise, quadratic)
    together = guided(x, sigma)
    for i in range(3):
        torch.testing.assert_close(together[i], guided(x[i : i + 1], sigma[i])[0])


def test_a_float32_network_gets_no_gradients_and_inputs_stay_as_they_are():
    torch.manual_seed(1)
    network = torch.nn.Linear(3, 3)
    network.forward = lambda x, noise: torch.tanh(x @ network.weight + noise[:, None])
    denoiser = Denoiser(network, 3)
    denoise = lambda x, sigma: denoiser(x.float(), sigma.float().expand(len(x)))
    x, sigma = torch.randn(4, 3, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        out = energy_guidance(denoise, quadratic)(x, sigma)
    assert not out.requires_grad
    assert network.weight.grad is None
    assert torch.equal(x, before)
    assert not x.requires_grad
    double = energy_guidance(
        lambda x, sigma: denoiser.double()(x, sigma.expand(len(x))), quadratic
    )(x, sigma)
    torch.testing.assert_close(out, double, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_inference_mode_is_refused(gaussian):
    guided = energy_guidance(gaussian.denoise, quadratic)
    x = gaussian.sample(2)
    with torch.inference_mode():
        made_here = gaussian.sample(2)
        with pytest.raises(RuntimeError, match=r"use torch.no_grad\(\) instead"):
            guided(x, torch.tensor(1.0))
    assert guided(made_here, torch.tensor(1.0)).shape == (2, 2)


@pytest.mark.parametrize(
    ("energy", "text"),
    [
        (lambda denoised, sigma: denoised.square(), r"shape \(4, 2\).*one number a row: \(4,\)"),
        (lambda denoised, sigma: denoised.square().sum(), r"shape \(\)"),
        (lambda denoised, sigma: denoised.square().sum(1, keepdim=True), r"shape \(4, 1\)"),
        (lambda denoised, sigma: (denoised > 0).double().sum(1), "no derivative with respect to d"),
        (lambda denoised, sigma: denoised.detach().sum(1), "no derivative with respect to denoise"),
        (lambda denoised, sigma: torch.ones(4).requires_grad_() * 2, "no derivative with respect"),
    ],
)
def test_energy_must_be_one_differentiable_number_a_row(gaussian, energy, text):
    with pytest.raises(ValueError, match=text):
        energy_guidance(gaussian.denoise, energy)(gaussian.sample(4), torch.tensor(1.0))


def test_denoiser_must_be_differentiable(gaussian):
    guided = energy_guidance(torch.no_grad()(gaussian.denoise), quadratic)
    with pytest.raises(ValueError, match="must neither detach its input nor turn gradients off"):
        guided(gaussian.sample(4), torch.tensor(1.0))
