"""The Human Cell Atlas' Data Coordination Platform, through its index service, Azul.

Source: Azul's API (https://service.azul.data.humancellatlas.org) and the facets of its metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from scgm_scvi.atlas.download._http import DownloadError
from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats import read_file, read_mtx
from scgm_scvi.atlas.formats._reading import Reading
from scgm_scvi.atlas.sources._record import Record
from scgm_scvi.atlas.sources._studies import find_studies

from ._columns import organism_of, standardise
from ._json import count, dicts, several, texts
from ._source import Downloads, Source

__all__ = ["HCASource"]

PAGE = 100  # projects; the most that the service gives
OPEN = {"NRES"}  # "no restriction"; mostly nothing is said
READABLE = re.compile(r"(?i)\.((h5ad|loom|h5)(\.tar)?|mtx\.tar)(\.gz)?$")
# a matrix in three files: what stands before and after says which belong together
PART = re.compile(r"(?i)(matrix\.mtx|(?:genes|features|barcodes)\.tsv)(\.gz)?$")
PARTS = {"matrix.mtx", "features.tsv", "barcodes.tsv"}


@dataclass
class _Matrix:
    """A file of a project, and where it stands in the trees of its project."""

    file: dict[str, Any]
    strata: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.file.get("name") or "")

    @property
    def uuid(self) -> str:
        return str(self.file.get("uuid") or "")

    def overlaps(self, other: _Matrix) -> bool:
        """Whether both may hold the same cells: no facet tells them apart."""
        facets = self.strata.keys() & other.strata.keys()
        return all(set(self.strata[f]) & set(other.strata[f]) for f in facets)


class HCASource(Source):
    """Matrices of the projects of the `Human Cell Atlas <https://data.humancellatlas.org>`_.

    A record is a matrix file, not a project: a project has matrices by species, organ and method,
    which differ in genes and in scale, and may be a hundred times as large as another one; a file is
    also what has a version and a checksum.

    A project may have matrices twice, made by the platform's own pipelines (counts, no cell types)
    and contributed by its authors (anything). Of the same species, stage, organ and method, the
    contributed ones are left out, or the same cells would be in the atlas twice.

    Parameters
    ----------
    download, base_url
        As for every source.
    catalog_name
        Of the service's catalogues; its default one if not given.
    """

    name: ClassVar[str] = "hca"
    base_url: ClassVar[str] = "https://service.azul.data.humancellatlas.org"

    def __init__(
        self, download: Downloads, base_url: str | None = None, catalog_name: str | None = None
    ) -> None:
        super().__init__(download, base_url)
        self.catalog_name = catalog_name
        self._listed: dict[str, Record] = {}

    def catalog(self) -> Iterator[Record]:
        """All matrices of open projects that can be read; a request for 100 projects."""
        self.skipped = {}
        for hit in self._hits():
            yield from self._records(hit)

    def _hits(self) -> Iterator[dict[str, Any]]:
        url = f"{self.url}/index/projects"
        name = self.catalog_name or self._default_catalog()
        page = self._page(url, catalog=name, size=str(PAGE))
        seen = {url}
        while True:
            yield from dicts(page.get("hits"))
            url = (page.get("pagination") or {}).get("next")
            if not url:
                return
            if url in seen:
                raise DownloadError(f"{url}: this page of projects says it is followed by itself.")
            seen.add(url)
            page = self._page(url)

    def _page(self, url: str, **params: str) -> dict[str, Any]:
        page = self.download.json(url, **params)
        if not (isinstance(page, dict) and isinstance(page.get("hits"), list)):
            raise DownloadError(f"{url}: no page of projects; its service may have changed.")
        return page

    def _default_catalog(self) -> str:
        url = f"{self.url}/index/catalogs"
        found = self.download.json(url).get("default_catalog")
        if not found:
            raise DownloadError(f"{url}: names no default_catalog; give the catalog_name.")
        return found

    def stands_for(self, id: str, record: Record) -> bool:
        """A project's id stands for all its matrices."""
        return id == record.id or (len(id) == 36 and record.id.startswith(f"{id[:8]}-"))

    def resolve(self, record: Record) -> Record:
        """The record as the catalogue has it, which is listed for the first one without files."""
        if record.files:
            return record
        if not self._listed:
            self._listed = {r.id: r for r in self.catalog()}
        found = self._listed.get(record.id)
        if found is None or record.version not in ("", found.version):
            there = f"has it in version {found.version}" if found else "does not have it"
            raise ValueError(
                f"hca {record.id} {record.version}: the catalogue of {self.url} {there}: list the "
                "source again, or name the catalogue that had it."
            )
        return found

    def _records(self, hit: dict[str, Any]) -> Iterator[Record]:
        project = next(iter(dicts(hit.get("projects"))), {})
        id_ = str(project.get("projectId") or hit.get("entryId") or "")
        if restrictions := set(texts(project.get("dataUseRestriction"))) - OPEN:
            self.skipped[id_] = f"its data's use is restricted: {', '.join(sorted(restrictions))}"
            return
        if project.get("accessible") is False:
            self.skipped[id_] = "not accessible without a login"
            return
        ours = self._groups(id_, _matrices(project.get("matrices")))
        theirs = self._groups(id_, _matrices(project.get("contributedAnalyses")))
        groups = list(ours)
        for group in theirs:
            if twin := next((o for o in ours if o[0].overlaps(group[0])), None):
                self._skip(id_, group[0], f"the platform's own {twin[0].name} has its cells")
            else:
                groups.append(group)
        if not groups and id_ not in self.skipped:
            self.skipped[id_] = "no matrix that can be read"
        for group in groups:
            yield self._record(id_, hit, project, group, alone=len(groups) == 1)

    def _groups(self, id_: str, matrices: Iterable[_Matrix]) -> list[list[_Matrix]]:
        """Files that are a dataset together: mostly one, or the three of an MTX."""
        whole, parts = [], {}
        for matrix in matrices:
            url = matrix.file.get("azul_url") or matrix.file.get("url")
            if matrix.file.get("isIntermediate"):
                continue  # its cells are in another file of the project
            elif not (matrix.uuid and url):
                self._skip(id_, matrix, "no uuid, or no address to download it from")
            elif READABLE.search(matrix.name):
                whole.append([matrix])
            elif part := PART.search(matrix.name):
                parts.setdefault(matrix.name[: part.start()], []).append(matrix)
            else:
                self._skip(id_, matrix, "none of h5ad, loom, 10x h5, or mtx with its tables")
        for group in parts.values():
            if {_local(m.name).removesuffix(".gz") for m in group} == PARTS and len(group) == 3:
                whole.append(sorted(group, key=lambda m: "matrix.mtx" not in _local(m.name)))
            else:
                for matrix in group:
                    self._skip(id_, matrix, "its matrix, features and barcodes are not all there")
        return whole

    def _skip(self, id_: str, matrix: _Matrix, reason: str) -> None:
        self.skipped[f"{id_[:8]}-{matrix.uuid} ({matrix.name or 'no name'})"] = reason

    def _record(
        self,
        id_: str,
        hit: dict[str, Any],
        project: dict[str, Any],
        group: list[_Matrix],
        alone: bool,
    ) -> Record:
        first = group[0]
        cells = count(first.file.get("matrixCellCount"))
        if cells is None and alone:
            cells = count(project.get("estimatedCellCount"))

        def said(facet: str, *entities: str) -> tuple[str, ...]:
            """What the file's place in the tree says, or the first entity of the project to do."""
            values = first.strata.get(facet) or next(
                filter(None, (_values(hit.get(e), facet) for e in entities)), []
            )
            return tuple(dict.fromkeys(values))

        diseases = next(
            filter(None, (_values(hit.get(e), "disease") for e in ("specimens", "samples"))),
            _values(hit.get("donorOrganisms"), "disease"),
        )
        publications = dicts(project.get("publications"))
        return Record(
            self.name,
            f"{id_[:8]}-{first.uuid}",
            tuple(_remote(m) for m in group),
            title=": ".join(filter(None, (_text(project.get("projectTitle")), first.name))),
            version=str(first.file.get("version") or ""),
            organism=organism_of(said("genusSpecies", "donorOrganisms")),
            citation=_text([p.get("publicationTitle") for p in publications]),
            n_cells=cells,
            tissues=said("organ", "specimens", "samples"),
            diseases=tuple(diseases),
            assays=said("libraryConstructionApproach", "protocols"),
            studies=find_studies(
                [[p.get("doi"), p.get("publicationUrl")] for p in publications],
                [a.get("accession") for a in dicts(project.get("accessions"))],
            ),
        )

    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The matrix, with what its project says of all cells alike."""
        paths = {name.removesuffix(".gz"): path for name, path in files.items()}
        if PARTS <= paths.keys():
            reading = read_mtx(*(paths[p] for p in ("matrix.mtx", "features.tsv", "barcodes.tsv")))
        else:
            (path,) = files.values()
            reading = read_file(path)
        obs = reading.obs.rename(columns=_donor_id(reading.obs.columns))
        return replace(reading, obs=standardise(obs, record))


def _donor_id(columns: Iterable[str]) -> dict[str, str]:
    return {} if "donor" in columns else {"donor_id": "donor"}


def _matrices(tree: Any) -> list[_Matrix]:
    """Files of a tree of strata, each once, with all places it has there."""
    found: dict[str, _Matrix] = {}
    for strata, file in _leaves(tree, {}):
        matrix = found.setdefault(str(file.get("uuid") or id(file)), _Matrix(file))
        for facet, value in strata.items():
            values = matrix.strata.setdefault(facet, [])
            values += [] if value in values else [value]
    return list(found.values())


def _leaves(node: Any, strata: dict[str, str]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Files below a node: ``{facet: {value: node}}``, or a list of files."""
    if isinstance(node, list):
        yield from ((strata, file) for file in dicts(node))
    elif isinstance(node, dict):
        for facet, below in node.items():
            if isinstance(below, dict):
                for value, deeper in below.items():
                    yield from _leaves(deeper, {**strata, facet: value})
            else:
                yield from _leaves(below, strata)


def _values(entities: Any, facet: str) -> list[str]:
    """All values of a facet in the entities of a hit."""
    return list(texts([v for e in dicts(entities) for v in several(e.get(facet))]))


def _text(value: Any) -> str:
    return "; ".join(texts(value))


def _local(name: str) -> str:
    """Name of a file in the cache; never the server's, which might be a path."""
    if part := PART.search(name):
        return part.group().lower().replace("genes", "features")
    return f"matrix{READABLE.search(name).group().lower()}"


def _remote(matrix: _Matrix) -> RemoteFile:
    file = matrix.file
    return RemoteFile(
        _local(matrix.name),
        file.get("azul_url") or file["url"],
        size=count(file.get("size")),
        sha256=file.get("sha256") or None,
    )
