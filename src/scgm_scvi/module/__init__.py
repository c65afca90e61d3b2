"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._block_vae import BlockVAE
from ._constants import FEATURE_KEYS, SCGM_KEYS
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import (
    bernoulli_log_likelihood,
    nb_log_likelihood,
    poisson_log_likelihood,
    with_mean,
)
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "FEATURE_KEYS",
    "BlockVAE",
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "SCGMVAE",
    "SCGM_KEYS",
    "CategoryCounts",
    "LatentDiffusionModuleMixin",
    "bernoulli_log_likelihood",
    "grow",
    "nb_log_likelihood",
    "new_entries",
    "only_trained",
    "poisson_log_likelihood",
    "with_mean",
]
