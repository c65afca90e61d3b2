"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._blocks import block_sums, of_each_feature
from ._constants import SCGM_KEYS
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._joined import JoinedDistribution
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import log_likelihood, nb_log_likelihood, with_mean
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "SCGMVAE",
    "SCGM_KEYS",
    "CategoryCounts",
    "JoinedDistribution",
    "LatentDiffusionModuleMixin",
    "block_sums",
    "grow",
    "log_likelihood",
    "nb_log_likelihood",
    "new_entries",
    "of_each_feature",
    "only_trained",
    "with_mean",
]
