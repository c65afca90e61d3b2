"""CELLxGENE Discover: one h5ad a dataset, in its schema, with counts.

Sources: the Curation API (https://api.cellxgene.cziscience.com/curation/ui/) and the dataset schema
(https://github.com/chanzuckerberg/single-cell-curation/tree/main/schema), versions 2 to 7.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pandas as pd

from scgm_scvi._errors import listed
from scgm_scvi.atlas.download._http import DownloadError
from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats import read_h5ad
from scgm_scvi.atlas.formats._reading import Reading
from scgm_scvi.atlas.sources._record import Record
from scgm_scvi.atlas.sources._studies import find_studies

from ._columns import LATIN, organism_of, standardise
from ._json import count, dicts, several, texts
from ._source import TISSUE_TYPES, Source

__all__ = ["CellxgeneSource"]

# Not of single cells' RNA. Multiome is: its counts are those of the RNA.
OTHER_ASSAYS = re.compile(
    r"visium|slide-?seq|stereo-?seq|merfish|xenium|cosmx|spatial|atac-?seq|methyl|\bsn?mc\w*-seq",
    re.IGNORECASE,
)
# before schema 5 the tissue's own label said so
NO_TISSUE = re.compile(r"\((organoid|cell culture|cell line)\)\s*$", re.IGNORECASE)
# before schema 7
EARLIER = {"cell culture": "primary cell culture"}


class CellxgeneSource(Source):
    """Datasets of human and mouse cells in `CELLxGENE Discover <https://cellxgene.cziscience.com>`_.

    Read are the cells that no other dataset there holds as well (``is_primary_data``), of tissues
    (not of cultures, organoids or cell lines, unless they are asked for), by assays of single
    cells' RNA; how many others there are the reading's ``notes`` say. A dataset of a pre-analysis
    collection (``is_pre_analysis``) is left out, unless it is asked for: the schema lets it have
    neither cell types nor embeddings.

    A dataset's version never changes, so a record says forever the same.
    """

    name: ClassVar[str] = "cellxgene"
    base_url: ClassVar[str] = "https://api.cellxgene.cziscience.com"

    def catalog(self) -> Iterator[Record]:
        """All datasets with primary cells of human or mouse; one request."""
        self.skipped = {}
        for found in self._index("datasets"):
            id_ = str(found.get("dataset_id") or "")
            record = self._record(id_, found)
            if reason := _refusal(id_, found, record, self.tissue_types):
                self.skipped[id_ or str(found.get("title") or "?")] = reason
            else:
                yield record

    def resolve(self, record: Record) -> Record:
        """The record with its files, of its own version or else of the newest one; one request."""
        if record.files:
            return record
        versions = self._index(f"datasets/{quote(record.id, safe='')}/versions")
        for found in versions:
            if record.version in ("", found.get("dataset_version_id")):
                full = self._record(record.id, found)
                if full.files:
                    return full
        there = listed([v.get("dataset_version_id") for v in versions], 3)
        raise ValueError(
            f"cellxgene {record.id}: no h5ad of version {record.version or 'any'!r}; its versions "
            f"are {there}."
        )

    def _index(self, path: str) -> list[dict[str, Any]]:
        url = f"{self.url}/curation/v1/{path}"
        found = self.download.json(url)
        if not isinstance(found, list):
            raise DownloadError(f"{url}: no list of datasets; its service may have changed.")
        return dicts(found)

    def _record(self, id_: str, found: dict[str, Any]) -> Record:
        version = str(found.get("dataset_version_id") or "")
        files = [
            RemoteFile("dataset.h5ad", asset["url"], size=count(asset.get("filesize")))
            for asset in dicts(found.get("assets"))
            if asset.get("filetype") == "H5AD" and asset.get("url")
        ]
        cells = count(found.get("primary_cell_count"))
        if cells is None:
            cells = count(found.get("cell_count"))
        citation = str(found.get("citation") or "")
        return Record(
            self.name,
            id_,
            tuple(files[:1]),
            title=str(found.get("title") or ""),
            version=version,
            organism=organism_of(_labels(found, "organism")),
            licence="CC BY 4.0",  # of all datasets there, by the terms of contribution
            citation=citation,
            n_cells=cells,
            tissues=_labels(found, "tissue"),
            diseases=_labels(found, "disease"),
            assays=_labels(found, "assay"),
            studies=find_studies(found.get("collection_doi"), citation),
        )

    def read(
        self, record: Record, files: dict[str, Path], *, pre_analysis: bool = False
    ) -> Reading:
        """The dataset, its primary cells alone.

        Parameters
        ----------
        record, files
            As :meth:`catalog` and :meth:`fetch` give them.
        pre_analysis
            Take cells of pre-analysis collections, too.
        """
        path = next(iter(files.values()))
        reading = read_h5ad(path)
        obs = standardise(reading.obs, record)
        reading = replace(reading, obs=obs)

        if "is_primary_data" in obs:
            primary = obs["is_primary_data"].astype(str) == "True"
            reading = reading.only(primary, "not primary data")
        if "is_pre_analysis" in reading.obs and not pre_analysis:
            before = reading.obs["is_pre_analysis"].astype(str) == "True"
            reading = reading.only(~before, "of a pre-analysis collection")
        what = _listed_kinds(self.tissue_types)
        reading = reading.only(_kinds(reading.obs).isin(self.tissue_types), f"not of {what}")
        if "assay" in reading.obs:
            other = reading.obs["assay"].astype(str).str.contains(OTHER_ASSAYS)
            reading = reading.only(~other, "not an assay of single cells' RNA")
        if not len(reading.obs):
            raise ValueError(
                f"{record.source} {record.id}: none of its {len(obs)} cells can be used "
                f"({'; '.join(reading.notes)}): leave the dataset out."
            )
        return reading

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise unless :meth:`read` takes these options."""
        super().check_options(options)
        if not isinstance(options.get("pre_analysis", False), bool):
            raise ValueError(
                f"has pre_analysis = {options['pre_analysis']!r}; it must be true or false."
            )


def _listed_kinds(kinds: Collection[str]) -> str:
    """Where cells come from, in words: ``"a tissue or a cell line"``."""
    return " or ".join(f"a{'n' * (k[0] == 'o')} {k}" for k in TISSUE_TYPES if k in kinds)


def _refusal(id_: str, found: dict[str, Any], record: Record, wanted: Collection[str]) -> str:
    """Why a dataset is of no use here, or nothing."""
    primary = set(several(found.get("is_primary_data")))
    if not id_:
        return "no dataset_id"
    if record.organism not in LATIN:
        return f"of {record.organism or 'an organism that is not said'}, not of human or mouse"
    # lists of truth values; words before schema 3
    if primary and not primary & {True, "PRIMARY", "BOTH"}:
        return "no primary data: all its cells are in other datasets"
    kinds = {_kind(t) for t in several(found.get("tissue"))}
    if kinds and not kinds & set(wanted):
        return f"not of {_listed_kinds(wanted)}"
    if record.assays and all(OTHER_ASSAYS.search(a) for a in record.assays):
        return f"not of single cells' RNA: {', '.join(record.assays)}"
    return "" if record.files else "no h5ad"


def _labels(found: dict[str, Any], key: str) -> tuple[str, ...]:
    values = [v.get("label") if isinstance(v, dict) else v for v in several(found.get(key))]
    # where cells have two diseases, both are in one label
    return texts([part for v in texts(values) for part in v.split(" || ")])


def _kind(tissue: Any) -> str:
    label = tissue.get("label", "") if isinstance(tissue, dict) else str(tissue)
    kind = tissue.get("tissue_type") if isinstance(tissue, dict) else None
    return EARLIER.get(str(kind), str(kind)) if kind else _kind_of_label(str(label))


def _kind_of_label(label: str) -> str:
    found = NO_TISSUE.search(label)
    kind = found[1].lower() if found else "tissue"
    return EARLIER.get(kind, kind)


def _kinds(obs: pd.DataFrame) -> pd.Series:
    """Where each cell comes from, one of :data:`TISSUE_TYPES` if the file follows the schema."""
    if "tissue_type" in obs:
        return obs["tissue_type"].astype(str).replace(EARLIER)
    if "tissue" in obs:
        return obs["tissue"].astype(str).map(_kind_of_label)
    return pd.Series("tissue", obs.index)
