import copy
import pickle

import pytest
import torch

from scgm_scvi.diffusion import NOISE_PROCESSES, Denoiser, lognormal_sigmas

N = 100_000


class Zero(torch.nn.Module):
    def forward(self, x, noise, *conditions):
        return torch.zeros_like(x)


class Recorder(Zero):
    def forward(self, x, noise, *conditions):
        self.seen = x, noise, conditions
        return super().forward(x, noise)


class Exact(torch.nn.Module):
    """The network inside the exact denoiser: equation 7 of Karras et al. solved for F."""

    def __init__(self, distribution):
        super().__init__()
        self.distribution = distribution

    def forward(self, x, noise):
        sigma = (4 * noise).exp()
        s = sigma[:, None]
        total = (1 + s**2).sqrt()
        return (self.distribution.denoise(x * total, sigma) - x / total) * total / s


def levels(sigma, n=N):
    return torch.full((n,), sigma, dtype=torch.float64)


def unit_variance_data(n=N):
    """Two far points: nothing Gaussian about them."""
    return torch.randint(2, (n, 2)).double() * 2 - 1


@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0, 20.0])
def test_network_sees_unit_variance_and_the_scaled_log_level(sigma):
    network = Recorder()
    x = unit_variance_data() + sigma * torch.randn(N, 2, dtype=torch.float64)
    Denoiser(network, 2)(x, levels(sigma), "condition")
    seen, noise, conditions = network.seen
    assert seen.var().item() == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(noise, levels(sigma).log() / 4)
    assert conditions == ("condition",)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0, 20.0])
def test_network_that_knows_nothing_has_loss_one(sigma):
    # The target is (sigma x0 - noise) / sqrt(1 + sigma²): its variance is 1, Gaussian data or not.
    loss = Denoiser(Zero(), 2).loss(unit_variance_data(), sigma=levels(sigma))
    assert loss.shape == (N,)
    assert loss.mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 5.0])
def test_loss_is_the_squared_error_of_the_networks_target(sigma):
    n, x0 = 50, unit_variance_data(50)
    output = torch.randn(n, 2, dtype=torch.float64)

    class Fixed(Zero):
        def forward(self, x, noise):
            return output

    noise = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    target = (sigma * x0 - noise) / (1 + sigma**2) ** 0.5
    loss = Denoiser(Fixed(), 2).loss(
        x0, sigma=levels(sigma, n), generator=torch.Generator().manual_seed(5)
    )
    torch.testing.assert_close(loss, (output - target).square().mean(dim=1))


def test_noise_may_be_given_and_shared():
    x0, noise = unit_variance_data(50), torch.tensor([3.0, -1.0], dtype=torch.float64)
    loss = Denoiser(Zero(), 2).loss(x0, sigma=levels(2.0, 50), noise=noise)
    torch.testing.assert_close(loss, (2 * x0 - noise).square().mean(dim=1) / 5)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_loss_of_the_exact_denoiser_is_the_posterior_variance(gaussian, sigma):
    v, s2 = gaussian.variances, sigma**2
    expected = ((1 + s2) * v / (v + s2)).mean().item()
    denoiser = Denoiser(Exact(gaussian), 2)
    loss = denoiser.loss(gaussian.sample(N), sigma=levels(sigma)).mean().item()
    assert loss == pytest.approx(expected, rel=0.02)
    assert loss < Denoiser(Zero(), 2).loss(gaussian.sample(N), sigma=levels(sigma)).mean().item()


def test_loss_draws_from_its_generator_only():
    x0, denoiser = unit_variance_data(64), Denoiser(Zero(), 2)
    before = torch.get_rng_state()
    a, b, c = (
        denoiser.loss(x0, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_cell_is_denoised_at_its_own_level(gaussian):
    x, sigma = gaussian.sample(4), torch.tensor([0.1, 1.0, 5.0, 50.0], dtype=torch.float64)
    denoised = Denoiser(Exact(gaussian), 2)(x, sigma)
    for i in range(4):
        torch.testing.assert_close(denoised[i], gaussian.denoise(x[i : i + 1], sigma[i])[0])


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_score_of_the_exact_denoiser_is_the_gradient_of_the_log_density(gaussian, sigma):
    x = (gaussian.sample(20) + sigma * torch.randn(20, 2, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian.noisy_log_prob(x, sigma).sum(), x)
    score = Denoiser(Exact(gaussian), 2).score(x, levels(sigma, 20))
    torch.testing.assert_close(score, gradient, rtol=1e-8, atol=1e-8)


def test_score_is_the_denoising_direction():
    denoiser = Denoiser(torch.nn.Bilinear(2, 2, 2).double(), 2)
    denoiser.network.forward = lambda x, noise, c: torch.tanh(x + noise[:, None] + c)
    x, sigma, c = unit_variance_data(5), levels(0.3, 5), torch.ones(5, 1).double()
    expected = (denoiser(x, sigma, c) - x) / 0.09
    torch.testing.assert_close(denoiser.score(x, sigma, c), expected)


def test_standardize_is_undone_and_its_units_are_saved():
    denoiser = Denoiser(Zero(), 3)
    denoiser.shift.copy_(torch.tensor([1.0, -2.0, 30.0]))
    denoiser.scale.copy_(torch.tensor([0.5, 4.0, 10.0]))
    z = denoiser.shift + denoiser.scale * torch.randn(1000, 3)
    x = denoiser.standardize(z)
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=0.15, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(3), atol=0.1, rtol=0)
    torch.testing.assert_close(denoiser.unstandardize(x), z)

    assert set(denoiser.state_dict()) == {"shift", "scale"}
    fresh = Denoiser(Zero(), 3)
    fresh.load_state_dict(denoiser.state_dict())
    assert torch.equal(fresh.standardize(z), x)


def test_unknown_noise_process():
    with pytest.raises(ValueError, match="noise process 'cosine' is unknown. Known: 'edm', 've'"):
        Denoiser(Zero(), 2, noise="cosine")


def test_default_training_levels_are_lognormal_and_weigh_the_same():
    x0, g = unit_variance_data(64).float(), torch.Generator()
    network = torch.nn.Bilinear(2, 2, 2)
    network.forward = lambda x, noise: torch.tanh(x.flip(1) + noise[:, None])
    denoiser = Denoiser(network, 2)
    loss = denoiser.loss(x0, generator=g.manual_seed(1))
    sigma = lognormal_sigmas(64, generator=g.manual_seed(1))
    assert torch.equal(denoiser.loss(x0, sigma=sigma, generator=g), loss)  # to the last bit


@pytest.mark.parametrize("name", NOISE_PROCESSES)
def test_training_draws_and_weighs_levels_as_its_process_does(name):
    x0, process, g = unit_variance_data(64), NOISE_PROCESSES[name], torch.Generator()
    denoiser = Denoiser(Zero(), 2, noise=name)
    assert denoiser.noise is process
    loss = denoiser.loss(x0, generator=g.manual_seed(1))
    sigma = process.draw(64, generator=g.manual_seed(1))
    # levels that are given are scored in units of the network's target, whatever the process
    given = denoiser.loss(x0, sigma=sigma, generator=g)
    assert torch.equal(loss, process.weight(sigma) * given)


@pytest.mark.parametrize("name", ["ve", "vp", "sub_vp"])
def test_training_weights_make_the_loss_that_of_predicting_the_noise(name, gaussian):
    """The exact denoiser's error of the noise, averaged over even times, in closed form."""
    process = NOISE_PROCESSES[name]
    t = torch.linspace(1e-3, 1, 2001, dtype=torch.float64)
    s2 = process.sigma(t)[:, None] ** 2
    expected = (gaussian.variances / (gaussian.variances + s2)).mean().item()
    denoiser = Denoiser(Exact(gaussian), 2, noise=name)
    loss = denoiser.loss(gaussian.sample(N), generator=torch.Generator().manual_seed(0))
    assert loss.mean().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", NOISE_PROCESSES)
def test_training_with_each_process_improves_its_loss(name):
    g = torch.Generator().manual_seed(0)

    class Network(torch.nn.Sequential):
        def forward(self, x, noise):
            return super().forward(torch.cat([x, noise[:, None]], dim=1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2)
    torch.nn.init.zeros_(layers[2].weight)
    torch.nn.init.zeros_(layers[2].bias)
    denoiser = Denoiser(Network(*layers), 2, noise=name)
    x0 = (torch.randint(2, (256, 1), generator=g).float() * 2 - 1).expand(-1, 2)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-2)
    losses = []
    for _ in range(150):
        loss = denoiser.loss(x0, generator=g).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.85 * sum(losses[:5]) * 4


@pytest.mark.parametrize("name", NOISE_PROCESSES)
def test_noise_process_is_no_part_of_the_weights(name):
    denoiser = Denoiser(Zero(), 3, noise=name)
    assert set(denoiser.state_dict()) == {"shift", "scale"}
    for twin in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert twin.noise == denoiser.noise
