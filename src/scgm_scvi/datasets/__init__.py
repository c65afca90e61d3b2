"""Small real data, for the demo, the tutorials and tests."""

from ._kang import kang
from ._pbmc68k import pbmc68k

__all__ = ["kang", "pbmc68k"]
