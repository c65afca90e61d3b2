"""What users call: SCGM and the mixins it is made of, one verb a file."""

from ._atacscgm import ATACSCGM
from ._diffusion import LatentDiffusionMixin
from ._energy import DenoisedCells
from ._generation import GenerationMixin
from ._modalities import pad_modalities
from ._multiscgm import MultiSCGM
from ._pretrained import DiffusionSCANVI, DiffusionSCVI
from ._pretrained_multi import DiffusionMULTIVI
from ._pretrained_peaks import DiffusionPEAKVI, DiffusionPOISSONVI
from ._sampling import SamplingMixin
from ._scgm import SCGM

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
