"""scGDB: a store of uniformly preprocessed cells, built from public sources, streamed from disk."""

from ._reading import Reading
from ._record import Record, RemoteFile
from .sources import SOURCES, Source

__all__ = ["SOURCES", "Reading", "Record", "RemoteFile", "Source"]
