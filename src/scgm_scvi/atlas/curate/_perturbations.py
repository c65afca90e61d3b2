"""What was done to cells, as screens say it."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd

from scgm_scvi.atlas.formats._guides import SEVERAL

from ._genes import GeneAxis

__all__ = ["CONTROL", "PERTURBATION_COLUMNS", "harmonise_perturbations"]

CONTROL = "control"
_ID, _STRATEGY = "genetic_perturbation_id", "genetic_perturbation_strategy"
_GIVEN = (
    _ID,
    _STRATEGY,
    "perturbation_types",
    "experimental_condition",
    "experimental_condition_ontology_term_id",
)
PERTURBATION_COLUMNS = ("genetic_perturbation", *_GIVEN)
"""Columns of :func:`harmonise_perturbations`, where cells have them."""

_NONE, _MUTANT, _UNDONE = "na", "CRISPR knockout mutant", "no perturbations"
# what guides of one gene are numbered by: "-2", "_sg1", ".g3", "-gRNA-1"
_NUMBER = re.compile(r"[-_.](?:sg(?:rna)?|g(?:rna|uide)?)?[-_.]?\d+$", re.IGNORECASE)


def harmonise_perturbations(
    obs: pd.DataFrame, guides: pd.DataFrame | None, axis: GeneAxis
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns of CELLxGENE's schema 7.1 as they are, and the genes that guides were meant for.

    ``genetic_perturbation`` names the targets of a cell's guides, sorted, each once, joined by
    ``"+"``: two guides of one gene are one perturbation. A cell with control guides alone is
    ``"control"``; beside others these do not count. What a guide is meant for is not a field of the
    schema. It is taken from the guide's id, less its number, where that is one of the genes that its
    sequence lies in; else it is those genes; else (guides of promoters lie in none) the gene
    that the id names, now or formerly; else the id itself.

    A cell without a guide (``"na"``) is unspecified: in a pool its guide may only have been
    missed. In a data set of knockout mutants alone, where nothing is pooled, it is ``"control"``.

    Parameters
    ----------
    obs
        A row a cell.
    guides
        As :func:`~scgm_scvi.atlas.formats._guides.guide_table` has them. Of a guide that it lacks,
        or without it (None), ``genetic_perturbation_strategy`` says whether it is a control: those of
        cells that are ``"control"`` are.
    axis
        Whose symbols names in ids may be.

    Returns
    -------
    Those of :data:`PERTURBATION_COLUMNS` that ``obs`` has values for, indexed like it, missing ones
    NaN; and notes, a sentence each.

    Examples
    --------
    >>> ids = ["CD4-1 || CD8A-2", "NTC-1", "NTC-1 || CD4-2", "na"]
    >>> obs = pd.DataFrame({"genetic_perturbation_id": ids})
    >>> guides = pd.DataFrame(
    ...     {"role": ["targeting"] * 3 + ["control"]}, index=["CD4-1", "CD4-2", "CD8A-2", "NTC-1"]
    ... )
    >>> found, notes = harmonise_perturbations(obs, guides, GeneAxis.load("human"))
    >>> found["genetic_perturbation"].fillna("-").to_list()
    ['CD4+CD8A', 'control', 'CD4', '-']

    References
    ----------
    CELLxGENE schema 7.1.0, https://github.com/chanzuckerberg/single-cell-curation.
    """
    out = pd.DataFrame({c: obs[c] for c in _GIVEN if c in obs and obs[c].notna().any()}, obs.index)
    if _ID not in out:
        return out, ()
    words = [out[_ID], out.get(_STRATEGY, pd.Series("", out.index))]
    codes, known = zip(*(pd.factorize(w.astype(object)) for w in words), strict=True)
    wide = len(known[1]) + 1
    place, pairs = pd.factorize(codes[0].astype(np.int64) * wide + codes[1] + 1)
    strategies = set(map(str, known[1])) - {CONTROL, _UNDONE, ""}
    targets = _Targets(guides, axis, CONTROL if strategies == {_MUTANT} else None)
    for given in out.loc[words[1].eq(CONTROL), _ID].dropna().unique():
        targets.are_controls(str(given))
    names: list[str | None] = []
    for i, j in (divmod(int(p), wide) for p in pairs):
        if i < 0:  # a cell without a value
            names.append(None)
            continue
        names.append(targets.of_cell(str(known[0][i]), str(known[1][j - 1]) if j else ""))
    values = np.array(names, dtype=object)[place]
    out.insert(0, PERTURBATION_COLUMNS[0], pd.Series(values, out.index).where(pd.notna(values)))
    return out, targets.notes()


class _Targets:
    """Names of what guides are meant for, each asked for once."""

    def __init__(self, guides: pd.DataFrame | None, axis: GeneAxis, undone: str | None) -> None:
        self._guides = {} if guides is None else guides.fillna("").to_dict("index")
        former = {s: axis.symbols[i] for s, i in axis.aliases.items()}
        self._symbols, self._undone = {**former, **{s: s for s in axis.symbols}}, undone
        self._named: dict[str, tuple[str, ...]] = {}
        self._how: Counter[str] = Counter()

    def are_controls(self, given: str) -> None:
        """All guides of a cell that is said to be a control are controls, by the schema."""
        for guide in given.split(SEVERAL):
            if not self._guides.get(guide, {}).get("role"):
                self._named[guide] = ()

    def of_cell(self, given: str, strategy: str) -> str | None:
        """Targets of guides joined by ``" || "``; None where there is no guide."""
        if given in (_NONE, ""):
            return self._undone
        if strategy == CONTROL:
            return CONTROL
        found = {name for guide in given.split(SEVERAL) for name in self._of_guide(guide)}
        return "+".join(sorted(found)) or CONTROL

    def _of_guide(self, guide: str) -> tuple[str, ...]:
        if guide not in self._named:
            self._named[guide] = self._find(guide)
        return self._named[guide]

    def _find(self, guide: str) -> tuple[str, ...]:
        about = self._guides.get(guide, {})
        if self._guides and not about:
            self._how["absent from uns['genetic_perturbations']"] += 1
        if about.get("role") == CONTROL:
            return ()
        features = [f for f in str(about.get("feature_names", "")).split(SEVERAL) if f]
        ids = str(about.get("feature_ids", "")).split(SEVERAL)
        stems = _stems(guide)
        for stem in stems:
            if stem in features:
                return (stem,)
            if stem in ids:
                return (features[ids.index(stem)],)
        if features:
            if len(features) > 1:
                self._how["said to lie in several genes, all of them taken"] += 1
            return tuple(f.replace("+", "_") for f in features)
        for stem in stems:
            if stem in self._symbols:
                return (self._symbols[stem],)
        self._how["of no known gene, named by their ids"] += 1
        return (guide.replace("+", "_"),)  # "+" stands between the parts of a set

    def notes(self) -> tuple[str, ...]:
        return tuple(f"guides {how}: {n}" for how, n in self._how.items())


def _stems(guide: str) -> list[str]:
    """An id, and what is left of it as numbers at its end are taken off."""
    out = [guide]
    while (shorter := _NUMBER.sub("", out[-1])) != out[-1]:
        out.append(shorter)
    return out
