"""What users call: SCGM and the mixins it is made of, one verb a file."""

from ._atacscgm import ATACSCGM
from ._multiscgm import MultiSCGM
from ._scgm import SCGM
from .data._modalities import pad_modalities
from .requests._energy import DenoisedCells
from .requests._sampling import SamplingMixin
from .scvi_models._pretrained import DiffusionSCANVI, DiffusionSCVI
from .scvi_models._pretrained_multi import DiffusionMULTIVI
from .scvi_models._pretrained_peaks import DiffusionPEAKVI, DiffusionPOISSONVI
from .training._diffusion import LatentDiffusionMixin
from .verbs._generation import GenerationMixin

__all__ = [
    "ATACSCGM",
    "SCGM",
    "DenoisedCells",
    "DiffusionMULTIVI",
    "DiffusionPEAKVI",
    "DiffusionPOISSONVI",
    "DiffusionSCANVI",
    "DiffusionSCVI",
    "GenerationMixin",
    "LatentDiffusionMixin",
    "MultiSCGM",
    "SamplingMixin",
    "pad_modalities",
]
