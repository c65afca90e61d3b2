"""Score-based diffusion: noise, denoiser, samplers, guidance. Torch and the standard library only."""

from ._denoiser import Denoiser
from ._guidance import Variant, classifier_free, guidance_interval, guidance_variants
from ._noise import karras_sigmas, lognormal_sigmas
from ._samplers import SAMPLERS, Sampler, SamplerOutput, ancestral, dpmpp_2m, euler, heun

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Sampler",
    "SamplerOutput",
    "Variant",
    "ancestral",
    "classifier_free",
    "dpmpp_2m",
    "euler",
    "guidance_interval",
    "guidance_variants",
    "heun",
    "karras_sigmas",
    "lognormal_sigmas",
]
