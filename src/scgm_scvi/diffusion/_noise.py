"""Noise processes: how data are noised, which levels training draws, and what each weighs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["NOISE_PROCESSES", "NoiseProcess", "lognormal_sigmas"]


def _stratified(
    n: int, generator: torch.Generator | None, device: torch.device | str | None
) -> torch.Tensor:
    """Uniform on (0, 1), one in each of ``n`` bins of equal width, in random order."""
    order = torch.randperm(n, generator=generator, device=device)
    return (order + torch.rand(n, generator=generator, device=device)) / n


def lognormal_sigmas(
    n: int,
    mean: float = -0.5,
    std: float = 1.2,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    r"""Noise levels for training, :math:`\ln\sigma \sim N(mean, std^2)`, one per quantile bin.

    Stratified draws cover the noise levels evenly in every minibatch, which lowers the variance
    of the loss without changing its expectation.

    Parameters
    ----------
    n
        Number of levels.
    mean, std
        Of :math:`\ln\sigma`. The default mean is that of Karras et al. 2022 (-1.2 for data of
        standard deviation 0.5) carried over to unit variance: :math:`-1.2 + \ln 2`.
    generator
        Source of randomness.
    device
        Where the levels are made.

    Returns
    -------
    float32 tensor of shape ``(n,)``, in random order.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import lognormal_sigmas
    >>> lognormal_sigmas(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])
    """
    u = _stratified(n, generator, device)
    normal = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
    return (mean + std * normal).exp().float()


def _noise_prediction_weight(sigma: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + sigma**2)


@dataclass(frozen=True)
class NoiseProcess:
    r"""A way to noise data, :math:`x_t = \alpha(t)\,(x_0 + \sigma(t)\,n)` for :math:`t \in [0, 1]`.

    :math:`\alpha` shrinks the data and :math:`\sigma` is the ratio of noise to signal (:math:`s`
    and :math:`\sigma` of Karras et al. 2022, arXiv:2206.00364, table 1). All processes are
    therefore one problem in :math:`x_t / \alpha(t)`, the variable of :class:`Denoiser` and of
    every sampler; they differ in the levels that training draws, in what each level weighs, and in
    the grid a sampler descends.

    Parameters
    ----------
    sigma
        Noise-to-signal ratio at times ``t``, a tensor with entries in [0, 1]. Increases.
    time
        Inverse of ``sigma``.
    alpha
        Scale of the data at times ``t``; 1 if not given.
    t_min
        Smallest time that training draws and that the process's grid holds.
    levels
        Called as ``levels(n, generator=..., device=...)``: the levels that training draws. If not
        given, those of times uniform on ``[t_min, 1]``.
    weight
        Weight in training of the loss :meth:`Denoiser.loss` at levels ``sigma``. If not given,
        :math:`1/(1+\sigma^2)`, with which the loss is the error of predicting the noise,
        :math:`\|D - x_0\|^2/\sigma^2` (Song et al. 2021, arXiv:2011.13456, equation 7 with
        :math:`\lambda(t)` the variance of the noise in :math:`x_t`).

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.diffusion import NOISE_PROCESSES
    >>> vp = NOISE_PROCESSES["vp"]
    >>> t = torch.tensor([0.5], dtype=torch.float64)
    >>> vp.alpha(t) ** 2 * (1 + vp.sigma(t) ** 2)  # unit variance stays unit variance
    tensor([1.0000], dtype=torch.float64)
    >>> vp.time(vp.sigma(t))
    tensor([0.5000], dtype=torch.float64)
    """

    sigma: Callable[[torch.Tensor], torch.Tensor]
    time: Callable[[torch.Tensor], torch.Tensor]
    alpha: Callable[[torch.Tensor], torch.Tensor] = torch.ones_like
    t_min: float = 1e-3
    levels: Callable[..., torch.Tensor] | None = None
    weight: Callable[[torch.Tensor], torch.Tensor] = _noise_prediction_weight

    @property
    def sigma_min(self) -> float:
        """Smallest positive level of the process's grid, ``sigma(t_min)``."""
        return self.sigma(torch.tensor(self.t_min, dtype=torch.float64)).item()

    @property
    def sigma_max(self) -> float:
        """Largest level, ``sigma(1)``."""
        return self.sigma(torch.tensor(1.0, dtype=torch.float64)).item()

    def draw(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Draw levels for training: float32 of shape ``(n,)``, stratified, in random order.

        Examples
        --------
        >>> import torch
        >>> from scgm_scvi.diffusion import NOISE_PROCESSES
        >>> NOISE_PROCESSES["ve"].draw(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4])
        """
        if self.levels is not None:
            return self.levels(n, generator=generator, device=device)
        u = _stratified(n, generator, device).double()
        return self.sigma(self.t_min + (1 - self.t_min) * u).float()

    def sigmas(
        self, n_steps: int, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> torch.Tensor:
        """Levels at times spread evenly, decreasing, for ``n_steps`` sampling steps; ends in 0.

        Parameters
        ----------
        n_steps
            Number of steps a sampler takes on this grid, at least 1.
        sigma_min, sigma_max
            Smallest positive and largest level; those of the process if not given. A range that
            reaches beyond the process's own is cut to it.

        Returns
        -------
        float64 tensor of shape ``(n_steps + 1,)``.

        Raises
        ------
        ValueError
            If ``n_steps`` is below 1, or nothing is left of the range.

        Examples
        --------
        >>> from scgm_scvi.diffusion import NOISE_PROCESSES
        >>> NOISE_PROCESSES["ve"].sigmas(2)
        tensor([9.8452, 0.0317, 0.0000], dtype=torch.float64)
        """
        if n_steps < 1:
            raise ValueError(f"n_steps is {n_steps}: a sampler needs at least one step.")
        own_min, own_max = self.sigma_min, self.sigma_max
        low = own_min if sigma_min is None else max(sigma_min, own_min)
        high = own_max if sigma_max is None else min(sigma_max, own_max)
        if not low < high:
            raise ValueError(
                f"sigma_min={sigma_min} and sigma_max={sigma_max} leave no noise level: this "
                f"process's range is {own_min:.4g} to {own_max:.4g}, and the range asked for must "
                "overlap it."
            )
        t_low, t_high = self.time(torch.tensor([low, high], dtype=torch.float64)).tolist()
        sigmas = self.sigma(torch.linspace(t_high, t_low, n_steps, dtype=torch.float64))
        return torch.cat([sigmas, sigmas.new_zeros(1)])


# Definitions. Named functions, not lambdas, so that a module that holds a process can be pickled.

_EDM_MIN, _EDM_MAX = 0.002, 80.0


def _edm_sigma(t: torch.Tensor) -> torch.Tensor:
    return _EDM_MIN * (_EDM_MAX / _EDM_MIN) ** t


def _edm_time(sigma: torch.Tensor) -> torch.Tensor:
    return (sigma / _EDM_MIN).log() / math.log(_EDM_MAX / _EDM_MIN)


_VE_RATE = 2 * math.log(25.0)


def _ve_sigma(t: torch.Tensor) -> torch.Tensor:
    return (torch.expm1(_VE_RATE * t) / _VE_RATE).sqrt()


def _ve_time(sigma: torch.Tensor) -> torch.Tensor:
    return torch.log1p(_VE_RATE * sigma**2) / _VE_RATE


_BETA_MIN, _BETA_MAX = 0.1, 20.0


def _half_beta_integral(t: torch.Tensor) -> torch.Tensor:
    """Half the integral of beta from 0 to ``t``: alpha = exp of minus this."""
    return (_BETA_MAX - _BETA_MIN) / 4 * t**2 + _BETA_MIN / 2 * t


def _time_of_half_beta_integral(b: torch.Tensor) -> torch.Tensor:
    root = (_BETA_MIN**2 / 4 + (_BETA_MAX - _BETA_MIN) * b).sqrt()
    return 2 * b / (_BETA_MIN / 2 + root)  # the form that does not cancel at small b


def _vp_alpha(t: torch.Tensor) -> torch.Tensor:
    return (-_half_beta_integral(t)).exp()


def _vp_sigma(t: torch.Tensor) -> torch.Tensor:
    return torch.expm1(2 * _half_beta_integral(t)).sqrt()


def _vp_time(sigma: torch.Tensor) -> torch.Tensor:
    return _time_of_half_beta_integral(torch.log1p(sigma**2) / 2)


def _sub_vp_sigma(t: torch.Tensor) -> torch.Tensor:
    return 2 * torch.sinh(_half_beta_integral(t))  # (1 - alpha²) / alpha


def _sub_vp_time(sigma: torch.Tensor) -> torch.Tensor:
    return _time_of_half_beta_integral(torch.asinh(sigma / 2))


NOISE_PROCESSES: dict[str, NoiseProcess] = {
    "edm": NoiseProcess(
        sigma=_edm_sigma,
        time=_edm_time,
        t_min=0.0,
        levels=lognormal_sigmas,
        weight=torch.ones_like,
    ),
    "ve": NoiseProcess(sigma=_ve_sigma, time=_ve_time),
    "vp": NoiseProcess(sigma=_vp_sigma, time=_vp_time, alpha=_vp_alpha),
    "sub_vp": NoiseProcess(sigma=_sub_vp_sigma, time=_sub_vp_time, alpha=_vp_alpha),
}
r"""Noise processes by name. A new one is one entry.

``"edm"``
    :math:`\alpha = 1`. Training draws log-normal levels (:func:`lognormal_sigmas`), each of
    weight 1 (Karras et al. 2022, table 1). :math:`\sigma` runs from 0.002 to 80, uniform in its
    logarithm over time: of SDE :math:`dx = \sigma\sqrt{2 \ln 40000}\,dw`.
``"ve"``
    Variance exploding, :math:`dx = 25^t dw`, so
    :math:`\sigma^2 = (25^{2t} - 1)/(2 \ln 25)`, from 0.032 to 9.8, with :math:`\alpha = 1`.
``"vp"``
    Variance preserving, :math:`dx = -\tfrac12\beta x\,dt + \sqrt\beta\,dw` with
    :math:`\beta = 0.1 + 19.9\,t`: :math:`\alpha = e^{-\frac12\int\beta}`,
    :math:`\sigma^2 = 1/\alpha^2 - 1`, from 0.010 to 152.
``"sub_vp"``
    :math:`dx = -\tfrac12\beta x\,dt + \sqrt{\beta (1 - e^{-2\int\beta})}\,dw`: the same
    :math:`\alpha`, and :math:`\sigma = (1-\alpha^2)/\alpha`, from 0.00011 to 152.

The last three are those of Song et al. 2021, arXiv:2011.13456 (section 3.4, equations 9, 11 and 12;
VE with the constants of the authors' tutorial), trained with times uniform on ``[t_min, 1]``.
"""
