"""Evidence along a path: the likelihood ratio of classes, of which it is a discretisation."""

import pytest
import torch

from scgm_scvi.diffusion import exponential_sigmas, karras_sigmas, path_evidence


def grid(n_steps, low, high=80.0):
    """``n_steps`` steps from one level to the other."""
    return exponential_sigmas(n_steps + 1, low, high)[:-1]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def log_odds(classes, x0, sigmas, seed):
    evidence = path_evidence([c.denoise for c in classes], x0, sigmas, generator=seeded(seed))
    return evidence[:, 0] - evidence[:, 1]


def ends_of_path(x0, sigmas, seed):
    """The noisiest point of the path that a seed draws, and the cleanest."""
    seen = []
    more = torch.cat([sigmas, sigmas[-1:] / 2])  # one more level, from which to see the last
    spy = lambda x, sigma: seen.append(x) or torch.zeros_like(x)
    path_evidence([spy], x0, more, generator=seeded(seed))
    return seen[0], seen[-1]


def exact_log_odds(classes, x0, sigmas, seed):
    """Log-likelihood ratio of the path's end, given its beginning."""
    first, last = ends_of_path(x0, sigmas, seed)
    at = lambda x, sigma: classes[0].noisy_log_prob(x, sigma) - classes[1].noisy_log_prob(x, sigma)
    return at(last, sigmas[-1]) - at(first, sigmas[0])


@pytest.fixture
def classes(gaussian):
    """Gaussians that differ in mean and in shape."""
    return gaussian, type(gaussian)([0.2, -1.0], [[0.8, -0.3], [-0.3, 0.5]])


@pytest.fixture
def unit_classes(gaussian):
    """Gaussians that differ in mean, and otherwise are as the weights suppose."""
    return tuple(type(gaussian)(mean, torch.eye(2)) for mean in ([0.5, -0.5], [-0.5, 0.3]))


@pytest.mark.parametrize("n_steps", [1, 6, 100])
def test_exact_for_classes_of_unit_variance_however_few_the_steps(unit_classes, n_steps):
    x0, sigmas = unit_classes[0].sample(30), grid(n_steps, 0.1)
    got, want = (f(unit_classes, x0, sigmas, seed=3) for f in (log_odds, exact_log_odds))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_likelihood_ratio_of_the_data_at_a_low_level(unit_classes):
    x0 = torch.cat([c.sample(30) for c in unit_classes])
    truth = unit_classes[0].noisy_log_prob(x0, 0) - unit_classes[1].noisy_log_prob(x0, 0)
    error = log_odds(unit_classes, x0, grid(100, 0.01), seed=0) - truth
    assert error.abs().mean() < 0.05
    assert truth.abs().mean() > 0.5


def test_converges_as_steps_become_small(classes):
    x0 = torch.cat([c.sample(20) for c in classes])

    def errors(n_steps):
        sigmas, seeds = grid(n_steps, 0.1), range(16)
        got, want = (
            torch.stack([f(classes, x0, sigmas, seed) for seed in seeds])
            for f in (log_odds, exact_log_odds)
        )
        of_one_path = (got - want).square().mean().sqrt()
        of_the_mean = (got - want).mean(dim=0).abs().mean()
        return of_one_path.item(), of_the_mean.item()

    coarse, middle, fine = map(errors, (25, 100, 400))
    for few, more in ((coarse, middle), (middle, fine)):  # the square root of the steps, at least
        assert more[0] < 0.65 * few[0]
        assert more[1] < 0.65 * few[1]
    assert fine[1] < 0.05


def test_one_path_scatters_far_less_than_independent_noise(unit_classes):
    x0, sigmas = unit_classes[0].sample(30), grid(100, 0.02)

    def independent(seed):
        """The same losses, each at noise of its own."""
        pairs = enumerate(zip(sigmas[:-1], sigmas[1:], strict=True))
        return sum(
            log_odds(unit_classes, x0, torch.stack(pair), 1000 * seed + i) for i, pair in pairs
        )

    of_path = torch.stack([log_odds(unit_classes, x0, sigmas, s) for s in range(12)])
    of_noise = torch.stack([independent(s) for s in range(12)])
    assert of_path.std(dim=0).mean() < 0.1 * of_noise.std(dim=0).mean()
    # and the means agree, so that it is the scatter alone that is saved
    distance = (of_path.mean(dim=0) - of_noise.mean(dim=0)).abs().mean()
    assert distance < 2 * of_noise.std(dim=0).mean() / 12**0.5


def test_what_denoisers_are_called_with_and_what_comes_back(classes):
    seen = []

    def spy(x, sigma):
        assert x.dtype == sigma.dtype == torch.float64
        assert sigma.ndim == 0
        seen.append((x, sigma.item()))
        return x.float()

    x0, sigmas = classes[0].sample(7).float(), karras_sigmas(5, 0.1, 10.0)[:-1]
    before = x0.clone()
    out = path_evidence([spy, spy, spy], x0, sigmas, generator=seeded(0))
    assert out.shape == (7, 3)
    assert out.dtype == torch.float64
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(x0, before)
    # all see one path
    assert [level for _, level in seen] == [s for s in sigmas[:-1].tolist() for _ in range(3)]
    for i in range(0, len(seen), 3):
        assert torch.equal(seen[i][0], seen[i + 1][0])
        noise = (seen[i][0] - x0) / seen[i][1]
        assert noise.abs().max() < 5
    again = path_evidence([spy], x0, sigmas, generator=seeded(0))
    assert torch.equal(again[:, 0], out[:, 0])
    assert not torch.equal(path_evidence([spy], x0, sigmas, generator=seeded(1))[:, 0], out[:, 0])


def test_the_path_has_the_noise_of_its_levels():
    x0, sigmas = torch.zeros(20_000, 1), torch.tensor([5.0, 1.0, 0.3]).double()
    for end, level in zip(ends_of_path(x0, sigmas, 0), (5.0, 0.3), strict=True):
        assert end.std().item() == pytest.approx(level, rel=0.03)


@pytest.mark.parametrize(
    ("sigmas", "text"),
    [
        ([1.0, 0.1, 0.0], "sigmas end in 0"),
        ([0.1, 1.0], "sigmas must decrease"),
        ([1.0], "hold at least two levels"),
    ],
)
def test_grid_must_lead_somewhere_above_0(classes, sigmas, text):
    with pytest.raises(ValueError, match=text):
        path_evidence([c.denoise for c in classes], torch.zeros(1, 2), torch.tensor(sigmas))
