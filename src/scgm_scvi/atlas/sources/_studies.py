"""One study, several sources: its names, and which source's copy to keep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ._record import Record

__all__ = ["PREFERENCE", "drop_duplicates", "find_studies", "normalise_study"]

PREFERENCE = ("cellxgene", "hca", "ucsc", "tisch", "local")
"""Sources, the one whose counts and labels are best first."""

_DOI = re.compile(r"\b10\.\d{4,9}/[^\s\"'<>,;|]+", re.IGNORECASE)
_PUBMED = re.compile(
    r"(?:\bPMID|pubmed(?:\.ncbi\.nlm\.nih\.gov)?/)[\s:]*(\d{4,9})\b", re.IGNORECASE
)
# GEO, SRA/ENA/DDBJ, BioProject, ArrayExpress, EGA, dbGaP, CNGB, GSA
_ACCESSION = re.compile(
    r"\b(?:GSE\d+|[SED]RP\d+|PRJ[A-Z]{2}\d+|E-[A-Z]{4}-\d+|S-[A-Z]{4}\d+|EGA[SD]\d+|phs\d{6}"
    r"|CNP\d{7}|CRA\d{6})(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def find_studies(*values: object) -> tuple[str, ...]:
    """All DOIs, PubMed ids and accessions in texts, each once, as :func:`normalise_study` has them.

    Parameters
    ----------
    values
        Texts, lists of texts, or None, as catalogues hold them.

    Examples
    --------
    >>> find_studies(
    ...     "https://doi.org/10.1126/Science.AAV8130", None, ["GSE1, gse2", "PMID: 31097668"]
    ... )
    ('10.1126/science.aav8130', 'GSE1', 'GSE2', 'PMID:31097668')
    """
    found: dict[str, None] = {}
    for value in values:
        if isinstance(value, list | tuple):
            found.update(dict.fromkeys(find_studies(*value)))
        elif value is not None:
            text = str(value)
            # an accession inside a DOI is part of it
            rest = _DOI.sub(" ", text)
            hits = [*_DOI.findall(text), *_ACCESSION.findall(rest)]
            hits += [f"PMID:{n}" for n in _PUBMED.findall(rest)]
            found.update(dict.fromkeys(normalise_study(h) for h in hits))
    return tuple(found)


def normalise_study(study: str) -> str:
    """A DOI, PubMed id or accession in the one way it is written here.

    Parameters
    ----------
    study
        As a catalogue gives it: bare, with a prefix, or as a link.

    Returns
    -------
    A DOI in lower case without prefix, and without the version of a preprint; ``PMID:<number>``; an
    accession in upper case. Anything else in upper case, without spaces at its ends.

    Examples
    --------
    >>> normalise_study("https://doi.org/10.1101/2020.07.23.213371v2")
    '10.1101/2020.07.23.213371'
    >>> normalise_study("https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=gse145926")
    'GSE145926'
    >>> normalise_study("pmid 32398875")
    'PMID:32398875'
    """
    text = str(study).strip()
    if doi := _DOI.search(text):
        plain = re.sub(r"[.,:)\]}/]+$", "", doi.group().lower())
        # preprints: 10.1101/2020.07.23.213371v2.full is the same paper as without
        return re.sub(r"^(10\.(?:1101|64898)/[\d.]+\d)v\d+.*$", r"\1", plain)
    if pubmed := _PUBMED.search(text):
        return f"PMID:{int(pubmed.group(1))}"
    if accession := _ACCESSION.search(text):
        return accession.group().upper()
    return text.upper()


def drop_duplicates(
    records: Iterable[Record], prefer: Sequence[str] = PREFERENCE
) -> tuple[list[Record], list[tuple[Record, str]]]:
    """Of a study that several sources have, keep the copy of one source.

    Records that share a study belong together, and so do those that share one with a third. One
    source's records of a study are not each other's duplicates, for one paper has many datasets.

    Parameters
    ----------
    records
        Of all sources.
    prefer
        Names of sources, best first; sources that are not named come last, by name.

    Returns
    -------
    The records to keep, in their order, and the others, each with the reason why it goes.

    Examples
    --------
    >>> a = Record("cellxgene", "a", studies=("10.1000/x",))
    >>> b = Record("hca", "b", studies=("https://doi.org/10.1000/X", "GSE7"))
    >>> c = Record("tisch", "c", studies=("GSE7",))
    >>> kept, dropped = drop_duplicates([c, b, a])
    >>> [r.id for r in kept]
    ['a']
    >>> [(r.id, why) for r, why in dropped]  # doctest: +NORMALIZE_WHITESPACE
    [('c', "same study as cellxgene a: by way of others' studies"),
     ('b', 'same study as cellxgene a: 10.1000/x')]
    """
    records = list(records)
    studies = [{normalise_study(s) for s in r.studies if s.strip()} for r in records]
    groups = _joined(studies)
    rank = {source: i for i, source in enumerate(prefer)}
    best: dict[int, str] = {}
    for record, group in zip(records, groups, strict=True):
        of_group = {record.source, best.get(group, record.source)}
        best[group] = min(of_group, key=lambda source: (rank.get(source, len(rank)), source))

    winners: dict[int, list[int]] = {}
    for i, (record, group) in enumerate(zip(records, groups, strict=True)):
        if record.source == best[group]:
            winners.setdefault(group, []).append(i)

    kept, dropped = [], []
    for i, (record, group) in enumerate(zip(records, groups, strict=True)):
        if record.source == best[group]:
            kept.append(record)
            continue
        # one that shares a study with it directly, if there is one
        twin = max(winners[group], key=lambda w: len(studies[w] & studies[i]))
        shared = ", ".join(sorted(studies[twin] & studies[i])) or "by way of others' studies"
        dropped.append((record, f"same study as {best[group]} {records[twin].id}: {shared}"))
    return kept, dropped


def _joined(studies: list[set[str]]) -> list[int]:
    """A number a record; the same for records that share a study, or share one with a third."""
    parent = list(range(len(studies)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    owner: dict[str, int] = {}
    for i, names in enumerate(studies):
        for name in names:
            parent[root(i)] = root(owner.setdefault(name, i))
    return [root(i) for i in range(len(studies))]
