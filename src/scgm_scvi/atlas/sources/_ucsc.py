"""The UCSC Cell Browser: a tree of JSON documents, and two files a dataset.

Source: what its pages link to as "Data Download" (https://cellbrowser.readthedocs.io, bulk
downloads). Its own code is under the GPL and is not used here.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from scgm_scvi._errors import listed
from scgm_scvi.atlas.download._http import DownloadError
from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats import read_mtx, read_table
from scgm_scvi.atlas.formats._reading import Reading
from scgm_scvi.atlas.sources._record import Record
from scgm_scvi.atlas.sources._studies import find_studies

from ._columns import organism_of, recognise, standardise
from ._json import count, dicts, texts
from ._source import Source

__all__ = ["UCSCSource"]

DEEPEST = 8  # collections within collections; there are three today
NAME = re.compile(r"(?!\.+(/|$))[\w.+-]+(/(?!\.+(/|$))[\w.+-]+)*", re.ASCII)
REGION = re.compile(r"(?i)(chr)?[\w.]+[:_-]\d+[_-]\d+$")
MATRIX = re.compile(r"(?P<prefix>[\w.+-]*?)(exprMatrix\.tsv|matrix\.mtx)(\.gz)?", re.ASCII)
# where desc.json says of which study a dataset is
STUDIES = (
    *("doi", "geo_series", "arrayexpress", "ena_project", "bioproject", "sra_study", "ega_study"),
    *("dbgap", "paper_url", "biorxiv_url"),
)


class UCSCSource(Source):
    """Datasets of the `UCSC Cell Browser <https://cells.ucsc.edu>`_.

    Collections are looked into, datasets are not: a record of :meth:`catalog` says what its
    collection's list says, and gets its files from :meth:`resolve`. What the values are (counts,
    logarithms) is mostly not said, and is found out later.
    """

    name: ClassVar[str] = "ucsc"
    base_url: ClassVar[str] = "https://cells.ucsc.edu"

    def catalog(self) -> Iterator[Record]:
        """All datasets, as light records; a request a collection."""
        self.skipped = {}
        listing = self.download.json(f"{self.url}/dataset.json")
        if not _entries(listing):
            raise DownloadError(
                f"{self.url}/dataset.json: lists no datasets; is it a Cell Browser?"
            )
        yield from self._below(listing, 1, set())

    def _below(self, listing: Any, depth: int, seen: set[str]) -> Iterator[Record]:
        for entry in _entries(listing):
            name = entry.get("name")
            if not isinstance(name, str) or not NAME.fullmatch(name):
                self.skipped[str(name or entry.get("shortLabel"))] = (
                    "not a name that an address can be made of"
                )
            elif name in seen:
                self.skipped[name] = "listed twice"
            elif not _is_collection(entry):
                seen.add(name)
                yield self._light(name, entry)
            elif depth == DEEPEST:
                self.skipped[name] = f"more than {DEEPEST} collections within each other"
            else:
                seen.add(name)
                try:
                    inner = entry if "datasets" in entry else self._document(name)
                except DownloadError as error:
                    self.skipped[name] = str(error)
                    continue
                yield from self._below(inner, depth + 1, seen)

    def _document(self, name: str, document: str = "dataset.json") -> dict[str, Any]:
        found = self.download.json(f"{self.url}/{name}/{document}")
        return found if isinstance(found, dict) else {}

    def _light(self, name: str, entry: dict[str, Any]) -> Record:
        return Record(
            self.name,
            name,
            title=str(entry.get("shortLabel") or ""),
            version=str(entry.get("md5") or ""),
            organism=organism_of(_facet(entry, "organisms")),
            n_cells=count(entry.get("sampleCount")),
            tissues=_facet(entry, "body_parts"),
            diseases=_facet(entry, "diseases"),
            assays=_facet(entry, "assays"),
        )

    def find(self, id: str, version: str = "") -> list[Record]:
        """The dataset of this name; its collections are not listed for it."""
        record = self.resolve(Record(self.name, id))
        if version not in ("", record.version):
            raise ValueError(
                f"{self.name} has {id!r} in version {record.version!r}; the plan pins {version!r}. "
                "Look at what changed, and pin that one."
            )
        return [record]

    def resolve(self, record: Record) -> Record:
        """The record with files, studies and the unit that its authors give; 2 or 3 requests."""
        if record.files:
            return record
        if not NAME.fullmatch(record.id):
            raise ValueError(
                f"{record.id!r} is not the name of a dataset of {self.url}: it is one as in "
                "'hoc/all-heart'."
            )
        leaf = self._document(record.id)
        if _is_collection(leaf):
            inside = listed([e.get("name") for e in _entries(leaf)], 3)
            raise ValueError(f"{record.id!r} is a collection: give a dataset of it ({inside}).")
        try:
            about = self._document(record.id, "desc.json")
        except DownloadError:
            about = {}  # few have none

        def text(key: str) -> str:
            return str(about.get(key) or "").strip()

        pmid = re.match(r"\d+", text("pmid"))
        # what only the leaf knows, below what the list has said
        leaf_record = self._light(record.id, leaf)
        names = [f.name for f in fields(Record)]
        said = {n: getattr(record, n) or getattr(leaf_record, n) for n in names}
        said["title"] = text("title") or said["title"]
        said["unit"] = text("unitDesc") or str(leaf.get("unit") or "")
        said["files"] = self._files(record.id, leaf)
        said["studies"] = find_studies(
            f"PMID:{pmid.group()}" if pmid else None, *(about.get(k) for k in STUDIES)
        )
        return Record(**said)

    def _files(self, name: str, leaf: dict[str, Any]) -> tuple[RemoteFile, ...]:
        versions = leaf.get("fileVersions")
        versions = versions if isinstance(versions, dict) else {}
        matrix = _basename(versions.get("outMatrix")) or "exprMatrix.tsv.gz"
        found = MATRIX.fullmatch(matrix)
        if not found:
            raise ValueError(
                f"{self.url}/{name}: its matrix is {matrix!r}, which is neither exprMatrix.tsv.gz "
                "nor matrix.mtx.gz: leave the dataset out."
            )
        # in the cache a file has our name for it, whatever the server says
        parts = [("outMatrix", matrix, matrix.removeprefix(found["prefix"]))]
        meta = _basename(versions.get("outMeta")) or "meta.tsv"
        parts.append(("outMeta", meta, "meta.tsv.gz" if meta.endswith(".gz") else "meta.tsv"))
        if "mtx" in parts[0][2]:
            parts += self._tables(name, found["prefix"], versions)
        return tuple(
            self._remote(name, versions.get(key), theirs, ours) for key, theirs, ours in parts
        )

    def _tables(
        self, name: str, prefix: str, versions: dict[str, Any]
    ) -> Iterator[tuple[str, str, str]]:
        """Features and barcodes of an MTX: as a version, the list of files or custom names them."""
        try:
            lines = self.download.text(f"{self.url}/{name}/files.txt").split()
        except DownloadError:
            lines = []
        there = [_basename(line) for line in lines]
        for key, names in (("features", ("features", "genes")), ("barcodes", ("barcodes",))):
            usual = [f"{prefix}{n}.tsv{gz}" for n in names for gz in (".gz", "")]
            told = _basename(versions.get(key))
            theirs = next((f for f in (told, *usual) if f in there), told or usual[0])
            yield key, theirs, f"{key}.tsv{'.gz' if theirs.endswith('.gz') else ''}"

    def _remote(self, name: str, version: Any, theirs: str, ours: str) -> RemoteFile:
        if not NAME.fullmatch(theirs):
            raise ValueError(f"{self.url}/{name}: {theirs!r} is not the name of a file.")
        version = version if isinstance(version, dict) and _basename(version) == theirs else {}
        md5 = version.get("md5")
        return RemoteFile(
            ours,
            f"{self.url}/{name}/{theirs}",
            size=count(version.get("size")),
            md5=md5 if isinstance(md5, str) and re.fullmatch("[0-9a-fA-F]{8,32}", md5) else None,
        )

    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The dataset: cells that both the matrix and the metadata have, values as they stand."""
        paths = {name.removesuffix(".gz"): path for name, path in files.items()}
        if "matrix.mtx" in paths:
            reading = read_mtx(*(paths[p] for p in ("matrix.mtx", "features.tsv", "barcodes.tsv")))
        else:
            reading = read_table(paths["exprMatrix.tsv"])
        where = f"{record.source} {record.id}"
        genes = reading.var.index.astype(str)
        if genes.str.match(REGION).mean() > 0.5:
            raise ValueError(
                f"{where}: its rows are chromatin regions, such as {genes[0]!r}, not genes: leave "
                "the dataset out."
            )
        meta = _read_meta(paths["meta.tsv"], where)
        known = reading.obs.index.isin(meta.index)
        if not known.any():
            raise ValueError(
                f"{where}: no cell of the matrix ({listed(reading.obs.index, 2)}) is in meta.tsv "
                f"({listed(meta.index, 2)}): leave the dataset out."
            )
        reading = reading.only(known, "not in meta.tsv")
        if n := len(meta) - int(known.sum()):
            note = f"{n} of {len(meta)} cells of meta.tsv are not in the matrix"
            reading = replace(reading, notes=(*reading.notes, note))
        obs = standardise(meta.loc[reading.obs.index], record)
        return replace(reading, obs=obs)


def _entries(listing: Any) -> list[dict[str, Any]]:
    return dicts(listing.get("datasets")) if isinstance(listing, dict) else []


def _is_collection(entry: dict[str, Any]) -> bool:
    return bool(
        entry.get("isCollection")
        or entry.get("datasets")
        or entry.get("datasetCount")
        or entry.get("collectionCount")
    )


def _facet(entry: dict[str, Any], name: str) -> tuple[str, ...]:
    """Values of a facet: of ``facets``, or where it stood before there were facets."""
    facets = entry.get("facets")
    return texts((facets.get(name) if isinstance(facets, dict) else None) or entry.get(name))


def _basename(version: Any) -> str:
    """Name of a file out of a version's path, or of a path; the folders are the server's own."""
    path = version.get("fname") if isinstance(version, dict) else version
    return str(path or "").replace("\\", "/").rsplit("/", 1)[-1]


def _read_meta(path: Path, where: str) -> pd.DataFrame:
    """The table of cells: by its first column, the standard columns as text."""
    options = {"sep": "\t", "quoting": csv.QUOTE_NONE, "low_memory": False}
    options |= {"encoding": "utf-8-sig", "encoding_errors": "replace", "index_col": False}
    try:
        columns = pd.read_csv(path, nrows=0, **options).columns
        as_text = [columns[0], *recognise(columns).values()]
        missing = {"keep_default_na": False, "na_values": ["", "NA", "NaN", "nan"]}
        meta = pd.read_csv(path, dtype=dict.fromkeys(as_text, str), **missing, **options)
    except (ValueError, EOFError, OSError, zlib.error) as error:  # ParserError is a ValueError
        raise ValueError(f"{where}: {path.name} can't be read: {error}") from error
    cells = meta.iloc[:, 0]
    if cells.isna().any() or cells.duplicated().any():
        raise ValueError(
            f"{where}: the first column of {path.name}, {columns[0]!r}, should name each cell "
            f"once; {listed(cells[cells.duplicated()].unique(), 3)} are there more than once, and "
            f"{cells.isna().sum()} cells have no name: leave the dataset out."
        )
    return meta.set_index(columns[0]).rename_axis(None)
