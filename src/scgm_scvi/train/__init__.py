"""Training: stage one's plan, and stage two in Lightning."""

from ._cached_latents import CachedLatents
from ._denormals import flush_denormals
from ._diffusion_plan import DiffusionTrainingPlan
from ._diffusion_runner import DiffusionTrainRunner
from ._ema import EMAOfWeights
from ._keep_best import KeepBest
from ._latent_cache import LatentCache, units_of
from ._latent_data import LatentDataModule
from ._optimizer import adamw_with_cosine
from ._replay import Replay
from ._vae_plan import SCGMTrainingPlan

__all__ = [
    "CachedLatents",
    "DiffusionTrainRunner",
    "DiffusionTrainingPlan",
    "EMAOfWeights",
    "KeepBest",
    "LatentCache",
    "LatentDataModule",
    "Replay",
    "SCGMTrainingPlan",
    "adamw_with_cosine",
    "flush_denormals",
    "units_of",
]
