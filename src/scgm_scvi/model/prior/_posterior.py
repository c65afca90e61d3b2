"""What a cell's latent may be, given its counts and all that the model knows of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Distribution

from scgm_scvi.module import BlockwiseDistribution, log_likelihood, modality_sums

__all__ = ["Posterior", "PosteriorMixin", "at_depth", "mean_log1p", "zero_probability"]

Tensors = Mapping[str, torch.Tensor]

_LEVEL = 0.2  # of noise, at which the prior is asked; posteriors are .1 and more wide
_CERTAIN = 1 - 1e-6  # a probability that still has a logarithm of what it leaves
_NOTHING = 1e-30  # counts, in place of an expectation of 0
_RATE = 0.1  # of Adam, in standard deviations of the latent


class Posterior(NamedTuple):
    """Gaussians, one a cell, in standardised latents: ``mean`` and ``std`` ``(n, n_latent)``.

    ``log_size`` ``(n, n_sizes)`` is that of the counts at hand, or the log size factor.
    """

    mean: torch.Tensor
    std: torch.Tensor
    log_size: torch.Tensor

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One latent a cell."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise


class PosteriorMixin:
    """Infer the latents of single cells, beyond what the encoder says.

    Needs :class:`scgm_scvi.model.SamplingMixin`; knows of the features only how likely they are.
    """

    def _posterior(
        self,
        tensors: Tensors,
        n_steps: int,
        generator: torch.Generator,
        seen: torch.Tensor | None = None,
    ) -> Posterior:
        r"""Fit a Gaussian :math:`q(z)` to each cell of a minibatch, starting from the encoder's.

        .. math::
            \max_q\; E_q[\ln p(x_{seen} | z)] + E_q[\ln p(z | c)] - E_q[\ln q(z)]

        with the decoder's likelihood, and the diffusion model under the cell's conditions
        :math:`c` as the prior, whose score is :math:`(D(z+\sigma n;\sigma)-z-\sigma n)/\sigma^2`
        at a small level. An encoder is trained to do so for all cells at once, on training cells
        with all their features; some steps of its own serve a cell that is not one of those.

        Parameters
        ----------
        seen
            Columns that were measured, in order; default: all. The depth of a cell is then what
            these counts and the share that the decoder gives these features make it, in each
            modality; that of a modality without counts is what the encoder says.

        References
        ----------
        Kim et al. 2018, Semi-amortized variational autoencoders, arXiv:1802.02550. The prior:
        Mardani et al. 2023, RED-diff, arXiv:2305.04391.
        """
        module, denoiser = self.module, self.module.denoiser
        state, variance = (s.clone() for s in module.encode_state(tensors))  # out of inference mode
        split = module.split_state
        mean, _ = split(denoiser.standardize(state))
        log_std = (split(variance)[0].sqrt() / split(denoiser.scale)[0]).log()
        _, log_size = split(state)
        if n_steps == 0:
            return Posterior(mean, log_std.exp(), log_size)
        x = module.features(tensors).to(self.device)
        x = x if seen is None else x[:, seen]
        denoise, level = self._denoise(tensors), torch.tensor(_LEVEL, dtype=torch.float64)
        parameters = [p.requires_grad_() for p in (mean, log_std)]
        adam = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
        for step in range(n_steps):
            adam.param_groups[0]["lr"] = _RATE * (1 - step / n_steps) ** 0.5
            with torch.enable_grad():
                u = Posterior(mean, log_std.exp(), log_size).draw(generator)
                px, depth = self._decode(u, tensors, log_size, x, seen)
                score = self._prior_score(denoise, u.detach(), depth.detach(), level, generator)
                bound = log_likelihood(px, x) + (u * score).sum(dim=1) + log_std.sum(dim=1)
                gradients = torch.autograd.grad(-bound.sum(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
        return Posterior(mean.detach(), log_std.detach().exp(), log_size)

    @torch.no_grad()
    def _prior_score(
        self,
        denoise: Any,
        u: torch.Tensor,
        log_size: torch.Tensor,
        level: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Gradient of the diffusion model's log-density, of latents ``u`` at their depth."""
        denoiser, split = self.module.denoiser, self.module.split_state
        size = (log_size - split(denoiser.shift)[1]) / split(denoiser.scale)[1]
        state = torch.cat([u, size], dim=1)
        noise = torch.randn(
            state.shape, generator=generator, device=state.device, dtype=state.dtype
        )
        noisy = state + level * noise
        return split((denoise(noisy, level) - noisy) / level**2)[0].to(u.dtype)

    def _decode(
        self,
        u: torch.Tensor,
        tensors: Tensors,
        log_size: torch.Tensor,
        x: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
    ) -> tuple[Distribution, torch.Tensor]:
        """Distribution of the features of latents ``u``, and the log sizes that it is at.

        With ``seen``, that of these features alone, at the depth that makes their sum that of
        ``x``, in each modality of which ``x`` has counts.
        """
        module = self.module
        state = torch.cat([self._unstandardized(u), log_size], dim=1)
        px = module.decode_state(state, tensors)
        if seen is None:
            return px, log_size
        depth = self._depth(px, modality_sums(x, module.widths, seen), seen)
        return at_depth(px, depth, seen), module.scaled_sizes(log_size, depth)

    def _depth(self, px: Distribution, measured: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """What to multiply the depth of ``px`` by for counts of these sums ``(n, n_modalities)``."""
        expected = modality_sums(px.mean[:, seen], self.module.widths, seen)
        return torch.where(measured > 0, measured / expected.clamp(min=_NOTHING), 1.0)

    @torch.no_grad()
    def _latents(self, posterior: Posterior) -> torch.Tensor:
        """Means of the latents, in the units of ``obsm["X_scgm"]``."""
        return self._unstandardized(posterior.mean)

    def _unstandardized(self, u: torch.Tensor) -> torch.Tensor:
        """Latents of standardised ones."""
        denoiser, split = self.module.denoiser, self.module.split_state
        return u * split(denoiser.scale)[0] + split(denoiser.shift)[0]

    def _minibatches(self, adata: Any, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches of cells, which need not tell conditions, nor batch and covariates."""
        any_nuisance = self._may_lack_nuisances()
        with self._registered(adata, self._absent(adata), any_nuisance=any_nuisance) as cells:
            yield from map(
                self._with_nuisances, self._make_data_loader(adata=cells, batch_size=batch_size)
            )


def at_depth(px: Distribution, depth: torch.Tensor, columns: torch.Tensor) -> Distribution:
    """The distribution of some of the counts, at ``depth`` ``(n, n_modalities)`` times the depth.

    Where there are several modalities, ``columns`` are in order. Of a Bernoulli distribution the
    probabilities are multiplied, up to 1.
    """
    if isinstance(px, BlockwiseDistribution):
        ends = torch.as_tensor([0, *px.widths], device=columns.device).cumsum(0).tolist()
        parts = []
        for i, (part, start, end) in enumerate(zip(px.parts, ends[:-1], ends[1:], strict=True)):
            own = columns[(columns >= start) & (columns < end)] - start
            parts.append(at_depth(part, depth[:, i : i + 1], own))
        return BlockwiseDistribution(parts)
    if isinstance(px, Bernoulli):
        return Bernoulli(probs=(px.probs[:, columns] * depth).clamp(max=_CERTAIN))
    if isinstance(px, ZeroInflatedNegativeBinomial):
        return ZeroInflatedNegativeBinomial(
            mu=px.mu[:, columns] * depth,
            theta=px.theta[:, columns],
            zi_logits=px.zi_logits[:, columns],
        )
    if isinstance(px, NegativeBinomial):
        return NegativeBinomial(mu=px.mu[:, columns] * depth, theta=px.theta[:, columns])
    if isinstance(px, Poisson):
        return Poisson(px.rate[:, columns] * depth)
    raise TypeError(f"{type(px).__name__} is no distribution of counts.")


def zero_probability(px: Distribution) -> torch.Tensor:
    """Probability of a count of 0, which ``px.log_prob`` finds by differences of large numbers."""
    if isinstance(px, BlockwiseDistribution):
        return torch.cat([zero_probability(part) for part in px.parts], dim=1)
    if isinstance(px, Bernoulli):
        return 1 - px.probs
    if not isinstance(px, NegativeBinomial):
        return (-px.mean).exp()
    zero = (-px.theta * torch.log1p(px.mu / px.theta)).exp()
    if isinstance(px, ZeroInflatedNegativeBinomial):
        zero = px.zi_probs + (1 - px.zi_probs) * zero
    return zero


def mean_log1p(px: Distribution, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Expectation of :math:`\ln(1 + f x)` of counts, and the probability that they are not 0.

    From the probability :math:`q` of a count and from mean and variance of the counts above 0,
    as if :math:`1 + f x` had a log-normal distribution there: exact where the only count is 1.

    .. math::
        q \left[\ln(1 + f m) - \tfrac12 \ln\left(1 + \frac{f^2 v}{(1 + f m)^2}\right)\right]

    Parameters
    ----------
    px
        Distribution of counts ``(n, n_features)``.
    factor
        :math:`f`, ``(n, 1)`` or ``(n, n_features)``.

    Returns
    -------
    Two tensors ``(n, n_features)``.
    """
    counted = 1 - zero_probability(px)
    some = counted.clamp(min=1e-8)
    m = px.mean / some
    v = ((px.variance + px.mean**2) / some - m**2).clamp(min=0)
    base = 1 + factor * m
    return counted * (base.log() - torch.log1p(factor**2 * v / base**2) / 2), counted
