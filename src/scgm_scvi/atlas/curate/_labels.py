"""What cells are and where they come from, in the same words for all datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest

from ._ontologies import ancestors, current_id, index, plain, table, term_label

__all__ = [
    "DEFAULTS",
    "LABEL_COLUMNS",
    "UNKNOWN",
    "categorised",
    "harmonise_labels",
    "values_of",
]

UNKNOWN = "unknown"
LABEL_COLUMNS = (
    "cell_type_raw",
    "cell_type",
    "cell_type_ontology_term_id",
    "cell_type_from",
    "cell_type_coarse",
    "tissue",
    "tissue_ontology_term_id",
    "disease",
    "disease_ontology_term_id",
    "assay",
    "donor",
    "sex",
    "development_stage",
    "source",
    "dataset",
)
"""Columns of :func:`harmonise_labels`."""

_FIELDS = ("cell_type", "tissue", "disease", "assay", "donor", "sex", "development_stage")
_ID = "_ontology_term_id"
DEFAULTS = (*_FIELDS, *(f + _ID for f in _FIELDS))
"""Columns that :func:`harmonise_labels` takes values for all cells of."""

_SEVERAL = " || "  # between the terms of a cell that has several, as CELLxGENE writes it
_NOTHING = {"", "-", "?", "na", "n/a", "nan", "null", "<na>", "not available", "not applicable"}
_NOTHING |= {UNKNOWN, "unassigned", "unclassified", "undetermined", "others", "other"}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}

Terms = tuple[str, str, str]  # label, id, how it was found


def harmonise_labels(
    obs: pd.DataFrame, *, source: str, key: str, defaults: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Labels of cells in the words of ontologies; what is not said is ``"unknown"``.

    A cell type is a term of the Cell Ontology: by the id that the dataset gives, else by label, by a
    table of common abbreviations (``data/cell_types.csv``), or by a synonym that no two terms
    share; ``cell_type_from`` says which. The dataset's own word stays in
    ``cell_type_raw``. ``cell_type_coarse`` is the nearest of some thirty types
    (``data/coarse_cell_types.csv``) that it is a kind of, or ``"other"``. Tissues are terms of
    UBERON and diseases of MONDO, or ``"normal"`` (PATO:0000461); where a word is in neither, it
    stays and its id is unknown. Several diseases of a cell stay joined by ``" || "``.

    Parameters
    ----------
    obs
        A row a cell; of :data:`scgm_scvi.atlas.STANDARD_COLUMNS` and their
        ``"..._ontology_term_id"``, those that are known.
    source, key
        Of the dataset. Donors are ``"<key>:<donor>"``, as two datasets' donors of the same name are
        not the same one; unknown ones, too, are a dataset's own.
    defaults
        Values for all cells of which ``obs`` says nothing, by column.

    Returns
    -------
    A row a cell, indexed like ``obs``, with :data:`LABEL_COLUMNS`, all of them categorical.

    Raises
    ------
    ImportError
        Without cellxgene-ontology-guide (``pip install "scgm_scvi[atlas]"``).
    ValueError
        If ``defaults`` names a column that there is none of.

    Examples
    --------
    >>> obs = pd.DataFrame({"cell_type": ["CD8T", "B cells", "blob"], "donor": ["d1", "d1", "d2"]})
    >>> cells = harmonise_labels(obs, source="tisch", key="tisch-X", defaults={"tissue": "lung"})
    >>> cells["cell_type"].tolist()
    ['CD8-positive, alpha-beta T cell', 'B cell', 'unknown']
    >>> cells["cell_type_coarse"].tolist(), cells["donor"].tolist()[0]
    (['T cell', 'B cell', 'unknown'], 'tisch-X:d1')

    References
    ----------
    Diehl et al., The Cell Ontology 2016, Journal of Biomedical Semantics 7 (2016).
    CELLxGENE schema 7, https://github.com/chanzuckerberg/single-cell-curation.
    """
    defaults = dict(defaults or {})
    for name in defaults:
        if name not in DEFAULTS:
            raise ValueError(
                f"defaults has {name!r}; it may have {listed(DEFAULTS, 20)}."
                f"{nearest(name, DEFAULTS)}"
            )

    def cell(word: str, given: str) -> Sequence[str]:
        label, term, how = _cell_type(word, given)
        return word or UNKNOWN, label, term, how, _coarse(term)

    changes: dict[str, tuple[tuple[str, ...], Callable[[str, str], Sequence[str]]]] = {
        "cell_type": (LABEL_COLUMNS[:5], cell),
        "tissue": (("tissue", "tissue" + _ID), lambda w, g: _terms(w, g, "UBERON", "tissues")[:2]),
        "disease": (
            ("disease", "disease" + _ID),
            lambda w, g: _terms(w, g, "MONDO", "diseases")[:2],
        ),
        "assay": (("assay",), lambda w, g: [_label_of(w, g)]),
        "donor": (("donor",), lambda w, g: [f"{key}:{w or UNKNOWN}"]),
        "sex": (("sex",), lambda w, g: [_SEX.get(plain(_label_of(w, g)), UNKNOWN)]),
        "development_stage": (("development_stage",), lambda w, g: [_label_of(w, g)]),
    }
    columns: dict[str, pd.Categorical] = {}
    for field, (names, change) in changes.items():
        found = _each(*values_of(obs, field, defaults), change) if len(obs) else [[]] * len(names)
        columns |= dict(zip(names, found, strict=True))
    for name, value in (("source", source), ("dataset", key)):
        columns[name] = pd.Categorical.from_codes(np.zeros(len(obs), np.int8), [value])
    return pd.DataFrame({name: columns[name] for name in LABEL_COLUMNS}, index=obs.index).astype(
        "category"
    )


def values_of(
    obs: pd.DataFrame, field: str, defaults: dict[str, str]
) -> tuple[pd.Categorical, pd.Categorical]:
    """Words and ids of a field; "" where there is none."""
    found = []
    for name in (field, field + _ID):
        values = obs[name] if name in obs else pd.Series("", obs.index)
        values = values.astype("category").array
        # a category each, so that 30 million cells cost no more than their words
        words = np.array([*(_clean(c, field) for c in values.categories), ""], dtype=object)
        codes = values.codes.astype(np.int64)
        found.append((np.where(codes < 0, len(words) - 1, codes), words))
    default = [str(defaults.get(name, "")) for name in (field, field + _ID)]
    if any(default):
        silent = np.logical_and.reduce([words[codes] == "" for codes, words in found])
        for i, (codes, words) in enumerate(found):
            found[i] = np.where(silent, len(words), codes), [*words, default[i]]
    return tuple(categorised(codes, words) for codes, words in found)


def _clean(value: object, field: str) -> str:
    """A value as text; "" where it says that nothing is known."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # donors 1.0 and 2.0, as pandas makes of 1 and 2 beside missing ones
    text = " ".join(str(value).split())
    nothing = _NOTHING if field == "disease" else _NOTHING | {"none"}
    return "" if text.casefold() in nothing else text


def categorised(codes: np.ndarray, words: Sequence[str]) -> pd.Categorical:
    """Words by place; as categories, without duplicates and those that no cell has."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(words)))
    new, categories = pd.factorize(np.array([words[i] for i in used], dtype=object))
    place = np.zeros(len(words), int)
    place[used] = new
    return pd.Categorical.from_codes(place[codes], categories.astype(object))


def _each(
    words: pd.Categorical, ids: pd.Categorical, change: Callable[[str, str], Sequence[str]]
) -> list[pd.Categorical]:
    """What a function says of word and id, asked once for each pair that there is."""
    codes = words.codes.astype(np.int64) * len(ids.categories) + ids.codes
    place, pairs = pd.factorize(codes)
    values = [
        change(words.categories[p // len(ids.categories)], ids.categories[p % len(ids.categories)])
        for p in pairs
    ]
    return [categorised(place, column) for column in zip(*values, strict=True)]


@cache
def _cell_type(word: str, given: str) -> Terms:
    term = current_id(given) if given else None
    how = "id"
    if term is None or not term.startswith("CL:"):
        term, how = index("CL", "cell_types").find(word) or ("", "") if word else ("", "")
    return (term_label(term), term, how) if term else (UNKNOWN,) * 3


@cache
def _terms(word: str, given: str, ontology: str, extra: str) -> Terms:
    """Terms that a tissue or disease is, several joined."""
    given = given.split(_SEVERAL) if given else []
    words = word.split(_SEVERAL) if word else []
    if given and len(given) != len(words):
        words = [""] * len(given)
    if not words:
        return (UNKNOWN,) * 3
    found = []
    for i, text in enumerate(words):
        term = current_id(given[i]) if given else None
        how = "id"
        if term is None:
            base, _, qualifier = text.partition(" (")  # "brain (organoid)" is a brain of a kind
            term, how = _find(text, ontology, extra) or _find(base, ontology, extra) or ("", "")
        else:
            qualifier = given[i].partition(" (")[2] or text.partition(" (")[2]
        if not term:
            found.append((text or UNKNOWN, UNKNOWN, UNKNOWN))
            continue
        label = term_label(term)
        if qualifier in ("organoid)", "cell culture)"):
            label += f" ({qualifier}"
        found.append((label, term, how))
    return tuple(_SEVERAL.join(dict.fromkeys(part)) for part in zip(*found, strict=True))


def _find(text: str, ontology: str, extra: str) -> tuple[str, str] | None:
    if plain(text) == "normal" and ontology == "MONDO":
        return "PATO:0000461", "label"
    return index(ontology, extra).find(text)


@cache
def _label_of(word: str, given: str) -> str:
    """The word, or what the id means."""
    term = current_id(given) if given else None
    return term_label(term) if term else word or UNKNOWN


@cache
def _coarse(term: str) -> str:
    """The nearest of the coarse cell types that a cell type is a kind of."""
    if term == UNKNOWN:
        return UNKNOWN
    rows = table("coarse_cell_types")
    types = dict(zip(rows["ontology_term_id"], rows["coarse"], strict=True))
    above = {t: d for t, d in ancestors(term).items() if t in types}
    # of two that are as near, the one that stands first in the table
    return types[min(above, key=lambda t: (above[t], list(types).index(t)))] if above else "other"
