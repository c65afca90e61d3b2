"""All that a model can do once its module has a denoiser, whatever its stage one is."""

from __future__ import annotations

from .data._registry import RegistryMixin
from .sharing._export import ExportMixin
from .sharing._hub import HubMixin
from .sharing._loading import LoadingMixin
from .sharing._pickling import PicklingMixin
from .sharing._saving import SavingMixin
from .verbs._abundance import AbundanceMixin
from .verbs._augmentation import AugmentationMixin
from .verbs._classification import ClassificationMixin
from .verbs._editing import EditingMixin
from .verbs._enhancement import EnhancementMixin
from .verbs._imputation import ImputationMixin
from .verbs._interpolation import InterpolationMixin
from .verbs._likelihood import LikelihoodMixin
from .verbs._outliers import OutlierMixin
from .verbs._scoring import ScoringMixin

__all__ = ["LatentDiffusionModel"]


class LatentDiffusionModel(
    AugmentationMixin,
    InterpolationMixin,
    EditingMixin,
    ScoringMixin,
    LikelihoodMixin,
    ClassificationMixin,
    OutlierMixin,
    EnhancementMixin,
    ImputationMixin,
    AbundanceMixin,
    ExportMixin,
    HubMixin,
    LoadingMixin,
    SavingMixin,
    PicklingMixin,
    RegistryMixin,
):
    """The verbs of stage two, and what shares a model, in one bundle.

    Needs ``SetupMixin`` before it, an scvi model after it, and a module with
    :class:`scgm_scvi.module.LatentDiffusionModuleMixin`.
    """
