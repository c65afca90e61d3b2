"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._constants import SCGM_KEYS
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import nb_log_likelihood, with_mean
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "SCGMVAE",
    "SCGM_KEYS",
    "CategoryCounts",
    "LatentDiffusionModuleMixin",
    "grow",
    "nb_log_likelihood",
    "new_entries",
    "only_trained",
    "with_mean",
]
