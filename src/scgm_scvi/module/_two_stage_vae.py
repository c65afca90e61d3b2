"""What stage one's autoencoders share: a flexible prior, conditions in the decoder, the loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module._constants import MODULE_KEYS
from scvi.module.base import LossOutput, auto_move_data
from scvi.utils import unsupported_if_adata_minified
from torch import nn
from torch.distributions import Distribution

from scgm_scvi.distributions import LIKELIHOODS, Likelihood, log_likelihood
from scgm_scvi.nn import ConditionEmbedding, MixturePrior, drop_conditions

from ._latent_diffusion import LatentDiffusionModuleMixin, Tensors

__all__ = ["TwoStageVAE"]


class TwoStageVAE(LatentDiffusionModuleMixin, VAE):
    """Base of :class:`SCGMVAE` and :class:`MultimodalVAE`, which build the networks."""

    condition_dropout: float
    condition_embedding: ConditionEmbedding
    prior: MixturePrior
    px_r: nn.Parameter
    px_r_shifts: nn.ModuleList

    @property
    @abstractmethod
    def drops_modalities(self) -> bool:
        """Whether training drops modalities."""

    @property
    @abstractmethod
    def batch_shifts(self) -> list[nn.Embedding]:
        """Log shifts of features in each batch, one table for each decoder."""

    @abstractmethod
    def set_mean(self, mean: torch.Tensor) -> None:
        """Start from mean counts of shape ``(n_features,)``."""

    @abstractmethod
    def _reconstruction(
        self, tensors: Tensors, inference_outputs: dict[str, Any], px: Distribution
    ) -> torch.Tensor:
        """Negative log-likelihood ``(..., n)`` of the features."""

    @property
    def likelihood(self) -> Likelihood:
        """Of the features; of several modalities, the first's."""
        return LIKELIHOODS[self.gene_likelihood]

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density in nats of latents ``(..., n_latent)`` under the mixture prior."""
        return self.prior.log_prob(z)

    def _get_generative_input(
        self, tensors: Tensors, inference_outputs: dict[str, Any]
    ) -> dict[str, torch.Tensor | None]:
        size_factor = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        tokens, values = self.conditions(tensors)
        return {
            MODULE_KEYS.Z_KEY: inference_outputs[MODULE_KEYS.Z_KEY],
            MODULE_KEYS.LIBRARY_KEY: inference_outputs[MODULE_KEYS.LIBRARY_KEY],
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
            MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            MODULE_KEYS.SIZE_FACTOR_KEY: None if size_factor is None else size_factor.log(),
            "tokens": tokens,
            "values": values,
        }

    def _decoder_input(
        self,
        z: torch.Tensor,
        cont_covs: torch.Tensor | None,
        tokens: torch.Tensor | None,
        values: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What decoders read, and the tokens of the conditions, some dropped in training."""
        n, embedding = z.shape[-2], self.condition_embedding
        if tokens is None:
            tokens = torch.zeros(n, len(embedding.tables), dtype=torch.long, device=z.device)
        if values is None:
            values = z.new_full((n, sum(embedding.value_widths)), float("nan"))
        if self.training:
            tokens, values = drop_conditions(
                tokens, values, self.condition_dropout, value_widths=embedding.value_widths
            )
        extra = [embedding(tokens, values)]
        if cont_covs is not None:
            extra.append(cont_covs)
        return torch.cat([z, *(e.expand(*z.shape[:-1], -1) for e in extra)], dim=-1), tokens

    @unsupported_if_adata_minified
    def loss(
        self,
        tensors: Tensors,
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
        n_obs: int = 1,
    ) -> LossOutput:
        """Negative ELBO; the KL term by one posterior sample, as the prior is a mixture."""
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        qz = inference_outputs[MODULE_KEYS.QZ_KEY]
        kl = qz.log_prob(z).sum(-1) - self.prior.log_prob(z)
        px = generative_outputs[MODULE_KEYS.PX_KEY]
        reconstruction = self._reconstruction(tensors, inference_outputs, px)
        loss = (reconstruction + kl_weight * kl).mean()
        if self.px_r_shifts and n_obs > 1:
            # N(0, 1) on the shifts of the log dispersions: rare conditions stay near the gene's.
            loss = loss + sum(shifts.square().sum() for shifts in self.px_r_shifts.parameters()) / (
                2 * n_obs
            )
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local={MODULE_KEYS.KL_Z_KEY: kl},
        )

    def replay_loss(
        self,
        state: torch.Tensor,
        tensors: Tensors,
        kl_weight: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """Mean negative log-likelihood of generated cells whose states ``(n, n_latent + n_sizes)`` are known.

        The ELBO with the known latent in place of a sample of the encoder's: the decoder goes on
        decoding it to the cell, and the encoder encoding the cell to it. What the model knew thus
        stays where it was in the latent. The encoder's part is the sleep phase of Hinton et al.
        1995, doi:10.1126/science.7761831.
        """
        latent, _ = self.split_state(state)
        qz = self.inference(**self._get_inference_input(tensors))[MODULE_KEYS.QZ_KEY]
        px = self.decode_state(state, tensors)
        reconstruction = -log_likelihood(px, self.features(tensors))
        known = qz.log_prob(latent).sum(-1) + self.prior.log_prob(latent)
        return (reconstruction - kl_weight * known).mean()

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self,
        tensors: Tensors,
        n_mc_samples: int,
        return_mean: bool = False,
        n_mc_samples_per_pass: int = 1,
    ) -> torch.Tensor | float:
        """Importance-sampled log-likelihood in nats a cell, as :class:`scvi.module.VAE`."""
        terms = []
        for _ in range(math.ceil(n_mc_samples / n_mc_samples_per_pass)):
            inference, _, losses = self.forward(
                tensors,
                inference_kwargs={"n_samples": n_mc_samples_per_pass},
                get_inference_input_kwargs={"full_forward_pass": True},
            )
            z, qz = inference[MODULE_KEYS.Z_KEY], inference[MODULE_KEYS.QZ_KEY]
            log_weight = self.prior.log_prob(z) - qz.log_prob(z).sum(-1)
            log_weight = log_weight - losses.dict_sum(losses.reconstruction_loss)
            terms.append(log_weight.reshape(-1, z.shape[-2]))
        weights = torch.cat(terms)
        out = torch.logsumexp(weights, dim=0) - math.log(len(weights))
        return out.mean().item() if return_mean else out.cpu()
