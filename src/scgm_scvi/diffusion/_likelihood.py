"""Log-density of data, by the probability flow that carries them to noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from ._autograd import differentiable
from ._sampling import Denoise

__all__ = ["LikelihoodOutput", "log_likelihood"]


class LikelihoodOutput(NamedTuple):
    """What :func:`log_likelihood` returns.

    Attributes
    ----------
    log_prob
        Log-densities of shape ``(n,)``, float64, in nats.
    x
        Where the flow carries the data, at the largest noise level: ``(n, d)``, float64. Data
        that the model explains well are Gaussian there, of variance ``1 + sigma_max**2``.
    n_evaluations
        How often ``denoise`` was called.
    """

    log_prob: torch.Tensor
    x: torch.Tensor
    n_evaluations: int


def log_likelihood(
    denoise: Denoise,
    x: torch.Tensor,
    *,
    odeint: Callable[..., Any],
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    n_probes: int = 1,
    tolerance: float = 1e-5,
    generator: torch.Generator | None = None,
) -> LikelihoodOutput:
    r"""Log-density of data by the instantaneous change of variables along the flow.

    The probability flow carries :math:`x` from ``sigma_min`` to ``sigma_max``, where the density
    is taken to be :math:`N(0, (1 + \sigma_{max}^2) I)`: data have mean 0 and variance 1, as
    :class:`Denoiser` standardises them. In the angle :math:`\theta = \arctan\sigma` and the state
    :math:`y = x / \sqrt{1+\sigma^2}`,

    .. math::
        \frac{dy}{d\theta} = \frac{y - \sqrt{1+\sigma^2}\,D}{\sigma}, \qquad
        \ln p(x) = \ln N(y_{max}; 0, I) - \frac d2 \ln(1+\sigma_{min}^2)
        - \int \frac{(1+\sigma^2)\,\mathrm{tr}\,\partial D/\partial x - d}{\sigma}\, d\theta

    Both right-hand sides vanish for standard normal data, so the solver spends its steps on what
    sets data apart from them. For mixtures of Gaussians this takes some 30% fewer evaluations than
    the same state in :math:`\ln\sigma`, for the same error.

    Parameters
    ----------
    denoise
        Called as ``denoise(x, sigma)``, differentiable in ``x``; rows do not depend on each other.
    x
        Data of shape ``(n, d)``, in the units in which they are diffused.
    odeint
        :func:`torchdiffeq.odeint`, or a function like it: adaptive, with a tuple as the state.
    sigma_min
        Noise level at which the data are scored, small against the data's own detail: a density
        at level 0 is not defined where data lie on a surface.
    sigma_max
        Noise level at which nothing of the data is left.
    trace
        ``"hutchinson"``: :math:`v^\top (\partial D/\partial x)\, v` with random signs :math:`v`,
        unbiased, one derivative a probe and evaluation. ``"exact"``: ``d`` derivatives an
        evaluation.
    n_probes
        Number of probes that are averaged; the variance falls as its inverse.
    tolerance
        Largest error of a step, absolute and relative, in the state of a cell (root mean square
        over coordinates) and in its log-density per coordinate. It is the worst cell of the batch
        that is held to it, so no cell is less accurate for the company of others.
    generator
        Source of the probes, on the device of ``x``.

    Returns
    -------
    Log-densities in nats, with respect to the units of ``x``; codes; number of evaluations.

    Raises
    ------
    ValueError
        If an argument makes no sense, or ``denoise`` has no derivative.
    RuntimeError
        If called inside ``torch.inference_mode()``; ``torch.no_grad()`` does no harm.

    Examples
    --------
    >>> import torch
    >>> from torchdiffeq import odeint
    >>> from scgm_scvi.diffusion import log_likelihood
    >>> gaussian = lambda x, sigma: x / (1 + sigma**2)  # exact denoiser of N(0, 1)
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    >>> log_likelihood(gaussian, x, odeint=odeint, trace="exact").log_prob
    tensor([-1.8379, -4.3379], dtype=torch.float64)
    >>> torch.distributions.Normal(0, 1).log_prob(x).sum(dim=1)
    tensor([-1.8379, -4.3379])

    References
    ----------
    Song et al. 2021, arXiv:2011.13456, equation 39 (the flow's density); Chen et al. 2018,
    arXiv:1806.07366 (instantaneous change of variables); Grathwohl et al. 2019, arXiv:1810.01367
    (Hutchinson's trace estimator, probes fixed along the path); Lu & Song 2024, arXiv:2410.11081
    (diffusion as a rotation by the angle).
    """
    _check(x, sigma_min, sigma_max, trace, n_probes, tolerance)
    x = x.detach().double()
    n, d = x.shape
    probes = None
    if trace == "hutchinson":
        signs = torch.randint(0, 2, (int(n_probes), n, d), generator=generator, device=x.device)
        probes = (2 * signs - 1).to(x)
    n_evaluations = 0

    def slopes(
        theta: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal n_evaluations
        n_evaluations += 1
        sigma = theta.tan()
        total = (1 + sigma**2).sqrt()
        with torch.enable_grad():
            x, denoised = differentiable(denoise, state[0] * total, sigma)
            jacobian_trace = _trace(x, denoised, probes)
        dy = (state[0] - total * denoised.detach()) / sigma
        return dy, (total**2 * jacobian_trace / d - 1) / sigma  # per coordinate, as the tolerance

    theta = torch.tensor([sigma_min, sigma_max], dtype=torch.float64, device=x.device).atan()
    start = x / math.sqrt(1 + sigma_min**2), x.new_zeros(n)
    y, change = odeint(
        slopes,
        start,
        theta,
        rtol=tolerance,
        atol=tolerance,
        method="dopri5",
        options={"norm": _worst_row, "step_t": theta[1:]},  # no level beyond the largest
    )
    log_normal = -(y[-1].square().sum(dim=1) + d * math.log(2 * math.pi)) / 2
    log_prob = log_normal - d * change[-1] - d / 2 * math.log1p(sigma_min**2)
    return LikelihoodOutput(log_prob, y[-1] * math.sqrt(1 + sigma_max**2), n_evaluations)


def _trace(x: torch.Tensor, denoised: torch.Tensor, probes: torch.Tensor | None) -> torch.Tensor:
    """Trace of each row's Jacobian, ``(n,)``: exact, or the mean over ``probes``."""

    def pull_back(outputs: torch.Tensor, vector: torch.Tensor | None = None) -> torch.Tensor:
        return torch.autograd.grad(outputs, x, vector, retain_graph=True)[0]

    if probes is None:  # rows are independent: the derivative of a column's sum holds every row's
        columns = range(x.shape[1])
        each = (pull_back(denoised[:, j].sum())[:, j] for j in columns)
        return sum(each, start=x.new_zeros(()))
    products = [(pull_back(denoised, v.to(denoised)) * v).sum(dim=1) for v in probes]
    return torch.stack(products).mean(dim=0)


def _worst_row(state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    y, change = state
    return torch.maximum(y.square().mean(dim=1).max(), change.square().max()).sqrt()


def _check(
    x: torch.Tensor, sigma_min: float, sigma_max: float, trace: str, n_probes: int, tolerance: float
) -> None:
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (cells, coordinates).")
    bad = (~x.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise ValueError(f"x is not finite in {len(bad)} rows, first in row {int(bad[0])}.")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max}: need 0 < sigma_min < sigma_max."
        )
    if trace not in ("hutchinson", "exact"):
        raise ValueError(f"trace is {trace!r}; use 'hutchinson' or 'exact'.")
    if n_probes < 1 or n_probes != n_probes // 1:
        raise ValueError(f"n_probes is {n_probes!r}; it must be a whole number, at least 1.")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; it must lie between 0 and 1.")
