"""A mixin that gives any scvi module a diffusion model of its latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module._constants import MODULE_KEYS
from scvi.module.base import auto_move_data
from torch.distributions import Distribution, Normal

from scgm_scvi.diffusion import Denoiser
from scgm_scvi.distributions import modality_sums, of_each_feature
from scgm_scvi.nn import ScoreNetwork

from ._constants import SCGM_KEYS
from ._scvi_module import ScviModule

__all__ = ["LatentDiffusionModuleMixin", "in_evaluation"]

Tensors = Mapping[str, torch.Tensor]


def in_evaluation(method: Callable) -> Callable:
    """Call a method in evaluation mode, whatever the module is in.

    With batch normalisation a cell would otherwise depend on its minibatch, and change the module.
    """

    @wraps(method)
    def evaluated(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return method(self, *args, **kwargs)
        self.eval()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.train()

    return evaluated


class LatentDiffusionModuleMixin(ScviModule):
    """Encode cells to a state, decode a state to a distribution, and hold the denoiser of states.

    The state of a cell is its latent with the log library size (or log size factor) appended:
    depth and identity are modelled jointly. Where the library size is itself a latent, it comes
    with its variance; a latent that scvi transforms for the decoder (logistic normal) is taken
    before that, where it is Gaussian. Nothing here knows what the features are; a module whose
    inference names things otherwise overrides :meth:`encode_state` and :meth:`decode_state`.

    Features may come in modalities, each with a depth of its own. A state then ends with a size for
    each modality, and a module with several also overrides :meth:`features`.

    Attributes
    ----------
    n_sizes
        How many log sizes a state ends with.
    """

    denoiser: Denoiser
    n_sizes: int = 1

    @property
    def widths(self) -> Sequence[int]:
        """Numbers of features of the modalities, ``n_sizes`` of them."""
        return (self.n_input,)

    def init_denoiser(
        self,
        n_latent: int,
        n_conditions: Sequence[int],
        n_condition_values: int | Sequence[int],
        n_nuisances: Sequence[int],
        denoiser_kwargs: Mapping[str, Any] | None = None,
        noise: str = "edm",
    ) -> None:
        """Build the denoiser, frozen until stage two.

        Parameters
        ----------
        n_latent
            Number of latent dimensions.
        n_conditions, n_nuisances
            Number of categories of each condition and of each nuisance (batch, covariates).
        n_condition_values
            Number of continuous conditions; or how many numbers each numeric condition is.
        denoiser_kwargs
            Passed to :class:`scgm_scvi.nn.ScoreNetwork`.
        noise
            A name in :data:`scgm_scvi.diffusion.NOISE_PROCESSES`: the levels that training draws.
        """
        n_dims = n_latent + self.n_sizes
        network = ScoreNetwork(
            n_dims,
            [*n_conditions, *n_nuisances],
            n_condition_values,
            **(denoiser_kwargs or {}),
        )
        self.denoiser = Denoiser(network, n_dims, noise=noise).requires_grad_(False)

    def init_labels(self, codes: Sequence[int]) -> None:
        """Say which label of scvi's each token of the first condition is, if any.

        For modules whose decoder reads labels, which override this.

        Parameters
        ----------
        codes
            By token; -1 where the label is unspecified, as of token 0. Empty where cells have no
            labels.
        """

    def denoiser_conditions(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(n, n_categorical)`` and values ``(n, n_values)`` for the denoiser.

        Nuisances count as conditions here, so that a cell generated for a batch is that batch's.
        """
        tokens, values = self.conditions(tensors)
        parts = [tokens, tensors[REGISTRY_KEYS.BATCH_KEY].long() + 1]
        covariates = tensors.get(REGISTRY_KEYS.CAT_COVS_KEY)
        if covariates is not None:
            parts.append(covariates.long() + 1)
        return torch.cat(parts, dim=1), values

    def conditions(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and values of the conditions proper, empty where there are none."""
        batch = tensors[REGISTRY_KEYS.BATCH_KEY]
        tokens = tensors.get(SCGM_KEYS.CONDITIONS_KEY)
        values = tensors.get(SCGM_KEYS.CONDITION_VALUES_KEY)
        if tokens is None:
            tokens = batch.new_zeros(len(batch), 0)
        if values is None:
            values = torch.zeros(len(batch), 0, device=batch.device)
        return tokens.long(), values.float()

    def features(self, tensors: Tensors) -> torch.Tensor:
        """Features ``(n, n_features)`` of a minibatch, all modalities side by side."""
        return tensors[REGISTRY_KEYS.X_KEY]

    def with_features(self, tensors: Tensors, x: torch.Tensor) -> Tensors:
        """The minibatch with other features ``(n, n_features)``, as :meth:`features` has them."""
        return {**tensors, REGISTRY_KEYS.X_KEY: x}

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density in nats of latents ``(..., n_latent)`` under the prior of stage one."""
        return Normal(0.0, 1.0).log_prob(z).sum(dim=-1)

    def split_state(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``(..., n_latent)`` and log sizes ``(..., n_sizes)`` of states."""
        return state[..., : -self.n_sizes], state[..., -self.n_sizes :]

    def scaled_sizes(self, log_size: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Log sizes ``(n, n_sizes)`` at ``depth`` times the depth, which is of that shape too."""
        return log_size + depth.log()

    def modality_totals(self, x: torch.Tensor) -> torch.Tensor:
        """Sums of features ``(n, n_features)`` over each one's modality, which broadcast to them."""
        return of_each_feature(modality_sums(x, self.widths), self.widths)

    def proportions(self, mean: torch.Tensor) -> torch.Tensor:
        """Features ``(n, n_features)`` as parts of their modality's total."""
        return mean / self.modality_totals(mean)

    @in_evaluation
    @torch.inference_mode()
    @auto_move_data
    def encode_state(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, each ``(n, n_latent + n_sizes)``, of the cells' states."""
        outputs = self.inference(**self._get_inference_input(tensors))
        qz = outputs[MODULE_KEYS.QZ_KEY]
        ql = outputs.get(MODULE_KEYS.QL_KEY)
        log_size = outputs[MODULE_KEYS.LIBRARY_KEY]
        size_variance = torch.zeros_like(log_size)
        if self.use_size_factor_key:
            log_size = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].log()
        elif ql is not None:  # what is in its place in the outputs is a sample
            log_size, size_variance = ql.loc, ql.scale.square()
        mean = torch.cat([qz.loc, log_size], dim=1)
        variance = torch.cat([qz.scale.square(), size_variance], dim=1)
        return mean, variance

    @in_evaluation
    @auto_move_data
    def decode_state(self, state: torch.Tensor, tensors: Tensors) -> Distribution:
        """Distribution of the features of cells with ``state`` ``(n, n_latent + n_sizes)``.

        ``tensors`` is a minibatch without features: batch, covariates and conditions. Differentiable
        in ``state``.
        """
        latent, log_size = self.split_state(state)
        latent = self.z_encoder.z_transformation(latent)
        inputs = self._get_generative_input(
            {**tensors, REGISTRY_KEYS.SIZE_FACTOR_KEY: log_size.exp()},
            {MODULE_KEYS.Z_KEY: latent, MODULE_KEYS.LIBRARY_KEY: log_size},
        )
        return self.generative(**inputs)[MODULE_KEYS.PX_KEY]
