"""What a catalogue says of a dataset, before anything of it is downloaded."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

from scgm_scvi.atlas.download._remote_file import RemoteFile

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """A dataset of a catalogue.

    Parameters
    ----------
    source
        Name of its source in :data:`scgm_scvi.atlas.sources.SOURCES`.
    id
        The source's own name of the dataset.
    files
        All that reading it needs.
    title, version, organism, licence, citation
        As the source gives them; ``organism`` is ``"human"``, ``"mouse"``, or the Latin name of
        another one. Empty where unknown.
    n_cells
        Cells, where the source says.
    tissues, diseases, assays
        All that occur.
    studies
        Accessions and DOIs, by which the same study is known in other sources.
    unit
        What the values are, in the source's own words; nothing relies on it.
    """

    source: str
    id: str
    files: tuple[RemoteFile, ...] = ()
    title: str = ""
    version: str = ""
    organism: str = ""
    licence: str = ""
    citation: str = ""
    n_cells: int | None = None
    tissues: tuple[str, ...] = ()
    diseases: tuple[str, ...] = ()
    assays: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    unit: str = ""

    @property
    def key(self) -> str:
        """Name of the dataset in the store: safe as a folder, and no two datasets share it."""
        name = f"{self.source}-{self.id}"
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:80]
        return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def size(self) -> int | None:
        """Bytes to download; None where a file's size is unknown."""
        sizes = [f.size for f in self.files]
        return None if None in sizes else sum(sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """What :meth:`to_dict` gave."""
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list | tuple)}
        files = tuple(RemoteFile(**f) for f in values.get("files", ()))
        return cls(**{**values, **lists, "files": files})
