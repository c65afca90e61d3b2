"""scvi modules: a mixin that gives any scvi VAE a denoiser, and SCGM's own VAE."""

from ._constants import FEATURE_KEYS, SCGM_KEYS
from ._contract import LatentDiffusionModule
from ._fine_tuning import CategoryCounts, grow, new_entries, only_trained
from ._latent_diffusion import LatentDiffusionModuleMixin
from ._missing_sizes import MissingSizes
from ._modality_dropout import modality_dropout_mask
from ._multimodal_vae import MultimodalVAE
from ._pretrained import DiffusionSCANVAE, DiffusionVAE, LabelsModuleMixin
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
    "LabelsModuleMixin",
    "LatentDiffusionModule",
    "LatentDiffusionModuleMixin",
    "MissingSizes",
    "modality_dropout_mask",
    "grow",
    "new_entries",
    "only_trained",
]
