"""scvi's module of genes and peaks with a denoiser, for models that are trained already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import MULTIVAE
from scvi.module.base import auto_move_data
from torch.distributions import Distribution

from scgm_scvi.distributions import LIKELIHOODS, BlockwiseDistribution

from ._constants import FEATURE_KEYS
from ._latent_diffusion import LatentDiffusionModuleMixin, Tensors, in_evaluation
from ._missing_sizes import MissingSizes
from ._pretrained_peaks import is_open, logit_of_depth, open_peaks, scaled_logit

__all__ = ["DiffusionMULTIVAE"]


class DiffusionMULTIVAE(LatentDiffusionModuleMixin, MULTIVAE):
    """:class:`scvi.module.MULTIVAE` of genes and peaks with a denoiser; takes the same parameters.

    A state ends with two sizes, as scvi's encoders give them: the log library size of the genes,
    and the log odds of the depth of the peaks, as of :class:`DiffusionPEAKVAE`. The size of what
    was not measured in a cell is what the latent and the other size make of it, by
    :class:`MissingSizes`.

    Examples
    --------
    >>> from scgm_scvi.module import DiffusionMULTIVAE
    >>> module = DiffusionMULTIVAE(n_input_genes=20, n_input_regions=50, n_latent=5, n_batch=1)
    ... # doctest: +SKIP
    >>> module.init_denoiser(5, n_conditions=[3], n_condition_values=0, n_nuisances=[1])
    ... # doctest: +SKIP
    >>> module.denoiser.n_dims  # doctest: +SKIP
    7
    """

    n_sizes = 2

    def init_denoiser(self, n_latent: int, *args: Any, **kwargs: Any) -> None:
        """As :meth:`LatentDiffusionModuleMixin.init_denoiser`, and what tells missing sizes."""
        super().init_denoiser(n_latent, *args, **kwargs)
        self.missing_sizes = MissingSizes(n_latent, self.n_sizes)

    @property
    def widths(self) -> Sequence[int]:
        """Numbers of genes and of peaks."""
        return (self.n_input_genes, self.n_input_regions)

    def features(self, tensors: Tensors) -> torch.Tensor:
        """Counts of genes, and which peaks are open, ``(n, n_features)``."""
        counts = torch.cat([tensors[key] for key in FEATURE_KEYS if key in tensors], dim=1)
        genes, peaks = counts.split(list(self.widths), dim=1)
        return torch.cat([genes, is_open(peaks)], dim=1)

    def with_features(self, tensors: Tensors, x: torch.Tensor) -> Tensors:
        """The minibatch with other counts ``(n, n_features)``, of all modalities side by side."""
        keys = [key for key in FEATURE_KEYS if key in tensors]
        parts = x.split([tensors[key].shape[1] for key in keys], dim=1)
        return {**tensors, **dict(zip(keys, parts, strict=True))}

    def measured(self, x: torch.Tensor) -> torch.Tensor:
        """Whether cells were measured in each modality, ``(n, n_modalities)``."""
        return torch.stack([part.any(dim=1) for part in x.split(list(self.widths), dim=1)], dim=1)

    def scaled_sizes(self, log_size: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Sizes ``(n, 2)`` at ``depth`` times the depth, which is of that shape too."""
        (genes, peaks), (more, wider) = log_size.split(1, dim=1), depth.split(1, dim=1)
        return torch.cat([genes + more.log(), scaled_logit(peaks, wider)], dim=1)

    def _get_inference_input(self, tensors: Tensors) -> dict[str, torch.Tensor | None]:
        batch = tensors[REGISTRY_KEYS.BATCH_KEY]
        unused = {  # but for weights of each cell, and dispersions of each label
            REGISTRY_KEYS.INDICES_KEY: torch.zeros_like(batch),
            REGISTRY_KEYS.LABELS_KEY: torch.zeros_like(batch),
        }
        return super()._get_inference_input({**unused, **tensors})

    @in_evaluation
    @torch.inference_mode()
    @auto_move_data
    def encode_state(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, each ``(n, n_latent + 2)``, of the cells' states."""
        outputs = self.inference(**self._get_inference_input(tensors))
        sizes = [outputs["libsize_expr"], logit_of_depth(outputs["libsize_acc"])]
        mean = torch.cat([outputs["qz_m"], *sizes], dim=1)
        variance = torch.cat([outputs["qz_v"], *map(torch.zeros_like, sizes)], dim=1)
        return self.completed(mean, variance, self.measured(outputs["x"]))

    def completed(
        self, mean: torch.Tensor, variance: torch.Tensor, measured: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments of states with the sizes of what was not ``measured`` filled in."""
        (latent, sizes), (spread, _) = self.split_state(mean), self.split_state(variance)
        sizes, unknown = self.missing_sizes(latent, sizes, measured)
        return torch.cat([latent, sizes], dim=1), torch.cat([spread, unknown], dim=1)

    @in_evaluation
    @auto_move_data
    def decode_state(self, state: torch.Tensor, tensors: Tensors) -> Distribution:
        """Distribution of the features of cells with ``state`` ``(n, n_latent + 2)``."""
        latent, sizes = self.split_state(state)
        latent = self.z_encoder_accessibility.z_transformation(latent)
        batch = tensors[REGISTRY_KEYS.BATCH_KEY]
        outputs = self.generative(
            latent,
            latent,
            batch,
            tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            libsize_expr=sizes[:, :1],
            label=torch.zeros_like(batch),
        )
        peaks = open_peaks(outputs["p"], sizes[:, 1:].sigmoid(), self.region_factors)
        return BlockwiseDistribution([self._genes(outputs), peaks])

    def _genes(self, outputs: dict[str, Any]) -> Distribution:
        """Counts of genes, by the model's likelihood."""
        return LIKELIHOODS[self.gene_likelihood].distribution(
            outputs["px_rate"], outputs["px_scale"], outputs["px_r"], outputs["px_dropout"]
        )
