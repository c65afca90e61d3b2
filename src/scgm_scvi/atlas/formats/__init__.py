"""File formats: each is a function that gives a :class:`~scgm_scvi.atlas.Reading` of its file."""

from ._errors import UnsupportedFormat
from ._h5ad import read_h5ad
from ._loom import read_loom
from ._mtx import read_mtx
from ._table import read_table
from ._tenx_h5 import read_10x_h5

__all__ = [
    "UnsupportedFormat",
    "read_10x_h5",
    "read_h5ad",
    "read_loom",
    "read_mtx",
    "read_table",
]
