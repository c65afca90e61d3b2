"""TISCH2: tumour microenvironments with uniform annotation (Han et al. 2023, NAR 51:D1425)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats import join_meta, read_10x_h5, read_meta
from scgm_scvi.atlas.formats._reading import Reading
from scgm_scvi.atlas.sources._record import Record

from ._source import Source

__all__ = ["TischSource"]

MATRICES = "https://biostorage.s3.ap-northeast-2.amazonaws.com"
CITATION = "Han et al. 2023, Nucleic Acids Research 51:D1425 (TISCH2)"
LATIN = {"human": "Homo sapiens", "mouse": "Mus musculus"}
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
# EFO's names of the platforms that TISCH2 names otherwise
ASSAYS = {
    "10x Genomics": "10x technology",
    "GEXSCOPE": "GEXSCOPE technology",
    "mCEL-Seq2": "CEL-seq2",
}
# columns that say where a cell's sample was taken, the plainest first
SAMPLES = ("Source", "Tissue", "Site")
NORMAL = r"\b(?:normal|healthy|adjacent|non[- _]?tumou?r|non[- _]?malignant|juxta-?tumou?r|nat)\b"
ORGANS = {
    "blood": r"blood|pbmcs?",
    "bone marrow": r"bone marrow|bmmcs?|bm",
    "lymph node": r"lymph[- _]?nodes?|t?ln",
    "pleural fluid": r"pleural (?:fluid|effusion)s?",
    "ascitic fluid": r"ascites|ascitic fluid",
    "brain": r"brain",
    "liver": r"liver",
    "lung": r"lung",
    "adrenal gland": r"adrenal(?: gland)?",
    "spleen": r"spleen",
}
ELSEWHERE = r"metasta|\bmets?\b"


class TischSource(Source):
    """TISCH2's expression matrices and tables of cells.

    The catalogue ships with the package: the 187 studies of the site's own table of datasets of
    September 2022, with its cell numbers. (Its three collections of blood of healthy donors are
    left out, as the site knows their files by several names.) The matrices lie on another server
    than the tables; a ``base_url`` stands for both.

    Values are ln(1 + 10,000 x / sum), of counts or of what else the study had; there are no counts.

    Cells get the standard columns: ``cell_type`` (``Celltype (major-lineage)``), ``donor`` (the
    first of ``Patient``, ``Sample`` and the dataset that is known), ``disease`` (the cancer's, or
    ``"normal"`` where ``Source``, ``Tissue`` or ``Site`` says so), ``tissue`` (what these columns
    say, else the cancer's organ, unless the sample is a metastasis), ``sex``, ``assay`` and
    ``organism``. The table's own columns remain.

    Examples
    --------
    >>> records = {r.id: r for r in TischSource(download=None).catalog()}
    >>> records["PAAD_CRA001160"].n_cells, records["PAAD_CRA001160"].diseases
    (57443, ('pancreatic adenocarcinoma',))
    """

    name = "tisch"
    base_url = "http://tisch.comp-genomics.org"
    insecure_hosts: ClassVar[tuple[str, ...]] = ("tisch.comp-genomics.org",)  # it has no https
    intervals: ClassVar[dict[str, float]] = {
        "tisch.comp-genomics.org": 5.0
    }  # seconds between requests

    def catalog(self) -> Iterator[Record]:
        """Every dataset of the table that ships with the package."""
        matrices = MATRICES if self.url == self.base_url else self.url
        for row in _datasets().itertuples():
            h5, table = f"{row.Index}_expression.h5", f"{row.Index}_CellMetainfo_table.tsv"
            disease, tissue = _cancers().loc[row.cancer]
            yield Record(
                source=self.name,
                id=row.Index,
                files=(
                    RemoteFile(h5, f"{matrices}/TISCH_2022/{row.Index}/{h5}"),
                    RemoteFile(table, f"{self.url}/static/data/{row.Index}/{table}"),
                ),
                title=" ".join(filter(None, [row.Index.replace("_", " "), row.treatment])),
                version="2022-09",
                organism=row.species,
                citation=CITATION,
                n_cells=int(row.n_cells) if row.n_cells else None,
                tissues=(tissue,) if tissue else (),
                diseases=(disease,),
                assays=(ASSAYS.get(row.platform, row.platform),),
                studies=tuple(filter(None, [row.study, row.pmid and f"PMID:{row.pmid}"])),
            )

    def read(self, record: Record, files: dict[str, Path]) -> Reading:
        """The dataset.

        Raises
        ------
        ValueError
            A file is damaged, the two have fewer than half of their cells in common, or the genes
            are those of another species.
        KeyError
            The dataset is not in the table that ships with the package.
        """
        if record.id not in _datasets().index:
            raise KeyError(f"{record.id!r} is no dataset of TISCH2 that this package knows.")
        h5, table = (files[f.name] for f in record.files)
        reading = join_meta(read_10x_h5(h5), read_meta(table, "Cell"), record.id)
        row = _datasets().loc[record.id]
        _check_species(list(reading.var.index), row.species, record.id)
        disease, tissue = _cancers().loc[row.cancer]
        if row.stage == "Metastatic":
            tissue = ""
        obs = reading.obs
        # the authors' own columns of these names keep another one
        taken = [c for c in ("donor", "disease", "tissue", "sex", "assay") if c in obs]
        obs = obs.rename(columns={c: f"{c} (original)" for c in taken})
        if "Celltype (major-lineage)" in obs:
            obs["cell_type"] = obs["Celltype (major-lineage)"]
        obs["donor"] = _first_known(obs, ("Patient", "Sample"), record.id)
        obs["disease"], obs["tissue"] = _samples(obs, disease, tissue)
        for column in ("Gender", "Sex"):
            if column in obs:
                obs["sex"] = obs[column].map(lambda s: SEXES.get(str(s).strip().lower(), np.nan))
        obs["assay"] = ASSAYS.get(row.platform, row.platform)
        obs["organism"] = LATIN[row.species]
        reading.obs = obs
        return reading


@cache
def _table(name: str) -> pd.DataFrame:
    text = package_files("scgm_scvi.atlas").joinpath("data", name)
    with text.open(encoding="utf-8") as f:
        return pd.read_csv(f, sep="\t", dtype=str, index_col=0, keep_default_na=False)


def _datasets() -> pd.DataFrame:
    return _table("tisch.tsv")


def _cancers() -> pd.DataFrame:
    return _table("tisch_cancers.tsv")


def _first_known(obs: pd.DataFrame, columns: tuple[str, ...], otherwise: str) -> pd.Series:
    """For each cell the first of the columns that says something."""
    found = pd.Series(np.nan, index=obs.index, dtype=object)
    for column in columns:
        if column in obs:
            said = obs[column].map(lambda v: v if pd.isna(v) else _name(v))
            found = found.where(found.notna(), said)
    return found.fillna(otherwise)


def _name(value: object) -> str:
    """A patient's number as a name: 3.0, of a column with gaps, is 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _samples(obs: pd.DataFrame, disease: str, tissue: str) -> tuple[pd.Series, pd.Series]:
    """Disease and tissue of each cell, as far as the columns of its sample tell."""
    diseases = pd.Series(disease, index=obs.index, dtype=object)
    tissues = pd.Series(tissue or np.nan, index=obs.index, dtype=object)
    for column in reversed([c for c in SAMPLES if c in obs]):
        for value in obs[column].dropna().unique():
            said, here = str(value).lower().replace("_", " "), obs[column] == value
            organs = [o for o, words in ORGANS.items() if re.search(rf"\b(?:{words})\b", said)]
            if len(organs) == 1:
                tissues[here] = organs[0]
            elif re.search(ELSEWHERE, said):
                tissues[here] = np.nan
            if re.search(NORMAL, said):
                diseases[here] = "normal"
    return diseases, tissues


def _check_species(symbols: list[str], species: str, dataset: str) -> None:
    """Human symbols are in capitals, those of mice are not."""
    letters = [s for s in symbols if re.fullmatch(r"[A-Za-z]{2}[A-Za-z0-9]*", s)]
    capitals = sum(s.isupper() for s in letters)
    found = "human" if 2 * capitals > len(letters) else "mouse"
    if letters and found != species:
        raise ValueError(
            f"{dataset}: is listed as {species}, but {capitals} of {len(letters)} gene symbols are "
            f"in capitals, as those of a {found} would: such as {symbols[:3]}."
        )
