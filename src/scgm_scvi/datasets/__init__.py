"""Small real data, for the demo, the tutorials and tests."""

from ._atlas_files import atlas_files
from ._kang import kang
from ._pbmc68k import pbmc68k

__all__ = ["atlas_files", "kang", "pbmc68k"]
