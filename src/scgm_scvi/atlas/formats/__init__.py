"""File formats: each is a function that gives a :class:`~scgm_scvi.atlas.Reading` of its file."""

from ._blocks import rechunked
from ._errors import UnsupportedFormat
from ._file import find_files, mtx_parts, read_file
from ._h5ad import read_h5ad
from ._join import join_meta
from ._loom import read_loom
from ._mtx import read_mtx
from ._table import read_table
from ._tenx_h5 import read_10x_h5
from ._text import read_meta

__all__ = [
    "UnsupportedFormat",
    "find_files",
    "join_meta",
    "mtx_parts",
    "read_10x_h5",
    "read_file",
    "read_h5ad",
    "read_loom",
    "read_meta",
    "read_mtx",
    "read_table",
    "rechunked",
]
