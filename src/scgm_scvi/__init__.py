"""scgm_scvi: a score-based generative model of single cells, on scvi-tools."""

from importlib.metadata import version

from . import datasets, diffusion
from .model import SCGM

__all__ = ["SCGM", "datasets", "diffusion"]
__version__ = version("scgm_scvi")
