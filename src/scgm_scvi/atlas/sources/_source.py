"""What a source of datasets has to be able to do."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from scgm_scvi._errors import listed, nearest
from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats._reading import Reading
from scgm_scvi.atlas.sources._record import Record

__all__ = ["TISSUE_TYPES", "Downloads", "Source"]

TISSUE_TYPES = ("tissue", "cell line", "primary cell culture", "organoid")
"""What cells may come from, in the words of CELLxGENE's schema."""


class Downloads(Protocol):
    """The part of :class:`scgm_scvi.atlas.Downloader` that sources use."""

    def file(self, remote: RemoteFile, folder: str) -> Path: ...

    def json(self, url: str, **options: Any) -> Any: ...

    def text(self, url: str, **options: Any) -> str: ...


class Source(ABC):
    """A place that datasets come from.

    A new source is one file: a subclass with a ``name``, :meth:`catalog` and :meth:`read`. In the
    folder of the others it is found there; elsewhere a line enters it in :data:`SOURCES`.

    Parameters
    ----------
    download
        Fetches files and documents: resuming, rate-limited, checked.
    base_url
        In place of the source's own address; a mirror, or a server in tests.

    Examples
    --------
    >>> from scgm_scvi.atlas import SOURCES, Record, RemoteFile, Source, read_file
    >>> class OurServer(Source):
    ...     name = "ours"
    ...     base_url = "https://example.org"
    ...
    ...     def catalog(self):
    ...         for id in self.download.json(f"{self.url}/datasets.json"):
    ...             yield Record(self.name, id, (RemoteFile("x.h5ad", f"{self.url}/{id}.h5ad"),))
    ...
    ...     def read(self, record, files):
    ...         return read_file(files["x.h5ad"])
    >>> SOURCES["ours"] = OurServer  # doctest: +SKIP
    """

    name: ClassVar[str]
    base_url: ClassVar[str] = ""
    is_local: ClassVar[bool] = False  # files are the user's: read where they lie, never removed
    insecure_hosts: ClassVar[tuple[str, ...]] = ()  # those without https
    intervals: ClassVar[dict[str, float]] = {}  # seconds between requests, of hosts that ask for it

    def __init__(self, download: Downloads, base_url: str | None = None) -> None:
        self.download = download
        self.url = (base_url or self.base_url).rstrip("/")
        self.skipped: dict[str, str] = {}
        """What the last :meth:`catalog` left out: names of datasets, and why."""
        self.tissue_types: frozenset[str] = frozenset({"tissue"})
        """What the cells that are wanted come from, some of :data:`TISSUE_TYPES`."""
        self._found: list[Record] | Exception | None = None

    @abstractmethod
    def catalog(self) -> Iterator[Record]:
        """All datasets that this package could read from here.

        The records may be light: without files where finding those takes a request a dataset, which
        :meth:`resolve` makes for the few that are wanted.
        """

    def stands_for(self, id: str, record: Record) -> bool:
        """Whether a plan that names ``id`` means this record."""
        return record.id == id

    def find(self, id: str, version: str = "") -> list[Record]:
        """What a plan means by ``id``, with files; of ``version``, if one is given.

        Raises
        ------
        ValueError
            If the source has no such dataset, or not of this version.
        """
        if self._found is None:
            try:
                self._found = list(self.catalog())
            except (RuntimeError, ValueError) as error:
                self._found = error  # a server that is down is not asked again for each dataset
        if isinstance(self._found, Exception):
            raise self._found
        found = [r for r in self._found if self.stands_for(id, r)]
        if not found:
            why = f": {self.skipped[id]}" if id in self.skipped else ""
            near = nearest(id, [r.id for r in self._found])
            raise ValueError(f"{self.name} has no dataset {id!r} that can be read{why}.{near}")
        if version:  # another one than the newest may still be there
            found = [
                r if r.version == version else Record(r.source, r.id, version=version)
                for r in found
            ]
        found = [self.resolve(r) for r in found]
        for record in found:
            if version and (record.version != version or not record.files):
                raise ValueError(
                    f"{self.name} no longer has {id!r} in version {version!r}, which the plan pins."
                )
        return found

    def resolve(self, record: Record) -> Record:
        """The record with its files and all that the source says of it; itself, if it has them."""
        return record

    def fetch(self, record: Record) -> dict[str, Path]:
        """Local paths of the record's files by name, downloaded where they are not there yet."""
        return {f.name: self.download.file(f, record.key) for f in self.resolve(record).files}

    @abstractmethod
    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The dataset that :meth:`fetch` has brought.

        A source may have options of its own, keywords with defaults: a plan's ``read``.
        """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise unless :meth:`read` takes these options: a plan is checked before any download.

        Raises
        ------
        ValueError
            If it does not; the message names the nearest.
        """
        parameters = list(inspect.signature(cls.read).parameters.values())[3:]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
        known = [p.name for p in parameters]
        for name in options:
            if name not in known:
                raise ValueError(
                    f"has {name!r}, which {cls.name!r} does not take; it takes {listed(known)}."
                    f"{nearest(name, known)}"
                )
