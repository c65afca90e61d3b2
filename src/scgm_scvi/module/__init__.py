"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._block_vae import BlockVAE
from ._blocks import block_sums, drawn_to_hide, of_each_feature
from ._constants import FEATURE_KEYS, SCGM_KEYS
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._joined import JoinedDistribution
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import (
    bernoulli_log_likelihood,
    log_likelihood,
    nb_log_likelihood,
    poisson_log_likelihood,
    with_mean,
)
from ._missing_sizes import MissingSizes
from ._open import OpenFeatures
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._pretrained_multi import DiffusionMULTIVAE
from ._pretrained_peaks import DiffusionPEAKVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "FEATURE_KEYS",
    "BlockVAE",
    "DiffusionMULTIVAE",
    "DiffusionPEAKVAE",
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "SCGMVAE",
    "SCGM_KEYS",
    "CategoryCounts",
    "JoinedDistribution",
    "LatentDiffusionModuleMixin",
    "MissingSizes",
    "OpenFeatures",
    "bernoulli_log_likelihood",
    "block_sums",
    "drawn_to_hide",
    "grow",
    "log_likelihood",
    "nb_log_likelihood",
    "new_entries",
    "of_each_feature",
    "only_trained",
    "poisson_log_likelihood",
    "with_mean",
]
