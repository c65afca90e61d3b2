import pytest
import torch


class Gaussian:
    """N(mean, covariance), for which denoiser, score and probability flow have closed forms."""

    def __init__(self, mean, covariance):
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.covariance = torch.as_tensor(covariance, dtype=torch.float64)
        self.variances, self.axes = torch.linalg.eigh(self.covariance)

    def _along_axes(self, x, factors):
        return self.mean + ((x - self.mean) @ self.axes * factors) @ self.axes.T

    def denoise(self, x, sigma):
        """E[x0 | x] = mean + C (C + sigma² I)⁻¹ (x - mean); ``sigma`` of shape () or (n,)."""
        s2 = sigma.reshape(-1, 1) ** 2
        return self._along_axes(x, self.variances / (self.variances + s2))

    def flow(self, x, sigma, sigma_next):
        """Where the probability-flow ODE carries ``x`` from one noise level to another."""
        v = self.variances
        return self._along_axes(x, ((v + sigma_next**2) / (v + sigma**2)).sqrt())

    def noisy_log_prob(self, x, sigma):
        """Log-density of data plus noise of level ``sigma``."""
        covariance = self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=x.dtype)
        return torch.distributions.MultivariateNormal(self.mean, covariance).log_prob(x)

    def sample(self, n):
        noise = torch.randn(n, len(self.mean), dtype=torch.float64)
        return self.mean + noise * self.variances.sqrt() @ self.axes.T


class Mixture:
    """Gaussians of one covariance around several means, and the exact denoiser of these.

    Cells may hold several independent points side by side, as one point of more dimensions.
    """

    def __init__(self, weights, means, covariance):
        self.weights, self.means, self.within = (
            torch.as_tensor(a, dtype=torch.float64) for a in (weights, means, covariance)
        )
        self.mean = self.weights @ self.means
        centred = self.means - self.mean
        self.covariance = self.within + (centred.T * self.weights) @ centred

    def denoise(self, x, sigma):
        points = x.reshape(-1, self.means.shape[1])
        precision = torch.linalg.inv(self.within + sigma**2 * torch.eye(len(self.within)).double())
        directions = self.means @ precision
        offsets = self.weights.log() - (directions * self.means).sum(1) / 2
        posterior = torch.addmm(offsets, points, directions.T).softmax(1)
        shrink = self.within @ precision  # E[x0 | x, component] = mean + shrink (x - mean)
        means = self.means - self.means @ shrink.T
        return torch.addmm(posterior @ means, points, shrink.T).reshape(x.shape)

    def sample(self, n, generator=None):
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, len(self.within), dtype=torch.float64, generator=generator)
        return self.means[component] + noise @ torch.linalg.cholesky(self.within).T


@pytest.fixture
def gaussian():
    """Correlated, off-centre, with one narrow and one wide axis."""
    return Gaussian([1.0, -2.0], [[2.0, 0.9], [0.9, 0.7]])


@pytest.fixture
def mixture():
    """Two groups of unequal size, narrow against their distance, correlated within and between."""
    return Mixture([0.3, 0.7], [[-1.5, 1.0], [0.8, -0.6]], [[0.2, 0.08], [0.08, 0.1]])
