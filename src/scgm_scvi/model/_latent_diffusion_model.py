"""All that a model can do once its module has a denoiser, whatever its stage one is."""

from __future__ import annotations

from ._abundance import AbundanceMixin
from ._analogy import AnalogyMixin
from ._augmentation import AugmentationMixin
from ._classification import ClassificationMixin
from ._containers import AnnDataMixin
from ._diffusion import LatentDiffusionMixin
from ._edit_curve import EditCurveMixin
from ._edited_states import EditedStatesMixin
from ._editing import EditingMixin
from ._encoding import EncodingMixin
from ._enhancement import EnhancementMixin
from ._export import ExportMixin
from ._generation import GenerationMixin
from ._hub import HubMixin
from ._imputation import ImputationMixin
from ._interpolation import InterpolationMixin
from ._likelihood import LikelihoodMixin
from ._loading import LoadingMixin
from ._outliers import OutlierMixin
from ._pickling import PicklingMixin
from ._posterior import PosteriorMixin
from ._registry import RegistryMixin
from ._sampling import SamplingMixin
from ._saving import SavingMixin
from ._scoring import ScoringMixin

__all__ = ["LatentDiffusionModel"]


class LatentDiffusionModel(
    GenerationMixin,
    AugmentationMixin,
    InterpolationMixin,
    EditingMixin,
    EditCurveMixin,
    EditedStatesMixin,
    AnalogyMixin,
    ScoringMixin,
    LikelihoodMixin,
    ClassificationMixin,
    OutlierMixin,
    EnhancementMixin,
    ImputationMixin,
    PosteriorMixin,
    EncodingMixin,
    SamplingMixin,
    AbundanceMixin,
    LatentDiffusionMixin,
    ExportMixin,
    HubMixin,
    LoadingMixin,
    SavingMixin,
    PicklingMixin,
    RegistryMixin,
    AnnDataMixin,
):
    """The verbs of stage two, and what shares a model, in one bundle.

    Needs ``SetupMixin`` before it, an scvi model after it, and a module with
    :class:`scgm_scvi.module.LatentDiffusionModuleMixin`.
    """
