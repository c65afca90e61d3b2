"""What stage two needs of a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch.distributions import Distribution

from scgm_scvi.diffusion import Denoiser

from ._latent_diffusion import LatentDiffusionModuleMixin, Tensors

__all__ = ["LatentDiffusionModule"]


@runtime_checkable
class LatentDiffusionModule(Protocol):
    """A module whose cells have a state that is encoded, decoded, and learnt by a denoiser.

    A state ``(n, n_latent + n_sizes)`` is a latent, as the decoder takes it or as it is before a
    transformation of its own, and a size for each modality of the features. ``tensors`` is a minibatch
    as of scvi-tools: batch, covariates and conditions, and the features where they are encoded.
    :class:`LatentDiffusionModuleMixin` is this over a module of scvi-tools.

    Attributes
    ----------
    denoiser
        Of standardised states; its ``shift`` and ``scale`` standardise them.
    n_latent
        Number of latent dimensions.
    n_sizes
        Number of modalities, which have a size each.
    widths
        Numbers of features of the modalities, which follow one another; they add up to
        ``n_features``.

    Examples
    --------
    >>> from scgm_scvi.module import SCGMVAE, LatentDiffusionModule
    >>> isinstance(SCGMVAE(n_input=20, n_latent=5), LatentDiffusionModule)
    True
    """

    denoiser: Denoiser
    n_latent: int
    n_sizes: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def widths(self) -> Sequence[int]:
        """Numbers of features of the modalities, ``n_sizes`` of them."""

    def features(self, tensors: Tensors) -> torch.Tensor:
        """Features ``(n, n_features)`` as the likelihood looks at them, modalities side by side."""

    def with_features(self, tensors: Tensors, x: torch.Tensor) -> Tensors:
        """The minibatch with other features ``(n, n_features)``."""

    def conditions(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(n, n_categorical)``, 0 for unspecified, and values ``(n, n_continuous)``.

        NaN is an unspecified value. Either may have no columns.
        """

    def denoiser_conditions(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the denoiser: tokens of batch and covariates follow those of conditions."""

    def encode_state(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, each ``(n, n_latent + n_sizes)``, of the cells' states.

        In inference mode; a size that is known has variance 0.
        """

    def decode_state(self, state: torch.Tensor, tensors: Tensors) -> Distribution:
        """Distribution ``(n, n_features)`` of the features of cells with ``state``.

        Differentiable in ``state`` ``(n, n_latent + n_sizes)``; ``tensors`` needs no features.
        """

    def split_state(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``(..., n_latent)`` and sizes ``(..., n_sizes)`` of states."""

    def scaled_sizes(self, log_size: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Sizes ``(n, n_sizes)`` at ``depth`` times the depth, which is of that shape too."""

    def modality_totals(self, x: torch.Tensor) -> torch.Tensor:
        """Sums of ``x`` ``(n, n_features)`` over each one's modality, which broadcast to it."""

    def proportions(self, mean: torch.Tensor) -> torch.Tensor:
        """``mean`` ``(n, n_features)`` as parts of its modality's total."""

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density in nats ``(...)`` of latents ``(..., n_latent)`` under stage one's prior."""


if TYPE_CHECKING:

    def _is_met(module: LatentDiffusionModuleMixin) -> LatentDiffusionModule:
        return module  # an error of mypy where it isn't
