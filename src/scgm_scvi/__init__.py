"""scgm_scvi: a score-based generative model of single cells, on scvi-tools."""

from importlib.metadata import version

from . import atlas, benchmark, datasets, diffusion, metrics, pl
from .model import ATACSCGM, SCGM, MultiSCGM

__all__ = [
    "ATACSCGM",
    "SCGM",
    "MultiSCGM",
    "atlas",
    "benchmark",
    "datasets",
    "diffusion",
    "metrics",
    "pl",
]
__version__ = version("scgm_scvi")
