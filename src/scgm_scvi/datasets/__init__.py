"""Small real data, for the demo, the tutorials and tests."""

from ._pbmc68k import pbmc68k

__all__ = ["pbmc68k"]
