"""Terms of ontologies by what people call them."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any

import pandas as pd

__all__ = ["Index", "ancestors", "current_id", "index", "plain", "table", "term_label"]

_PLURAL = re.compile(r"(?<=[a-z]{2})(?<!s)s\b")
_QUALIFIER = re.compile(r"^(\S+?:\S+) \(.*\)$")


def plain(text: str) -> str:
    """A name without what its writers differ in: case, underscores, spaces."""
    return re.sub(r"[\s_]+", " ", text.casefold()).strip()


class Index:
    """Terms of one ontology by label, by our own table, and by synonym.

    Parameters
    ----------
    ontology
        ``"CL"``, ``"UBERON"``, ``"MONDO"``, ``"EFO"``, ``"PATO"`` or ``"CVCL"``.
    extra
        Name of the table; None without one.
    """

    def __init__(self, ontology: str, extra: str | None = None) -> None:
        parser = _parser()
        terms = {
            label: term
            for label, term in parser.get_term_label_to_id_map(ontology).items()
            if term.startswith((f"{ontology}:", f"{ontology}_"))
            and not parser.is_term_deprecated(term)
        }
        self.labels = {plain(label): term for label, term in terms.items()}
        synonyms: dict[str, set[str]] = {}
        for term in terms.values():
            for synonym in parser.get_term_synonyms(term):
                synonyms.setdefault(plain(synonym), set()).add(term)
        # one that several terms share says nothing
        self.synonyms = {s: t.pop() for s, t in synonyms.items() if len(t) == 1}
        self.extra: dict[str, str] = {}
        if extra is not None:
            rows = table(extra)
            names = map(plain, rows["label"])
            self.extra = dict(zip(names, rows["ontology_term_id"], strict=True))

    def find(self, text: str) -> tuple[str, str] | None:
        """Id of a term, and what it was found by; its plural does as well."""
        names = dict.fromkeys([plain(text), _PLURAL.sub("", plain(text))])
        for how, terms in (
            ("label", self.labels),
            ("table", self.extra),  # before synonyms, as "MM" is one of Miyoshi myopathy
            ("synonym", self.synonyms),
        ):
            for name in names:
                if name in terms:
                    return terms[name], how
        return None


@cache
def index(ontology: str, extra: str | None = None) -> Index:
    """The index of an ontology, built once a process."""
    return Index(ontology, extra)


def table(name: str) -> pd.DataFrame:
    """A table of the package."""
    with (resources.files("scgm_scvi.atlas") / "data" / f"{name}.csv").open("rb") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def current_id(text: str) -> str | None:
    """A term id, followed to the term that replaces it; None where it is none."""
    parser = _parser()
    text = _QUALIFIER.sub(r"\1", text.strip())
    for _ in range(10):
        if not parser.is_valid_term_id(text):
            return None
        if not parser.is_term_deprecated(text):
            return text
        text = parser.get_term_replacement(text) or ""
    return None


def term_label(term: str) -> str:
    """What a term is called."""
    return _parser().get_term_label(term)


def ancestors(term: str) -> dict[str, int]:
    """All terms that a term is a kind of, itself too, with the number of steps."""
    return _parser().get_term_ancestors_with_distances(term, include_self=True)


_MISSING = (
    "Labels are looked up in ontologies, which the package cellxgene-ontology-guide holds: "
    'pip install "scgm_scvi[atlas]".'
)


def require_ontologies() -> None:
    """Raise unless labels can be looked up.

    Raises
    ------
    ImportError
        If the package that holds the ontologies is not installed.
    """
    if find_spec("cellxgene_ontology_guide") is None:
        raise ImportError(_MISSING)


@cache
def _parser() -> Any:
    try:
        from cellxgene_ontology_guide.ontology_parser import OntologyParser
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return OntologyParser()
