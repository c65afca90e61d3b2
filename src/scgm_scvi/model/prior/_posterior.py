"""What a cell's latent may be, given its counts and all that the model knows of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.distributions import Distribution

from scgm_scvi.distributions import at_depth, log_likelihood, modality_sums

__all__ = ["Posterior", "PosteriorMixin"]

Tensors = Mapping[str, torch.Tensor]

_LEVEL = 0.2  # of noise, at which the prior is asked; posteriors are .1 and more wide
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
