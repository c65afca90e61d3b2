"""What users call: SCGM and the mixins it is made of, one verb a file."""

from ._diffusion import LatentDiffusionMixin
from ._generation import GenerationMixin
from ._scgm import SCGM

__all__ = ["SCGM", "GenerationMixin", "LatentDiffusionMixin"]
