"""What a source of datasets has to be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from scgm_scvi.atlas._reading import Reading
from scgm_scvi.atlas._record import Record, RemoteFile

__all__ = ["Downloads", "Source"]


class Downloads(Protocol):
    """The part of :class:`scgm_scvi.atlas.Downloader` that sources use."""

    def file(self, remote: RemoteFile, folder: str) -> Path: ...

    def json(self, url: str, **options: Any) -> Any: ...

    def text(self, url: str, **options: Any) -> str: ...


class Source(ABC):
    """A place that datasets come from.

    A new source is one file in this folder: a subclass with a ``name`` and the methods below.

    Parameters
    ----------
    download
        Fetches files and documents: resuming, rate-limited, checked.
    base_url
        In place of the source's own address; a mirror, or a server in tests.
    """

    name: ClassVar[str]
    base_url: ClassVar[str] = ""

    def __init__(self, download: Downloads, base_url: str | None = None) -> None:
        self.download = download
        self.url = (base_url or self.base_url).rstrip("/")
        self.skipped: dict[str, str] = {}
        """What the last :meth:`catalog` left out: names of datasets, and why."""

    @abstractmethod
    def catalog(self) -> Iterator[Record]:
        """All datasets that this package could read from here.

        The records may be light: without files where finding those takes a request a dataset, which
        :meth:`resolve` makes for the few that are wanted.
        """

    def resolve(self, record: Record) -> Record:
        """The record with its files and all that the source says of it; itself, if it has them."""
        return record

    def fetch(self, record: Record) -> dict[str, Path]:
        """Local paths of the record's files by name, downloaded where they are not there yet."""
        return {f.name: self.download.file(f, record.key) for f in self.resolve(record).files}

    @abstractmethod
    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The dataset that :meth:`fetch` has brought."""
