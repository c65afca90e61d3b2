import math

import pytest
import torch

from scgm_scvi.diffusion import (
    SAMPLERS,
    Denoiser,
    ancestral,
    exponential_sigmas,
    heun,
    invert,
    karras_sigmas,
    sdedit,
    slerp,
    strength_sigma,
)


def positive_grid(n_steps, low=0.1, high=10.0):
    return karras_sigmas(n_steps + 1, low, high)[:-1]


def rms(x):
    return x.square().mean().sqrt().item()


def test_order_of_convergence_to_the_exact_flow(gaussian):
    x = gaussian.sample(50)
    exact = gaussian.flow(x, 0.1, 10.0)
    errors = [rms(invert(gaussian.denoise, x, positive_grid(n)).x - exact) for n in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)
    assert errors[1] < 1e-3 * rms(exact)


def test_standard_normal_data_are_inverted_exactly():
    """The state in use does not move, however few the steps."""
    x = torch.randn(20, 3, dtype=torch.float64)
    out = invert(lambda x, sigma: x / (1 + sigma**2), x, karras_sigmas(3)).x
    torch.testing.assert_close(out, x * math.sqrt((1 + 80**2) / (1 + 0.002**2)))


@pytest.mark.parametrize("data", ["gaussian", "mixture"])
@pytest.mark.parametrize(("n_steps", "error"), [(36, 0.03), (100, 0.003)])
def test_round_trip(data, n_steps, error, request):
    data = request.getfixturevalue(data)
    x, sigmas = data.sample(500), karras_sigmas(n_steps)
    noise = invert(data.denoise, x, sigmas).x
    assert (noise / 80).std().item() == pytest.approx(1, abs=0.1)
    assert rms(heun(data.denoise, noise, sigmas).x - x) < error


def test_codes_are_closer_to_the_flow_than_those_of_a_sampler_run_backwards(mixture):
    x, levels = mixture.sample(200), karras_sigmas(36)[:-1]
    backwards = x
    for low, high in zip(levels[1:].flip(0), levels[:-1].flip(0), strict=True):
        slope = (backwards - mixture.denoise(backwards, low)) / low
        predicted = backwards + (high - low) * slope
        slope_next = (predicted - mixture.denoise(predicted, high)) / high
        backwards = backwards + (high - low) * (slope + slope_next) / 2
    fine = invert(mixture.denoise, x, karras_sigmas(1000)).x
    assert rms(invert(mixture.denoise, x, levels).x - fine) < 0.5 * rms(backwards - fine)


def test_another_sampler_and_grid_lead_back_too(mixture):
    x = mixture.sample(200)
    noise = invert(mixture.denoise, x, karras_sigmas(100)).x
    back = SAMPLERS["dpmpp_2m"].function(mixture.denoise, noise, karras_sigmas(150)).x
    assert rms(back - x) < 0.02


def test_a_shift_of_the_condition_shifts_the_data(gaussian):
    """What inversion is for: the same noise, decoded for another group of cells."""
    shift = torch.tensor([0.5, 2.0], dtype=torch.float64)
    other = type(gaussian)(gaussian.mean + shift, gaussian.covariance)
    x, sigmas = gaussian.sample(100), karras_sigmas(100, 0.002, 2000.0)
    edited = heun(other.denoise, invert(gaussian.denoise, x, sigmas).x, sigmas).x
    torch.testing.assert_close(edited, x + shift, rtol=0, atol=0.02)


@pytest.mark.parametrize("to_zero", [True, False])
def test_data_are_at_the_smallest_positive_level(gaussian, to_zero):
    x, levels = gaussian.sample(20), positive_grid(400, 0.5, 20.0)
    sigmas = torch.cat([levels, torch.zeros(1)]) if to_zero else levels
    out = invert(gaussian.denoise, x, sigmas)
    torch.testing.assert_close(out.x, gaussian.flow(x, 0.5, 20.0), rtol=1e-3, atol=1e-3)


def test_callback_and_number_of_evaluations(gaussian):
    calls, steps, states = [], [], []

    def counted(x, sigma):
        assert x.dtype == sigma.dtype == torch.float64
        assert sigma.ndim == 0
        calls.append(sigma.item())
        return gaussian.denoise(x, sigma).float()

    def callback(step, x, denoised):
        assert x.shape == denoised.shape == (30, 2)
        steps.append(step)
        states.append((x.clone(), denoised))

    x, sigmas = gaussian.sample(30).float(), karras_sigmas(9, 0.1, 10.0)
    before = x.clone()
    out = invert(counted, x, sigmas, callback=callback)
    assert out.n_evaluations == len(calls) == 16  # 8 steps between 9 positive levels
    levels = sigmas[:-1].flip(0).tolist()
    assert calls == [s for pair in zip(levels[:-1], levels[1:], strict=True) for s in pair]
    assert steps == list(range(8))
    assert torch.equal(states[-1][0], out.x)
    first = gaussian.denoise(x.double(), sigmas[-2])
    torch.testing.assert_close(states[0][1], first, rtol=1e-5, atol=1e-5)
    for i, (state, _) in enumerate(states):  # each step ends at the level that follows
        partial = invert(gaussian.denoise, before, sigmas[7 - i :]).x
        torch.testing.assert_close(state, partial, rtol=1e-4, atol=1e-4)
    assert out.x.dtype == torch.float64
    assert torch.equal(x, before)


def test_a_float32_network():
    class Network(torch.nn.Module):
        def forward(self, x, noise):
            return torch.tanh(x.flip(1) * torch.tensor([2.0, -1.0]).to(x) + noise[:, None])

    denoiser = Denoiser(Network(), 2)
    x, sigmas = torch.randn(100, 2, dtype=torch.float64), karras_sigmas(100)
    single = lambda x, sigma: denoiser(x.float(), sigma.float().expand(len(x)))
    noise = invert(single, x, sigmas).x
    double = invert(lambda x, sigma: denoiser.double()(x, sigma.expand(len(x))), x, sigmas).x
    torch.testing.assert_close(noise, double, rtol=1e-3, atol=1e-2)
    assert rms(heun(denoiser_of(denoiser), noise, sigmas).x - x) < 0.01


def denoiser_of(denoiser):
    return lambda x, sigma: denoiser(x, sigma.expand(len(x)))


@pytest.mark.parametrize(
    ("sigmas", "text"),
    [
        ([0.1, 1.0], "sigmas must decrease"),
        ([1.0], "hold at least two levels"),
        ([80.0, 0.0], "at least two positive levels to move between"),
    ],
)
def test_grid_must_lead_somewhere(gaussian, sigmas, text):
    with pytest.raises(ValueError, match=text):
        invert(gaussian.denoise, torch.zeros(1, 2), torch.tensor(sigmas))


class TestSlerp:
    """Interpolation on the sphere."""

    @pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.8, 1.0])
    def test_norm_is_kept(self, weight):
        a, b = (torch.randn(50, 8, dtype=torch.float64) for _ in range(2))
        a, b = (3 * x / x.norm(dim=1, keepdim=True) for x in (a, b))
        norm = slerp(a, b, weight).norm(dim=1)
        torch.testing.assert_close(norm, torch.full((50,), 3.0, dtype=torch.float64))

    def test_noise_stays_noise(self):
        a, b = (torch.randn(4000, 13) for _ in range(2))
        middle = slerp(a, b, 0.5)
        assert middle.std().item() == pytest.approx(1, abs=0.03)
        assert ((a + b) / 2).std().item() < 0.75  # which is what the line would do
        assert middle.dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_ends(self, dtype):
        a, b = (80 * torch.randn(50, 8, dtype=dtype) for _ in range(2))
        torch.testing.assert_close(slerp(a, b, 0.0), a)
        torch.testing.assert_close(slerp(a, b, 1.0), b)

    def test_angle_grows_evenly(self):
        a, b = torch.tensor([[2.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 0.0, 2.0]]).double()
        for weight in (0.0, 0.25, 0.5, 1.0):
            angle = torch.tensor(weight * math.pi / 2)
            want = torch.tensor([[2 * angle.cos(), 0.0, 2 * angle.sin()]]).double()
            torch.testing.assert_close(slerp(a, b, weight), want, rtol=1e-6, atol=1e-6)

    def test_a_weight_a_row(self):
        a, b = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
        weight = torch.tensor([[0.0], [0.3], [0.9], [1.0]], dtype=torch.float64)
        out = slerp(a, b, weight)
        for i, w in enumerate(weight.ravel().tolist()):
            torch.testing.assert_close(out[i : i + 1], slerp(a[i : i + 1], b[i : i + 1], w))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("factor", [1.0, 2.5])
    @pytest.mark.parametrize("weight", [0.3, torch.full((20, 1), 0.3)])
    def test_parallel_rows_are_interpolated_along_the_line(self, dtype, factor, weight):
        a = torch.randn(20, 8, dtype=dtype)
        b = factor * a
        weight = weight if isinstance(weight, float) else weight.to(dtype)
        torch.testing.assert_close(slerp(a, b, weight), (1 - weight) * a + weight * b)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_opposite_rows_and_rows_of_zeros_are_finite(self, dtype):
        a = torch.randn(20, 8, dtype=dtype)
        zeros = torch.zeros_like(a)
        for b in (-a, -2 * a, zeros):
            for weight in (0.0, 0.3, 0.5, 1.0):
                out = slerp(a, b, weight)
                assert out.isfinite().all()
                # nothing is gained on the way
                bound = torch.maximum(a.norm(dim=1), b.norm(dim=1))
                assert (out.norm(dim=1) <= 1.001 * bound).all()
        assert slerp(zeros, zeros, 0.5).isfinite().all()


class TestSDEdit:
    """Of points at 0 towards N(5, 1), whose flow from level s is x -> 5 + (x - 5) / sqrt(1 + s^2)."""

    @staticmethod
    def denoise(x, sigma):
        return (x + 5 * sigma**2) / (1 + sigma**2)

    @pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
    def test_mean_and_variance(self, sigma):
        grid = karras_sigmas(100, 0.002, sigma)
        g = torch.Generator().manual_seed(0)
        out = sdedit(self.denoise, torch.zeros(20_000, 1), grid, generator=g)
        shrunk = 1 / math.sqrt(1 + sigma**2)
        assert out.x.mean().item() == pytest.approx(5 - 5 * shrunk, abs=0.03)
        assert out.x.var().item() == pytest.approx((sigma * shrunk) ** 2, rel=0.03)
        assert out.n_evaluations == 100

    def test_a_stochastic_sampler_draws_what_is_finer_anew(self):
        """The noisy posterior of the target given x + noise, whatever the flow would do."""
        g = torch.Generator().manual_seed(0)
        grid = exponential_sigmas(300, 0.01, 1.0)
        x = torch.zeros(20_000, 1)
        out = sdedit(self.denoise, x, grid, sampler=ancestral, generator=g).x
        # E = (0 + 5) / 2 given no noise; variance 1/2 of the posterior and 1/4 of the noise
        assert out.mean().item() == pytest.approx(2.5, abs=0.03)
        assert out.var().item() == pytest.approx(0.75, rel=0.05)

    def test_same_generator_same_edit(self):
        a, b = (
            sdedit(
                self.denoise,
                torch.zeros(5, 2),
                karras_sigmas(5),
                generator=torch.Generator().manual_seed(1),
            ).x
            for _ in "ab"
        )
        torch.testing.assert_close(a, b)
        assert a.dtype == torch.float64


def test_strength_is_the_share_of_noise():
    for s in (0.1, 0.5, 0.9):
        sigma = strength_sigma(s)
        assert sigma / math.hypot(1, sigma) == pytest.approx(math.sin(math.pi * s / 2))
    assert strength_sigma(0) == 0 and strength_sigma(1) == math.inf
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="strength is"):
            strength_sigma(wrong)
