"""Score-based diffusion: noise, denoiser, samplers, guidance. Torch and the standard library only."""

from ._denoiser import Denoiser
from ._editing import invert, sdedit, slerp, strength_sigma
from ._energy import energy_guidance
from ._evidence import path_evidence
from ._grids import GRIDS, exponential_sigmas, karras_sigmas, linear_sigmas, sigmas_for
from ._guidance import Variant, classifier_free, guidance_interval, guidance_variants
from ._likelihood import LikelihoodOutput, log_likelihood
from ._noise import NOISE_PROCESSES, NoiseProcess, lognormal_sigmas
from ._samplers import (
    SAMPLERS,
    Sampler,
    SamplerOutput,
    ancestral,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    euler_maruyama,
    heun,
    pc,
)

__all__ = [
    "GRIDS",
    "NOISE_PROCESSES",
    "SAMPLERS",
    "Denoiser",
    "LikelihoodOutput",
    "NoiseProcess",
    "Sampler",
    "SamplerOutput",
    "Variant",
    "ancestral",
    "classifier_free",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "energy_guidance",
    "euler",
    "euler_maruyama",
    "exponential_sigmas",
    "guidance_interval",
    "guidance_variants",
    "heun",
    "invert",
    "karras_sigmas",
    "linear_sigmas",
    "log_likelihood",
    "lognormal_sigmas",
    "path_evidence",
    "pc",
    "sdedit",
    "sigmas_for",
    "slerp",
    "strength_sigma",
]
