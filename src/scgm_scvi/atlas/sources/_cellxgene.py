"""CELLxGENE Discover: one h5ad a dataset, in its schema, with counts.

Sources: the Curation API (https://api.cellxgene.cziscience.com/curation/ui/) and the dataset schema
(https://github.com/chanzuckerberg/single-cell-curation/tree/main/schema), versions 2 to 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
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
from ._source import Source

__all__ = ["CellxgeneSource"]

# Not of single cells' RNA. Multiome is: its counts are those of the RNA.
OTHER_ASSAYS = re.compile(
    r"visium|slide-?seq|stereo-?seq|merfish|xenium|cosmx|spatial|atac-?seq|methyl|\bsn?mc\w*-seq",
    re.IGNORECASE,
)
# before schema 5 the tissue's own label said so
NO_TISSUE = re.compile(r"\((?:organoid|cell culture|cell line)\)\s*$", re.IGNORECASE)


class CellxgeneSource(Source):
    """Datasets of human and mouse cells in `CELLxGENE Discover <https://cellxgene.cziscience.com>`_.

    Read are the cells that no other dataset there holds as well (``is_primary_data``), of tissues
    (not of cultures, organoids or cell lines), by assays of single cells' RNA; how many others
    there are the reading's ``notes`` say.

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
            if reason := _refusal(id_, found, record):
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

    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The dataset, its primary cells alone."""
        path = next(iter(files.values()))
        reading = read_h5ad(path)
        obs = standardise(reading.obs, record)
        reading = replace(reading, obs=obs)

        if "is_primary_data" in obs:
            primary = obs["is_primary_data"].astype(str) == "True"
            reading = reading.only(primary, "not primary data")
        reading = reading.only(_of_tissue(reading.obs), "not of a tissue")
        if "assay" in reading.obs:
            other = reading.obs["assay"].astype(str).str.contains(OTHER_ASSAYS)
            reading = reading.only(~other, "not an assay of single cells' RNA")
        if not len(reading.obs):
            raise ValueError(
                f"{record.source} {record.id}: none of its {len(obs)} cells can be used "
                f"({'; '.join(reading.notes)}): leave the dataset out."
            )
        return reading


def _refusal(id_: str, found: dict[str, Any], record: Record) -> str:
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
    if kinds and "tissue" not in kinds:
        return "not of a tissue"
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
    return kind or ("culture" if NO_TISSUE.search(str(label)) else "tissue")


def _of_tissue(obs: pd.DataFrame) -> np.ndarray:
    if "tissue_type" in obs:
        return (obs["tissue_type"].astype(str) == "tissue").to_numpy()
    if "tissue" in obs:
        return ~obs["tissue"].astype(str).str.contains(NO_TISSUE).to_numpy()
    return np.ones(len(obs), dtype=bool)
