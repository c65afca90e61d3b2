"""Which of the authors' columns are the standard ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from scgm_scvi.atlas.sources._record import Record

__all__ = ["LATIN", "organism_of", "recognise", "standardise"]

# What authors call the standard columns, best first; letters and digits alone, in lower case.
# Names that say something else as often as not are left out: "cluster" and "annotation" may be
# numbers, "stage" the stage of a tumour, "type" anything.
NAMES: dict[str, tuple[str, ...]] = {
    "cell_type": (
        *("celltype", "celltypes", "celltypename", "celltypeannotation", "annotatedcelltype"),
        *("authorcelltype", "biosamplecelltype"),
    ),
    "tissue": ("tissue", "organ", "tissuename", "bodypart", "region", "regionname"),
    "disease": ("disease", "diagnosis", "diseasestate", "diseasestatus", "condition"),
    "assay": ("assay", "method", "technology", "librarypreparation", "sequencingmethod"),
    "donor": (
        *("donor", "donorid", "donorname", "patient", "patientid", "individual", "individualid"),
        *("subject", "subjectid", "participant", "participantid", "biosamplesourceid"),
    ),
    "sex": ("sex", "gender", "biosamplesourcegender"),
    "development_stage": (
        *("developmentstage", "developmentalstage", "devstage", "lifestage", "age"),
        *("biosamplesourcelifestage",),
    ),
    "organism": ("organism", "species"),
}
LATIN = {"human": "Homo sapiens", "mouse": "Mus musculus"}


def recognise(columns: Iterable[str]) -> dict[str, str]:
    """Standard columns that are there, and what the authors call them.

    A column that is already called by its standard name comes first. For cell types, a column
    whose name holds ``celltype`` will do where there is but one.

    Examples
    --------
    >>> recognise(["Cell Type", "nUMI", "Patient_ID", "Gender", "cluster"])
    {'cell_type': 'Cell Type', 'donor': 'Patient_ID', 'sex': 'Gender'}
    >>> recognise(["fine_celltype", "leiden"])
    {'cell_type': 'fine_celltype'}
    """
    columns = [str(c) for c in columns]
    plain: dict[str, str] = {}
    for column in columns:
        plain.setdefault(re.sub(r"[^a-z0-9]", "", column.lower()), column)
    found = {}
    for standard, names in NAMES.items():
        theirs = next((plain[n] for n in names if n in plain), None)
        if standard in columns:
            theirs = standard
        if theirs is not None:
            found[standard] = theirs
    like = [c for p, c in plain.items() if "celltype" in p and "ontology" not in p]
    if "cell_type" not in found and len(like) == 1:
        found = {"cell_type": like[0], **found}
    return found


def standardise(obs: pd.DataFrame, record: Record) -> pd.DataFrame:
    """``obs`` with the standard columns that it or its record has the values for.

    The authors' columns stay as they are. What no column says is taken from the record, where that
    has one value for the whole dataset.

    Parameters
    ----------
    obs
        A row a cell.
    record
        Of the dataset.
    """
    more = {
        standard: obs[theirs]
        for standard, theirs in recognise(obs.columns).items()
        if standard != theirs
    }
    whole = {
        "tissue": record.tissues,
        "disease": record.diseases,
        "assay": record.assays,
        "organism": (LATIN.get(record.organism, record.organism),) if record.organism else (),
    }
    for standard, values in whole.items():
        if standard not in obs and standard not in more and len(values) == 1:
            more[standard] = values[0]
    return obs.assign(**more)


def organism_of(names: Iterable[str]) -> str:
    """``"human"``, ``"mouse"``, or the names of others, as :class:`Record` has them.

    Examples
    --------
    >>> organism_of(["Human (H. sapiens)"]), organism_of(["Mus musculus"]), organism_of([])
    ('human', 'mouse', '')
    >>> organism_of(["Homo sapiens", "Mus musculus"]), organism_of(["Mouse lemur (M. murinus)"])
    ('Homo sapiens, Mus musculus', 'Mouse lemur (M. murinus)')
    """
    names = list(dict.fromkeys(n for n in names if n))
    known = {_known(n) for n in names}
    if len(known) == 1 and (only := known.pop()):
        return only
    return ", ".join(names)


def _known(name: str) -> str:
    plain = re.sub(r"\s*\(.*", "", name.strip().lower())
    if plain in {"human", "homo sapiens", "h. sapiens"}:
        return "human"
    return "mouse" if plain in {"mouse", "house mouse", "mus musculus", "m. musculus"} else ""
