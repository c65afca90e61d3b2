"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._constants import SCGM_KEYS
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import nb_log_likelihood, with_mean
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "LatentDiffusionModuleMixin",
    "SCGMVAE",
    "SCGM_KEYS",
    "nb_log_likelihood",
    "with_mean",
]
