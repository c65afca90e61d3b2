"""What users call: SCGM and the mixins it is made of, one verb a file."""

from ._atacscgm import ATACSCGM
from ._multiscgm import MultiSCGM
from ._scgm import SCGM
from .data._modalities import pad_modalities
from .requests._energy import DenoisedCells
from .requests._kinds import KINDS, ConditionKind
from .scvi_models._from_scvi import PRETRAINED
from .scvi_models._pretrained import DiffusionSCANVI, DiffusionSCVI, PretrainedMixin
from .scvi_models._pretrained_multi import DiffusionMULTIVI
from .scvi_models._pretrained_peaks import DiffusionPEAKVI, DiffusionPOISSONVI

__all__ = [
    "ATACSCGM",
    "KINDS",
    "PRETRAINED",
    "SCGM",
    "ConditionKind",
    "DenoisedCells",
    "DiffusionMULTIVI",
    "DiffusionPEAKVI",
    "DiffusionPOISSONVI",
    "DiffusionSCANVI",
    "DiffusionSCVI",
    "MultiSCGM",
    "PretrainedMixin",
    "pad_modalities",
]
