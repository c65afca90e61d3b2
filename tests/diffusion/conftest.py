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


@pytest.fixture
def gaussian():
    """Correlated, off-centre, with one narrow and one wide axis."""
    return Gaussian([1.0, -2.0], [[2.0, 0.9], [0.9, 0.7]])
