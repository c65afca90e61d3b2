"""Pictures of models and of generated cells."""

from ._editing import edit_curve, edit_shift
from ._embedding import real_and_generated
from ._genes import gene_statistics
from ._history import history
from ._metrics import metrics
from ._perturbations import perturbations
from ._response import response

__all__ = [
    "edit_curve",
    "edit_shift",
    "gene_statistics",
    "history",
    "metrics",
    "perturbations",
    "real_and_generated",
    "response",
]
