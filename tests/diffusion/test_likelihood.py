import math

import pytest
import torch
from torchdiffeq import odeint

from scgm_scvi.diffusion import Denoiser, log_likelihood


class Mixture:
    """Equal Gaussians of one variance, standardised: mean 0 and variance 1 in every coordinate."""

    def __init__(self, means, variance):
        means = torch.as_tensor(means, dtype=torch.float64)
        means = (means - means.mean(0)) / means.std(0, unbiased=False)
        self.means, self.variance = means * math.sqrt(1 - variance), variance

    def denoise(self, x, sigma):
        total = self.variance + sigma.reshape(-1, 1) ** 2
        nearest = torch.softmax(-(torch.cdist(x, self.means) ** 2) / (2 * total), 1) @ self.means
        return nearest + self.variance / total * (x - nearest)

    def noisy_log_prob(self, x, sigma):
        total = self.variance + sigma**2
        log = -(torch.cdist(x, self.means) ** 2) / (2 * total)
        n, d = self.means.shape
        return log.logsumexp(1) - math.log(n) - d / 2 * math.log(2 * math.pi * total)

    def sample(self, n):
        centres = self.means[torch.randint(len(self.means), (n,))]
        return centres + math.sqrt(self.variance) * torch.randn_like(centres)


class MixtureNetwork(torch.nn.Module):
    """The network inside a mixture's denoiser, with weights, in whatever precision it has."""

    def __init__(self, mixture):
        super().__init__()
        self.means = torch.nn.Parameter(mixture.means.clone())
        self.variance = mixture.variance

    def forward(self, x, noise):
        s = (4 * noise).exp()[:, None]
        scale = (1 + s**2).sqrt()
        total = self.variance + s**2
        d2 = ((x * scale)[:, None] - self.means).square().sum(2)
        nearest = torch.softmax(-d2 / (2 * total), 1) @ self.means
        # (D(x) - x / (1 + s²)) (1 + s²)^½ / s, without what cancels
        keep = (self.variance * scale**2 - total) / (total * scale * s)
        return s * scale / total * nearest + keep * x * scale


@pytest.fixture
def mixture():
    return Mixture(torch.randn(6, 8, generator=torch.Generator().manual_seed(2)), variance=0.1)


def exact(denoise, x, **kwargs):
    return log_likelihood(denoise, x, odeint=odeint, **{"trace": "exact"} | kwargs)


def test_gaussian(gaussian):
    x = gaussian.sample(200)
    out = exact(gaussian.denoise, x, sigma_max=2e4)
    assert out.log_prob.shape == (200,)
    assert out.log_prob.dtype == out.x.dtype == torch.float64
    error = (out.log_prob - gaussian.noisy_log_prob(x, 0.002)) / 2
    assert error.abs().max() < 5e-4  # nats a dimension


@pytest.mark.parametrize("levels", [(0.002, 80.0), (0.3, 7.0)])
def test_flow_and_prior_are_those_of_the_docstring(gaussian, levels):
    """Held to the closed form with the very prior, however badly it fits."""
    low, high = levels
    x = gaussian.sample(50)
    out = exact(gaussian.denoise, x, sigma_min=low, sigma_max=high, tolerance=1e-8)
    codes = gaussian.flow(x, low, high)
    torch.testing.assert_close(out.x, codes, rtol=1e-6, atol=1e-6)
    prior = torch.distributions.Normal(0, math.sqrt(1 + high**2)).log_prob(codes).sum(1)
    change = gaussian.noisy_log_prob(x, low) - gaussian.noisy_log_prob(codes, high)
    torch.testing.assert_close(out.log_prob, prior + change, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variance", [0.01, 0.1, 0.6])
def test_mixture(mixture, variance):
    mixture = Mixture(mixture.means, variance)
    x = mixture.sample(100)
    error = exact(mixture.denoise, x).log_prob - mixture.noisy_log_prob(x, 0.002)
    assert error.abs().max() / 8 < 1e-3  # nats a dimension


def test_cells_that_no_group_explains(mixture):
    x = torch.randn(50, 8, dtype=torch.float64)
    truth = mixture.noisy_log_prob(x, 0.002)
    assert truth.median() < mixture.noisy_log_prob(mixture.sample(1000), 0.002).min()
    error = exact(mixture.denoise, x).log_prob - truth
    assert error.abs().max() / 8 < 2e-3


def test_standard_normal_data_take_hardly_a_step():
    x = torch.randn(100, 5, dtype=torch.float64)
    out = exact(lambda x, sigma: x / (1 + sigma**2), x, sigma_min=1e-6)
    truth = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    torch.testing.assert_close(out.log_prob, truth, rtol=0, atol=1e-8)
    assert out.n_evaluations < 50


def test_a_float32_network(mixture):
    denoiser = Denoiser(MixtureNetwork(mixture), 8).float()
    seen = []

    def denoise(x, sigma):
        assert x.dtype == sigma.dtype == torch.float64
        assert sigma.ndim == 0
        seen.append(sigma.item())
        return denoiser(x.float(), sigma.float().expand(len(x)))

    x = mixture.sample(100)
    before = x.clone()
    with torch.no_grad():  # as a caller that only evaluates has it
        out = exact(denoise, x)
    assert ((out.log_prob - mixture.noisy_log_prob(x, 0.002)) / 8).abs().max() < 2e-3
    assert out.n_evaluations == len(seen) < 250
    assert min(seen) == pytest.approx(0.002)
    assert max(seen) == pytest.approx(80.0)  # no level beyond, where no network was trained
    assert not out.log_prob.requires_grad
    assert not out.x.requires_grad
    assert denoiser.network.means.grad is None
    assert torch.equal(x, before)


def test_a_smaller_tolerance_costs_evaluations_and_pays(mixture):
    x = mixture.sample(50)
    runs = [exact(mixture.denoise, x, tolerance=t) for t in (1e-3, 1e-5, 1e-7)]
    errors = [(run.log_prob - runs[-1].log_prob).abs().max() for run in runs]
    assert runs[0].n_evaluations < runs[1].n_evaluations < runs[2].n_evaluations
    assert errors[1] < 0.1 * errors[0]


def test_a_cell_is_as_accurate_in_company(mixture):
    # a cell half-way between two groups amid cells in the middle of one, which ask for little
    between = (mixture.means[:1] + mixture.means[1:2]) / 2 + 0.01
    x = torch.cat([between, mixture.means[2:3].expand(3000, 8)])
    alone, together = (exact(mixture.denoise, part).log_prob[0] for part in (x[:1], x))
    reference = exact(mixture.denoise, x[:1], tolerance=1e-8).log_prob[0]
    assert (alone - reference).abs() / 8 < 1e-3
    assert (together - reference).abs() / 8 < 1e-3


def hutchinson_error(gaussian, low, high):
    """In two dimensions v' J v = tr J + 2 v1 v2 J12: a known number of either sign."""
    v, q = gaussian.variances, gaussian.axes
    along = [math.log(s) - (v + s**2).log() / 2 for s in (low, high)]
    return (2 * (q[0] * q[1] * (along[1] - along[0])).sum()).abs().item()


def test_hutchinson_is_unbiased_and_its_probes_are_fixed_along_the_path(gaussian):
    x = gaussian.sample(1).expand(4000, 2)
    truth = exact(gaussian.denoise, x[:1], tolerance=1e-8).log_prob
    out = log_likelihood(gaussian.denoise, x, odeint=odeint, tolerance=1e-7)
    error, size = out.log_prob - truth, hutchinson_error(gaussian, 0.002, 80.0)
    assert size > 0.5
    torch.testing.assert_close(error.abs(), torch.full_like(error, size), rtol=0, atol=1e-4)
    assert error.mean().abs() < 4 * size / math.sqrt(4000)


@pytest.mark.parametrize("n_probes", [4, 16])
def test_more_probes_lower_the_variance(gaussian, n_probes):
    x = gaussian.sample(1).expand(4000, 2)
    truth = exact(gaussian.denoise, x[:1]).log_prob
    out = log_likelihood(gaussian.denoise, x, odeint=odeint, n_probes=n_probes)
    error, size = out.log_prob - truth, hutchinson_error(gaussian, 0.002, 80.0)
    assert error.std().item() == pytest.approx(size / math.sqrt(n_probes), rel=0.1)
    assert error.mean().abs() < 4 * size / math.sqrt(4000 * n_probes)


def test_hutchinson_is_exact_for_a_diagonal_jacobian(gaussian):
    data = type(gaussian)([0.0, 0.0, 0.0], torch.diag(torch.tensor([0.1, 1.0, 1.9])))
    x = data.sample(20)
    out = log_likelihood(data.denoise, x, odeint=odeint)
    torch.testing.assert_close(out.log_prob, exact(data.denoise, x).log_prob, rtol=0, atol=1e-9)


def test_only_the_generator_is_random(gaussian):
    x, before = gaussian.sample(30), torch.get_rng_state()
    a, b, c = (
        log_likelihood(
            gaussian.denoise, x, odeint=odeint, generator=torch.Generator().manual_seed(seed)
        ).log_prob
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"trace": "hutch"}, "trace is 'hutch'; use 'hutchinson' or 'exact'"),
        ({"n_probes": 0}, "n_probes is 0; it must be a whole number, at least 1"),
        ({"n_probes": 1.5}, "n_probes is 1.5"),
        ({"tolerance": 0.0}, "tolerance is 0.0; it must lie between 0 and 1"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"sigma_min": 0.0}, "sigma_min=0.0 and sigma_max=80.0: need 0 < sigma_min < sigma_max"),
        ({"sigma_max": 0.001}, "need 0 < sigma_min < sigma_max"),
        ({"x": torch.zeros(3)}, r"x has shape \(3,\); it must be \(cells, coordinates\)"),
        ({"x": torch.zeros(0, 2)}, r"x has shape \(0, 2\)"),
        ({"x": torch.tensor([[0.0, 1.0], [0.0, math.inf]])}, "x is not finite in 1 rows.* row 1"),
    ],
)
def test_bad_arguments(gaussian, arguments, text):
    arguments = {"x": torch.zeros(2, 2)} | arguments
    with pytest.raises(ValueError, match=text):
        log_likelihood(gaussian.denoise, arguments.pop("x"), odeint=odeint, **arguments)


def test_derivatives_are_needed(gaussian):
    x = gaussian.sample(2)
    with pytest.raises(ValueError, match="has no derivative with respect to x"):
        exact(torch.no_grad()(gaussian.denoise), x)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="use torch.no_grad"):
        exact(gaussian.denoise, x)
