"""Generators beside each other, on anyone's cells: ``scgm benchmark`` in Python."""

from ._compare import GENERATORS, Comparison, compare_generators
from ._generators import Method, independent_poisson
from ._page import write_page
from ._scvi import decoded, gaussian_latents, posterior_predictive
from ._split import Split, split_cells

__all__ = [
    "GENERATORS",
    "Comparison",
    "Method",
    "Split",
    "compare_generators",
    "decoded",
    "gaussian_latents",
    "independent_poisson",
    "posterior_predictive",
    "split_cells",
    "write_page",
]
