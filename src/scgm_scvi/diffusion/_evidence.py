"""Evidence: which of several conditional denoisers explains given data best."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ._sampling import Denoise, normal_like, steps

__all__ = ["path_evidence"]


def path_evidence(
    denoisers: Sequence[Denoise],
    x0: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""Log-probability of data's own path from noise, under each of several denoisers.

    Noise is added to ``x0`` along one random path :math:`x_1, \dots, x_n` down the grid, and each
    denoiser predicts every next, less noisy point from the one before it. With
    :math:`r_i = \sigma_{i+1}^2/\sigma_i^2`,

    .. math::
        \ell_c = -\sum_i \frac{\|x_{i+1} - r_i x_i - (1-r_i) D_c(x_i;\sigma_i)\|^2}
        {2\left[\sigma_{i+1}^2 (1-r_i) + (1-r_i)^2 \frac{\sigma_i^2}{1+\sigma_i^2}\right]}

    which is :math:`\ln p(x_{n} | x_1; c)` up to what all denoisers have in common: a sum of
    denoising losses, weighed as the likelihood weighs them. As all denoisers see one path, whose
    noise is correlated between levels, its scatter cancels from the difference of two denoisers,
    which is their log-likelihood ratio at the last level as steps become small, whatever the
    path. Losses at independent noise have the same mean, and a scatter that does not vanish.

    Parameters
    ----------
    denoisers
        Each called as ``denoise(x, sigma)``; one that returns ``(m, n, d)`` stands for ``m``.
    x0
        Data ``(n, d)``, of unit variance by the convention of :class:`Denoiser`.
    sigmas
        Decreasing levels, the last one above 0.
    generator
        Source of the path.

    Returns
    -------
    float64 tensor ``(n, n_denoisers)``, in nats; only differences along a row mean something.

    Raises
    ------
    ValueError
        If the levels do not decrease, or end in 0.

    Examples
    --------
    Two classes, N(-1, 1) and N(1, 1); the point 0.5 is e to the power of 1 times likelier in the
    second:

    >>> import torch
    >>> from scgm_scvi.diffusion import exponential_sigmas, path_evidence
    >>> def of_class(mean):
    ...     return lambda x, sigma: (x + sigma**2 * mean) / (1 + sigma**2)
    >>> x0 = torch.full((1, 1), 0.5, dtype=torch.float64)
    >>> sigmas = exponential_sigmas(200, 0.01, 80.0)[:-1]
    >>> g = torch.Generator().manual_seed(0)
    >>> first, second = path_evidence([of_class(-1), of_class(1)], x0, sigmas, generator=g)[0]
    >>> bool((second - first - 1).abs() < 0.1)
    True

    References
    ----------
    Ho et al. 2020, arXiv:2006.11239, equation 5; for classification Li et al. 2023,
    arXiv:2303.16203; for the likelihood along a path Kong et al. 2023, arXiv:2302.03792.
    """
    levels = steps(sigmas)
    if levels[-1][2] <= 0:
        raise ValueError("sigmas end in 0; the last level of evidence must be above 0.")
    x0 = x0.double()
    x = x0 + levels[0][1] * normal_like(x0, generator)
    out = [x0.new_zeros(1, 1) for _ in denoisers]
    for i, sigma, sigma_next in levels:
        r = (sigma_next / sigma) ** 2
        noise_variance = sigma_next**2 * (1 - r)
        x_next = torch.lerp(x0, x, r) + noise_variance**0.5 * normal_like(x0, generator)
        variance = noise_variance + (1 - r) ** 2 * sigma**2 / (1 + sigma**2)
        rest = x_next - r * x
        for c, denoise in enumerate(denoisers):
            error = rest - (1 - r) * denoise(x, sigmas[i]).double()
            out[c] = out[c] - error.square().sum(dim=-1) / (2 * variance)
        x = x_next
    return torch.cat(out).T
