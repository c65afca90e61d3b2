"""Numbers about generated cells, each beside what real cells score."""

from ._differential_expression import differential_expression
from ._distances import classifier_auc, energy_distance, mixing, mmd2, prdc, wasserstein2
from ._generation import evaluate_generation
from ._linkage import evaluate_linkage, linked_correlation
from ._links import promoter_links
from ._memorization import memorization_report
from ._perturbation import evaluate_perturbation

__all__ = [
    "classifier_auc",
    "differential_expression",
    "energy_distance",
    "evaluate_generation",
    "evaluate_linkage",
    "evaluate_perturbation",
    "linked_correlation",
    "memorization_report",
    "mixing",
    "mmd2",
    "prdc",
    "promoter_links",
    "wasserstein2",
]
