"""Stochastic samplers: solvers of the reverse SDE. For what they share, see ``_samplers``."""

from __future__ import annotations

import math

import torch

from ._sampling import Callback, Denoise, SamplerOutput, normal_like, steps

__all__ = ["ancestral", "dpmpp_2m_sde", "euler_maruyama", "pc"]


def ancestral(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""Ancestral sampling: each step draws from a Gaussian around the mean of the posterior.

    The sampler of DDPM (Ho et al. 2020, arXiv:2006.11239, equations 6-7) in variance-exploding
    form, with one evaluation a step: for a step from :math:`\sigma` to :math:`\tau`,

    .. math::
        x \leftarrow D + \frac{\tau^2}{\sigma^2}(x - D)
        + \sqrt{(\sigma^2-\tau^2)\,\frac{\tau}{\sigma}}\;n

    The variance is the geometric mean of DDPM's two choices (their section 3.2), the middle of
    the interpolation of Nichol & Dhariwal 2021, arXiv:2102.09672, equation 15. The lower one,
    :math:`(\sigma^2-\tau^2)\,\tau^2/\sigma^2`, is exact if the data are one point, and otherwise
    leaves samples with too little variance; the upper one leaves too much; of this one the error
    of first order cancels on a grid even in :math:`\ln\sigma`.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import ancestral, exponential_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 80 * torch.randn(1000, 1, generator=g)
    >>> x = ancestral(gaussian, x, exponential_sigmas(200), generator=g).x
    >>> bool((x.std() - 1).abs() < 0.1)
    True
    """
    x = x.double()
    for i, sigma, sigma_next in steps(sigmas):
        denoised = denoise(x, sigmas[i]).double()
        x = torch.lerp(denoised, x, (sigma_next / sigma) ** 2)
        if sigma_next > 0:
            variance = (sigma**2 - sigma_next**2) * sigma_next / sigma
            x.add_(normal_like(x, generator), alpha=math.sqrt(variance))
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


def euler_maruyama(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> SamplerOutput:
    r"""Euler-Maruyama solver of the reverse SDE, one evaluation a step.

    Of Song et al. 2021, arXiv:2011.13456, equation 6, in the time
    :math:`\lambda = -\ln\sigma`:

    .. math::
        dx = 2\,(D(x;\sigma) - x)\,d\lambda + \sigma\sqrt{2}\,dw

    In this time, on a grid even in it, the first-order error of the variance of samples cancels
    for Gaussian data of any variance. Steps in :math:`\sigma^2` and in :math:`\sigma` overestimate
    that variance by the shares :math:`h` and :math:`h/2`, where :math:`h` is the step in
    :math:`\ln\sigma`. A step to 0 lands on the estimate.

    Raises
    ------
    ValueError
        If a step of the grid has :math:`h \ge 1`, with which noise would grow and not shrink.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import euler_maruyama, exponential_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 80 * torch.randn(1000, 1, generator=g)
    >>> x = euler_maruyama(gaussian, x, exponential_sigmas(200), generator=g).x
    >>> bool((x.std() - 1).abs() < 0.1)
    True
    """
    for _, sigma, sigma_next in steps(sigmas):
        if sigma_next > 0 and sigma / sigma_next >= math.e:
            raise ValueError(
                f"euler_maruyama cannot step from sigma={sigma:.4g} to {sigma_next:.4g}: no level "
                "may be e times the next or more. Take more steps, or a grid even in ln(sigma)."
            )
    x = x.double()
    for i, sigma, sigma_next in steps(sigmas):
        denoised = denoise(x, sigmas[i]).double()
        if sigma_next == 0:  # the step is infinite
            x = denoised
        else:
            h = math.log(sigma / sigma_next)
            x = torch.lerp(x, denoised, 2 * h)
            x.add_(normal_like(x, generator), alpha=sigma * math.sqrt(2 * h))
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    eta: float = 1.0,
) -> SamplerOutput:
    r"""SDE-DPM-Solver++(2M): a multistep solver of the reverse SDE, one evaluation a step.

    Exponential integrator in :math:`\lambda = -\ln\sigma`; the estimate is extrapolated to the
    middle of the step from this one and the previous one. For a step from :math:`\sigma` to
    :math:`\tau`, :math:`h = \ln(\sigma/\tau)`:

    .. math::
        x \leftarrow e^{-(1+\eta)h}\,x + (1 - e^{-(1+\eta)h})\,\bar D
        + \tau\sqrt{1 - e^{-2\eta h}}\;n

    Lu et al. 2022, arXiv:2211.01095, section 5 and appendix B.

    Parameters
    ----------
    denoise, x, sigmas, generator, callback
        As for every sampler.
    eta
        How much noise each step adds: 1 solves the reverse SDE, 0 the probability-flow ODE
        (:func:`dpmpp_2m`) without drawing any.

    Returns
    -------
    SamplerOutput

    Raises
    ------
    ValueError
        If ``eta`` is negative.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import dpmpp_2m_sde, karras_sigmas
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 80 * torch.randn(1000, 1, generator=g)
    >>> x = dpmpp_2m_sde(gaussian, x, karras_sigmas(50), generator=g).x
    >>> bool((x.std() - 1).abs() < 0.1)
    True
    """
    if not eta >= 0:
        raise ValueError(f"eta is {eta}; it must be 0 (no noise) or more.")
    x, previous, h_previous = x.double(), None, math.inf
    for i, sigma, sigma_next in steps(sigmas):
        denoised = denoise(x, sigmas[i]).double()
        if sigma_next == 0:  # lambda is infinite: the step lands on the estimate
            x = denoised
        else:
            h = math.log(sigma / sigma_next)
            estimate = denoised
            if previous is not None:
                estimate = torch.lerp(previous, denoised, 1 + h / (2 * h_previous))
            x = torch.lerp(estimate, x, math.exp(-(1 + eta) * h))
            if eta > 0:
                std = sigma_next * math.sqrt(-math.expm1(-2 * eta * h))
                x.add_(normal_like(x, generator), alpha=std)
            previous, h_previous = denoised, h
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, len(sigmas) - 1)


def pc(
    denoise: Denoise,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    n_corrections: int = 20,
    snr: float = 0.16,
) -> SamplerOutput:
    r"""Predictor-corrector: Langevin steps at every level, then one step to the next.

    At level :math:`\sigma`, with the score :math:`s(x) = (D(x;\sigma) - x)/\sigma^2`,
    ``n_corrections`` times

    .. math::
        x \leftarrow x + \epsilon\,s(x) + \sqrt{2\epsilon}\,n,
        \qquad \epsilon = 2\left(snr\,\sqrt d\,/\,\|s(x_\sigma)\|\right)^2

    with :math:`x_\sigma` the state at which the level begins; then, to the next level
    :math:`\tau`,

    .. math::
        x \leftarrow x + (\sigma^2 - \tau^2)\,s(x) + \sqrt{\sigma^2-\tau^2}\;n

    without the noise if :math:`\tau = 0`. ``n_corrections + 2`` evaluations a step, or one with no
    corrections. Song et al. 2021, arXiv:2011.13456, algorithms 2 and 4.

    Each cell's :math:`\epsilon` comes from its own score, so that no cell depends on which others
    share its batch; the reference implementation divides means over the batch. A score near 0, which
    a cell of few dimensions may well have, would send it off to infinity: :math:`\|s\|` counts for
    no less than :math:`\sqrt{d/(1+\sigma^2)}`, below which its root mean square cannot be for data
    of unit variance.

    Langevin steps of finite length settle at too wide a distribution: for an isotropic Gaussian by
    the factor :math:`1/(1 - snr^2)` in the variance, 2.6% at the default.

    Parameters
    ----------
    denoise, x, sigmas, generator, callback
        As for every sampler.
    n_corrections
        Langevin steps at each level.
    snr
        Length of a Langevin step: the ratio of its drift to its noise, up to a factor 1.

    Returns
    -------
    SamplerOutput

    Raises
    ------
    ValueError
        If ``n_corrections`` is negative or ``snr`` is not positive.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import pc, sigmas_for
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)
    >>> sigmas, g = sigmas_for("ve", 50), torch.Generator().manual_seed(0)
    >>> x = sigmas[0] * torch.randn(10, 100, generator=g)
    >>> out = pc(gaussian, x, sigmas, generator=g, n_corrections=4)
    >>> bool((out.x.std() - 1).abs() < 0.1), out.n_evaluations
    (True, 300)
    """
    if n_corrections < 0:
        raise ValueError(f"n_corrections is {n_corrections}; it must be 0 or more.")
    if not snr > 0:
        raise ValueError(f"snr is {snr}; it must be positive.")
    x, n = x.double(), 0

    def direction(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        nonlocal n
        n += 1
        return denoise(x, level) - x

    for i, sigma, sigma_next in steps(sigmas):
        level, variance = sigmas[i], sigma**2
        if n_corrections:
            score_rms = direction(x, level).square_().mean(dim=1, keepdim=True).sqrt() / variance
            root = snr / score_rms.clamp(min=1 / math.sqrt(1 + variance))  # of half of epsilon
            drift, diffusion = 2 * root**2 / variance, 2 * root
            for _ in range(n_corrections):
                x = torch.addcmul(x, drift, direction(x, level))
                x.addcmul_(diffusion, normal_like(x, generator))
        denoised = denoise(x, level).double()
        n += 1
        x = torch.lerp(denoised, x, (sigma_next / sigma) ** 2)
        if sigma_next > 0:
            std = math.sqrt(variance - sigma_next**2)
            x.add_(normal_like(x, generator), alpha=std)
        if callback is not None:
            callback(i, x, denoised)
    return SamplerOutput(x, n)
