"""Numbers about generated cells, each beside what real cells score."""

from ._distances import classifier_auc, mixing, mmd2, prdc, wasserstein2
from ._generation import evaluate_generation
from ._memorization import memorization_report

__all__ = [
    "classifier_auc",
    "evaluate_generation",
    "memorization_report",
    "mixing",
    "mmd2",
    "prdc",
    "wasserstein2",
]
