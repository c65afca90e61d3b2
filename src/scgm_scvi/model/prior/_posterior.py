"""What a cell's latent may be, given its counts and all that the model knows of cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Distribution

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.module import BlockwiseDistribution, log_likelihood, modality_sums

from ._latent_prior import LatentPrior

__all__ = ["Posterior", "at_depth", "fit_posterior", "mean_log1p", "zero_probability"]

_LEVEL = 0.2  # of noise, at which the prior is asked; posteriors are .1 and more wide
_CERTAIN = 1 - 1e-6  # a probability that still has a logarithm of what it leaves
_NOTHING = 1e-30  # counts, in place of an expectation of 0
_RATE = 0.1  # of Adam, in standard deviations of the latent


@dataclass(frozen=True)
class Posterior:
    """Gaussians of the latents of some cells.

    Attributes
    ----------
    prior
        The model.
    attributes
        Of the cells.
    mean, std
        Of standardised latents, ``(n, n_latent)``.
    log_size
        That of the counts at hand, or the log size factor, ``(n, n_sizes)``.
    """

    prior: LatentPrior
    attributes: Attributes
    mean: torch.Tensor
    std: torch.Tensor
    log_size: torch.Tensor

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One standardised latent a cell."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise

    @property
    @torch.no_grad()
    def latents(self) -> torch.Tensor:
        """Means of the latents, in the units of ``obsm["X_scgm"]``."""
        return self.unstandardized(self.mean)

    def unstandardized(self, u: torch.Tensor) -> torch.Tensor:
        """Latents of standardised ones."""
        denoiser, split = self.prior.module.denoiser, self.prior.module.split_state
        return u * split(denoiser.scale)[0] + split(denoiser.shift)[0]

    def decode(self, u: torch.Tensor) -> Distribution:
        """Distribution of the features of standardised latents ``u``, at the cells' sizes."""
        state = torch.cat([self.unstandardized(u), self.log_size], dim=1)
        return self.prior.module.decode_state(state, self.attributes.tensors)

    def depth(self, px: Distribution, measured: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """What to multiply the depth of ``px`` by, for counts of these sums.

        Parameters
        ----------
        measured
            Sums ``(n, n_modalities)`` of the counts of the features ``seen``.
        """
        expected = modality_sums(px.mean[:, seen], self.prior.module.widths, seen)
        return torch.where(measured > 0, measured / expected.clamp(min=_NOTHING), 1.0)


def fit_posterior(
    prior: LatentPrior,
    tensors: Mapping[str, torch.Tensor],
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
    tensors
        The minibatch, with features.
    n_steps
        Of Adam; 0: the encoder's own.
    seen
        Columns that were measured, in order; default: all. The depth of a cell is then what
        these counts and the share that the decoder gives these features make it, in each
        modality; that of a modality without counts is what the encoder says.

    References
    ----------
    Kim et al. 2018, Semi-amortized variational autoencoders, arXiv:1802.02550. The prior:
    Mardani et al. 2023, RED-diff, arXiv:2305.04391.
    """
    module, denoiser = prior.module, prior.module.denoiser
    attributes = Attributes.of(prior.spec, tensors)
    state, variance = (s.clone() for s in module.encode_state(tensors))  # out of inference mode
    split = module.split_state
    mean, _ = split(denoiser.standardize(state))
    log_std = (split(variance)[0].sqrt() / split(denoiser.scale)[0]).log()
    posterior = Posterior(prior, attributes, mean, log_std.exp(), split(state)[1])
    if n_steps == 0:
        return posterior
    x = module.features(tensors).to(prior.device)
    x = x if seen is None else x[:, seen]
    denoise, level = prior.denoiser(attributes), torch.tensor(_LEVEL, dtype=torch.float64)
    parameters = [p.requires_grad_() for p in (mean, log_std)]
    adam = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
    for step in range(n_steps):
        adam.param_groups[0]["lr"] = _RATE * (1 - step / n_steps) ** 0.5
        with torch.enable_grad():
            present = replace(posterior, mean=mean, std=log_std.exp())
            u = present.draw(generator)
            px, size = _decoded_at_depth(present, u, x, seen)
            score = _score(prior, denoise, u.detach(), size.detach(), level, generator)
            bound = log_likelihood(px, x) + (u * score).sum(dim=1) + log_std.sum(dim=1)
            gradients = torch.autograd.grad(-bound.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    return replace(posterior, mean=mean.detach(), std=log_std.detach().exp())


def _decoded_at_depth(
    posterior: Posterior, u: torch.Tensor, x: torch.Tensor, seen: torch.Tensor | None
) -> tuple[Distribution, torch.Tensor]:
    """Distribution of the features of latents ``u``, and the log sizes that it is at.

    With ``seen``, that of these features alone, at the depth that makes their sum that of
    ``x``, in each modality of which ``x`` has counts.
    """
    px, module = posterior.decode(u), posterior.prior.module
    if seen is None:
        return px, posterior.log_size
    depth = posterior.depth(px, modality_sums(x, module.widths, seen), seen)
    return at_depth(px, depth, seen), module.scaled_sizes(posterior.log_size, depth)


@torch.no_grad()
def _score(
    prior: LatentPrior,
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    u: torch.Tensor,
    log_size: torch.Tensor,
    level: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Gradient of the diffusion model's log-density, of latents ``u`` at their depth."""
    denoiser, split = prior.module.denoiser, prior.module.split_state
    size = (log_size - split(denoiser.shift)[1]) / split(denoiser.scale)[1]
    state = torch.cat([u, size], dim=1)
    noise = torch.randn(state.shape, generator=generator, device=state.device, dtype=state.dtype)
    noisy = state + level * noise
    return split((denoise(noisy, level) - noisy) / level**2)[0].to(u.dtype)


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
