"""scvi's own modules with a denoiser, for models that are trained already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import SCANVAE, VAE
from torch.distributions import Distribution

from scgm_scvi.distributions import with_dispersion

from ._latent_diffusion import LatentDiffusionModuleMixin, Tensors

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

__all__ = ["DiffusionSCANVAE", "DiffusionVAE", "LabelsModuleMixin"]


class LabelsModuleMixin(LatentDiffusionModuleMixin):
    """A decoder that asks for scvi's labels is told what the conditions of a cell say.

    It uses them for dispersions by label (``dispersion="gene-label"``) alone. The dispersion of a
    cell whose label is unspecified is the geometric mean of those of all labels: its latent fits
    some of them better than others, but to say which would be to classify the cell.
    """

    label_codes: torch.Tensor

    def init_labels(self, codes: Sequence[int]) -> None:
        """Keep which label of scvi's each token of the first condition is."""
        # Follows from the registry: no part of what is saved.
        self.register_buffer("label_codes", torch.as_tensor(codes).long(), persistent=False)

    def decode_state(self, state: torch.Tensor, tensors: Tensors) -> Distribution:
        """Distribution of the features of cells with ``state`` ``(n, n_latent + n_sizes)``."""
        batch = tensors[REGISTRY_KEYS.BATCH_KEY].to(self.device)
        labels = torch.zeros_like(batch).long()
        if len(self.label_codes):
            labels = self.label_codes[self.conditions(tensors)[0][:, :1].to(self.device)]
        known = {**tensors, REGISTRY_KEYS.LABELS_KEY: labels.clamp(min=0)}
        px = super().decode_state(state, known)
        if self.dispersion == "gene-label" and bool((labels < 0).any()):
            return with_dispersion(px, labels < 0, self.px_r.mean(dim=1).exp())
        return px


class DiffusionVAE(LabelsModuleMixin, VAE):
    """:class:`scvi.module.VAE` with a denoiser; takes the same parameters.

    The denoiser is attached by :meth:`init_denoiser`, and labels by :meth:`init_labels`, once the
    module is built.

    Examples
    --------
    >>> from scgm_scvi.module import DiffusionVAE
    >>> module = DiffusionVAE(n_input=20, n_latent=5)
    >>> module.init_denoiser(5, n_conditions=[3], n_condition_values=0, n_nuisances=[1])
    >>> module.denoiser.n_dims
    6
    """


class DiffusionSCANVAE(LabelsModuleMixin, SCANVAE):
    """:class:`scvi.module.SCANVAE` with a denoiser, as :class:`DiffusionVAE` is.

    Examples
    --------
    >>> from scgm_scvi.module import DiffusionSCANVAE
    >>> DiffusionSCANVAE(n_input=20, n_labels=3, n_latent=5).n_labels
    3
    """

    def on_load(self, model: BaseModelClass, **kwargs: Any) -> None:
        """As scvi does, which looks at the data for signs of an old file; not without data."""
        if model.adata is not None:
            super().on_load(model, **kwargs)
