"""Numbers about generated cells, each beside what real cells score."""

from ._baselines import BASELINES, baseline_responses
from ._challenge import CHALLENGE_METRICS
from ._differential_expression import differential_expression
from ._distances import classifier_auc, energy_distance, mixing, mmd2, prdc, wasserstein2
from ._evaluator import TWO_SAMPLE_METRICS
from ._generation import evaluate_generation
from ._holdout import holdout
from ._linkage import evaluate_linkage, linked_correlation
from ._links import promoter_links
from ._memorization import memorization_report
from ._perturbation import evaluate_perturbation
from ._perturbations import SCREEN_METRICS, evaluate_perturbations
from ._sets import seen_parts

__all__ = [
    "BASELINES",
    "CHALLENGE_METRICS",
    "SCREEN_METRICS",
    "TWO_SAMPLE_METRICS",
    "baseline_responses",
    "classifier_auc",
    "differential_expression",
    "energy_distance",
    "evaluate_generation",
    "evaluate_linkage",
    "evaluate_perturbation",
    "evaluate_perturbations",
    "holdout",
    "linked_correlation",
    "memorization_report",
    "mixing",
    "mmd2",
    "prdc",
    "promoter_links",
    "seen_parts",
    "wasserstein2",
]
