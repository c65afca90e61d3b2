"""Small real data, for the demo, the tutorials and tests."""

from ._atlas_files import atlas_files
from ._gene_positions import gene_positions
from ._kang import kang
from ._pbmc68k import pbmc68k
from ._snareseq import snareseq

__all__ = ["atlas_files", "gene_positions", "kang", "pbmc68k", "snareseq"]
