"""Cells of cell lines, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import pandas as pd

from ._labels import UNKNOWN, categorised, values_of
from ._ontologies import current_id, index, term_label

__all__ = ["CELL_LINE_COLUMNS", "harmonise_cell_lines"]

CELL_LINE_COLUMNS = ("cell_line", "cell_line_ontology_term_id")
"""Columns that :func:`harmonise_cell_lines` adds."""

_LINE = "cell line"
_CULTURED = "CL:0000010"  # cultured cell


def harmonise_cell_lines(
    obs: pd.DataFrame, labels: pd.DataFrame, defaults: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Labels of cells that may be of cell lines, by Cellosaurus.

    A cell is of a line where ``tissue_type`` is ``"cell line"`` (its tissue is then a term of
    Cellosaurus), where a column or a default ``cell_line`` or ``cell_line_ontology_term_id`` says
    so, or, in files without ``tissue_type``, where the word for its type is none of the Cell
    Ontology's and the name of a line: "A549". Case, spaces and hyphens of names don't matter; a
    name that several lines share is not looked up.

    Parameters
    ----------
    obs
        A row a cell, as a file has it.
    labels
        As :func:`harmonise_labels` makes them of ``obs``.
    defaults
        Values for all cells of which ``obs`` says nothing: ``{"cell_line": "A549"}``.

    Returns
    -------
    ``labels`` with :data:`CELL_LINE_COLUMNS`: Cellosaurus' name and id; where a line has none, its
    own word and ``"unknown"``; ``"unknown"`` of other cells. The type of a line's cell, where the
    file has no other, is "cultured cell" (CL:0000010, ``cell_type_from`` ``"cell line"``), and its
    coarse type ``"cell line"``.

    Examples
    --------
    >>> from scgm_scvi.atlas import harmonise_labels
    >>> obs = pd.DataFrame({"cell_type": ["A549", "B cell"]})
    >>> labels = harmonise_labels(obs, source="local", key="local-x")
    >>> cells = harmonise_cell_lines(obs, labels)
    >>> cells["cell_line"].to_list(), cells["cell_type"].to_list()
    (['A-549', 'unknown'], ['cultured cell', 'B cell'])

    References
    ----------
    Bairoch, The Cellosaurus, a cell-line knowledge resource, Journal of Biomolecular Techniques 29
    (2018).
    """
    columns = {
        "cell_line": values_of(obs, "cell_line", dict(defaults or {})),
        "tissue": values_of(obs, "tissue", {}),
        "cell_type": values_of(obs, "cell_type", {}),
    }
    said = "tissue_type" in obs
    kinds = obs["tissue_type"].astype(str) if said else pd.Series("", obs.index)
    keys = pd.DataFrame(
        {f"{name}{i}": pd.Series(v[i], obs.index) for name, v in columns.items() for i in (0, 1)}
    ).assign(is_line=kinds.eq(_LINE), typed=labels["cell_type"].astype(str).ne(UNKNOWN))
    place, rows = keys.groupby(list(keys), observed=True, sort=False, dropna=False), []
    numbers = place.ngroup().to_numpy()
    for key in keys.drop_duplicates().itertuples(index=False):
        rows.append(_line(key, by_type=not said))
    order = numbers[~keys.duplicated().to_numpy()]
    names: list[tuple[str, str]] = [("", "")] * len(rows)
    for number, row in zip(order, rows, strict=True):
        names[number] = row
    out = labels.copy()
    for i, column in enumerate(CELL_LINE_COLUMNS):
        out[column] = categorised(numbers, [n[i] for n in names])
    untyped = out["cell_line"].ne(UNKNOWN).to_numpy() & ~keys["typed"].to_numpy()
    if untyped.any():
        given = (term_label(_CULTURED), _CULTURED, _LINE, _LINE)
        four = ("cell_type", "cell_type_ontology_term_id", "cell_type_from", "cell_type_coarse")
        for column, value in zip(four, given, strict=True):
            values = out[column].astype(object)
            values[untyped] = value
            out[column] = values.astype("category")
    return out


def _line(cell: tuple, *, by_type: bool) -> tuple[str, str]:
    """Name and id of a cell's line; ``"unknown"`` both where it is of none."""
    line, line_id, tissue, tissue_id, kind, kind_id, is_line, typed = cell
    words = [(line, line_id)] if line or line_id else []
    if is_line:
        words += [(tissue, tissue_id), *([] if typed else [(kind, kind_id)])]
    for word, given in words:
        if found := _by_id(given) or _by_name(word):
            return term_label(found), found
    if by_type and not typed and not words and (found := _by_id(kind_id) or _by_name(kind)):
        return term_label(found), found
    word = next((w for w, _ in words if w), "")
    return (word or (_LINE if is_line else UNKNOWN)), UNKNOWN


def _by_id(given: str) -> str | None:
    term = current_id(given) if given else None
    return term if term is not None and term.startswith("CVCL_") else None


def _by_name(word: str) -> str | None:
    return _names().get(_bare(word)) if word else None


@cache
def _names() -> dict[str, str]:
    """Ids of Cellosaurus by names without case, spaces and hyphens; of one line each."""
    out: dict[str, str] = {}
    shared: set[str] = set()
    for label, term in index("CVCL").labels.items():
        bare = _bare(label)
        if out.setdefault(bare, term) != term:
            shared.add(bare)
    return {bare: term for bare, term in out.items() if bare not in shared}


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
