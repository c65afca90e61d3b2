"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._blockwise import BlockwiseDistribution
from ._constants import FEATURE_KEYS, SCGM_KEYS
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._likelihood import (
    bernoulli_log_likelihood,
    log_likelihood,
    nb_log_likelihood,
    poisson_log_likelihood,
    with_mean,
)
from ._missing_sizes import MissingSizes
from ._modalities import modality_dropout_mask, modality_sums, of_each_feature
from ._multimodal_vae import MultimodalVAE
from ._open import OpenFeatures
from ._pretrained import DiffusionSCANVAE, DiffusionVAE
from ._pretrained_multi import DiffusionMULTIVAE
from ._pretrained_peaks import DiffusionPEAKVAE
from ._scgmvae import SCGMVAE

__all__ = [
    "FEATURE_KEYS",
    "MultimodalVAE",
    "DiffusionMULTIVAE",
    "DiffusionPEAKVAE",
    "DiffusionSCANVAE",
    "DiffusionVAE",
    "SCGMVAE",
    "SCGM_KEYS",
    "CategoryCounts",
    "BlockwiseDistribution",
    "LatentDiffusionModuleMixin",
    "MissingSizes",
    "OpenFeatures",
    "bernoulli_log_likelihood",
    "modality_sums",
    "modality_dropout_mask",
    "grow",
    "log_likelihood",
    "nb_log_likelihood",
    "new_entries",
    "of_each_feature",
    "only_trained",
    "poisson_log_likelihood",
    "with_mean",
]
