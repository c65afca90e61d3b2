"""The genes of the store, and which of them the genes of a dataset are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scgm_scvi._errors import listed, nearest

__all__ = ["VERSIONS", "GeneAxis", "GeneMapping", "guess_organism"]

VERSIONS = {"human": "GENCODE v48", "mouse": "GENCODE vM37"}
"""Organisms with a table of genes, and the annotation that it is of."""

_ENSEMBL = {"human": re.compile(r"ENSG\d{11}"), "mouse": re.compile(r"ENSMUSG\d{11}")}
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+(_PAR_Y)?$")
_EXCEL = re.compile(r"^(\d{1,2}-[A-Z][a-z]{2}|[A-Z][a-z]{2}-\d{1,2}|\d{4}-\d\d-\d\d.*)$")
_SUFFIX = re.compile(r"^(.+)[.-]\d+$")
_ID_COLUMNS = ("id", "gene_id", "gene_ids", "ensembl_id", "ensembl_ids", "feature_id")
_SYMBOL_COLUMNS = ("symbol", "feature_name", "gene_symbol", "gene_symbols", "gene_name", "name")


@dataclass(frozen=True, eq=False)
class GeneMapping:
    """Which genes of the axis the genes of a dataset are.

    Parameters
    ----------
    names
        What the dataset calls its genes.
    target
        Place on the axis of each gene of the dataset; -1 where it has none.
    how
        What each was recognised by: ``"id"``, ``"symbol"``, ``"alias"``, ``"make_unique"``,
        ``"r_mangled"``; or why not: ``"ambiguous"``, ``"excel_date"``, ``"unmapped"``.
    measured
        Per gene of the axis: the dataset has it. In the others zero means nothing.
    """

    names: np.ndarray
    target: np.ndarray
    how: np.ndarray
    measured: np.ndarray

    def report(self, most: int = 10) -> dict[str, Any]:
        """How many genes were recognised by what, and examples of those that were not."""
        kinds, counts = np.unique(self.how, return_counts=True)
        without = {k: [str(n) for n in self.names[self.how == k][:most]] for k in _NONE}
        return {
            "n": len(self.target),
            "mapped": float((self.target >= 0).mean()) if len(self.target) else 0.0,
            "measured": int(self.measured.sum()),
            "how": dict(zip(map(str, kinds), map(int, counts), strict=True)),
            **{name: examples for name, examples in without.items() if examples},
        }

    def apply(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts on the axis; genes that are the same one there are summed, so only of counts."""
        if counts.shape[1] != len(self.target):
            raise ValueError(
                f"counts has {counts.shape[1]} genes and the mapping is of {len(self.target)}: it "
                "applies to all genes of the dataset that it was made for."
            )
        mine = np.flatnonzero(self.target >= 0)
        shape = (len(self.target), len(self.measured))
        to_axis = (np.ones(len(mine), counts.dtype), (mine, self.target[mine]))
        on_axis = sparse.csr_matrix(counts) @ sparse.csr_matrix(to_axis, shape=shape)
        on_axis.sort_indices()
        return on_axis


_NONE = ("unmapped", "ambiguous", "excel_date")


@dataclass(frozen=True, eq=False)
class GeneAxis:
    """Genes in a fixed order, known by Ensembl id.

    Parameters
    ----------
    organism, version
        ``"human"`` or ``"mouse"``, and the annotation.
    ids, symbols, biotypes
        Of each gene; a gene without a symbol has its id there.
    by_symbol
        Whether the symbol means this gene and no other.
    aliases
        Former and other symbols, and the place of the gene that they mean.
    """

    organism: str
    version: str
    ids: np.ndarray
    symbols: np.ndarray
    biotypes: np.ndarray
    by_symbol: np.ndarray
    aliases: dict[str, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mitochondrial(self) -> np.ndarray:
        """Per gene: on the mitochondrial chromosome."""
        prefix = {"human": "MT-", "mouse": "mt-"}[self.organism]
        return np.array([s.startswith(prefix) for s in self.symbols])

    @property
    def var(self) -> pd.DataFrame:
        """Symbols and biotypes, indexed by id, as ``var`` of the store."""
        columns = {"symbol": self.symbols, "biotype": self.biotypes}
        return pd.DataFrame(columns, index=pd.Index(self.ids, name="gene_id"))

    @cached_property
    def _lookup(self) -> tuple[dict, dict, set, set, dict]:
        """Places by id and by symbol, symbols of several genes, all symbols, and those as R's."""
        place = {gene: i for i, gene in enumerate(self.ids)}
        known = {s: i for i, s in enumerate(self.symbols) if self.by_symbol[i]}
        unclear = set(self.symbols) - set(known) - set(self.ids)
        taken = set(known) | unclear | set(self.aliases)
        return place, known, unclear, taken, _mangled({**self.aliases, **known})

    @classmethod
    def load(cls, organism: str = "human", hgnc: str | os.PathLike | None = None) -> GeneAxis:
        """Protein-coding genes, lncRNAs, immunoglobulin and T-cell receptor segments, Mt-rRNAs.

        Parameters
        ----------
        organism
            ``"human"`` or ``"mouse"``.
        hgnc
            Path of HGNC's ``hgnc_complete_set.txt``, which has the former symbols of human genes
            (https://www.genenames.org/download/archive/). Without it, a gene that was renamed
            since a dataset was made is not recognised by its symbol.

        Raises
        ------
        ValueError
            If there is no table for the organism, or the file is not HGNC's.
        FileNotFoundError
            If the file is not there.

        Examples
        --------
        >>> axis = GeneAxis.load("human")
        >>> axis.version, bool(axis.mitochondrial.sum() == 15)
        ('GENCODE v48', True)

        References
        ----------
        Mudge et al., GENCODE 2025, Nucleic Acids Research 53 (2025).
        """
        if organism not in VERSIONS:
            raise ValueError(
                f"organism is {organism!r}; there are genes for {listed(VERSIONS)}."
                f"{nearest(organism, VERSIONS)}"
            )
        file = resources.files("scgm_scvi.atlas") / "data" / f"genes_{organism}.csv.gz"
        with file.open("rb") as opened:
            table = pd.read_csv(opened, compression="gzip", keep_default_na=False)
        ids = table["id"].to_numpy(object)
        symbols = table["symbol"].to_numpy(object)
        axis = cls(
            organism,
            VERSIONS[organism],
            ids,
            np.where(symbols == "", ids, symbols),
            table["biotype"].to_numpy(object),
            (table["by_symbol"] == 1).to_numpy(),
        )
        if hgnc is not None:
            axis.aliases.update(_aliases(Path(hgnc), axis))
        return axis

    def map(self, var: pd.DataFrame) -> GeneMapping:
        """Recognise the genes of a dataset.

        By Ensembl id, its version put aside (but ``_PAR_Y`` is a gene of its own); by symbol, if
        it means one gene, or one protein-coding gene; by former symbol; by symbol with what R's or
        scanpy's ``make_unique`` has appended, if the symbol itself is there too; and by symbol as
        R's ``make.names`` writes it. Each only says what those before it have left open, for genes
        that those before it have not found (but what ``make_unique`` has told apart is the same
        gene). The order of the genes makes no difference. Dates that were symbols before a
        spreadsheet read them are refused, as several symbols become the same one.

        Parameters
        ----------
        var
            A row a gene, indexed by its name: an id, a symbol, or ``id|symbol``. More ids or symbols
            may stand in a column named as usual, ``"symbol"`` or ``"gene_ids"`` for example.

        Examples
        --------
        >>> axis = GeneAxis.load("human")
        >>> names = ["ENSG00000141510.18", "HLA.A", "CD3E", "1-Mar"]
        >>> axis.map(pd.DataFrame(index=names)).how.tolist()
        ['id', 'r_mangled', 'symbol', 'excel_date']
        """
        names = np.array([str(n) for n in var.index], object)
        ids, symbols = _names(var, names, self.organism)
        target, how = np.full(len(var), -1), np.full(len(var), "unmapped", object)
        place, known, unclear, taken, mangled = self._lookup

        def say(kind: str, found: Iterable[int], again: bool = False) -> None:
            found = np.fromiter(found, int, len(var))
            new = (target < 0) & (found >= 0)
            if not again:
                new &= ~np.isin(found, target[target >= 0])
            target[new], how[new] = found[new], kind

        say("id", (place.get(i, -1) for i in ids), again=True)
        say("symbol", (known.get(s, -1) for s in symbols))
        say("alias", (self.aliases.get(s, -1) for s in symbols))
        present = dict(zip(symbols[target >= 0], target[target >= 0], strict=True))
        # a gene with an id is no other gene, whatever its symbol looks like
        written = np.where(ids == "", symbols, "")
        say("make_unique", (_base(s, present, taken) for s in written), again=True)
        say("r_mangled", (mangled.get(s, -1) if s not in taken else -1 for s in written))
        left = target < 0
        how[left & np.array([s in unclear for s in symbols], bool)] = "ambiguous"
        how[left & np.array([bool(_EXCEL.match(n)) for n in names], bool)] = "excel_date"
        measured = np.zeros(len(self), bool)
        measured[target[target >= 0]] = True
        return GeneMapping(names, target, how, measured)


def guess_organism(var: pd.DataFrame) -> str | None:
    """``"human"`` or ``"mouse"`` by the Ensembl ids, else by the case of the symbols; or None.

    Examples
    --------
    >>> guess_organism(pd.DataFrame(index=["Actb", "Cd3e", "Gapdh", "Ptprc", "Foxp3"]))
    'mouse'
    """
    text = [str(n) for column in (var.index, *_columns(var).values()) for n in column]
    ids = {o: sum(bool(p.match(n)) for n in text) for o, p in _ENSEMBL.items()}
    if any(ids.values()):
        most = max(ids, key=ids.get)
        return most if ids[most] > 0.9 * sum(ids.values()) else None
    letters = [re.sub(r"[^A-Za-z]", "", n.split("|")[-1]) for n in text]
    letters = [n for n in letters if len(n) > 1]
    upper = sum(n.replace("orf", "").isupper() for n in letters)
    title = sum(n[0].isupper() and n[1:].islower() for n in letters)
    for organism, hits in (("human", upper), ("mouse", title)):
        if hits >= 5 and hits > 0.8 * (upper + title) and hits > 0.5 * len(letters):
            return organism
    return None


def _columns(var: pd.DataFrame) -> dict[str, pd.Series]:
    """Columns with more names, ids first."""
    lower = {str(c).lower(): c for c in reversed(list(var.columns))}
    return {c: var[lower[c]] for c in (*_ID_COLUMNS, *_SYMBOL_COLUMNS) if c in lower}


def _names(var: pd.DataFrame, names: np.ndarray, organism: str) -> tuple[np.ndarray, np.ndarray]:
    """Id and symbol of each gene, "" where it has none."""
    ids, symbols = np.full(len(var), "", object), np.full(len(var), "", object)
    candidates = [names, *(c.astype(object).to_numpy() for c in _columns(var).values())]
    for column in candidates:
        for i, name in enumerate(column):
            for part in str(name).split("|") if isinstance(name, str) else ():
                part = _VERSION.sub(r"\1\2", part.strip())
                if _ENSEMBL[organism].match(part):
                    ids[i] = ids[i] or part
                else:
                    symbols[i] = symbols[i] or part
    return ids, symbols


def _base(symbol: str, present: dict[str, int], taken: set[str]) -> int:
    """Place of the gene whose symbol this is but for a number that was appended."""
    base = _SUFFIX.match(symbol)
    return -1 if symbol in taken or not base else present.get(base[1], -1)


def _mangled(known: dict[str, int]) -> dict[str, int]:
    """Symbols as R's ``make.names`` writes them; without those that could be two genes'."""
    found: dict[str, set[int]] = {}
    for symbol, i in known.items():
        name = re.sub(r"[^A-Za-z0-9._]", ".", symbol)
        name = name if name[0].isalpha() else "X" + name
        if name != symbol:
            found.setdefault(name, set()).add(i)
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def _aliases(path: Path, axis: GeneAxis) -> dict[str, int]:
    """Former symbols, and other ones after those, from HGNC's table."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    needed = ["symbol", "prev_symbol", "alias_symbol", "ensembl_gene_id"]
    missing = [c for c in needed if c not in table]
    if missing or axis.organism != "human":
        what = f"has no column {listed(missing)}" if missing else "is of human genes"
        raise ValueError(f"{str(path)!r} {what}: hgnc is the path of hgnc_complete_set.txt.")
    place = {gene: i for i, gene in enumerate(axis.ids)}  # not yet axis._lookup: it has the aliases
    known = {s: i for i, s in enumerate(axis.symbols) if axis.by_symbol[i]}
    current = set(axis.symbols) | set(table["symbol"])
    aliases: dict[str, int] = {}
    for column in ("prev_symbol", "alias_symbol"):
        found: dict[str, set[int]] = {}
        columns = (table[c] for c in ("symbol", "ensembl_gene_id", column))
        for symbol, gene, others in zip(*columns, strict=True):
            i = place.get(gene, known.get(symbol, -1))
            for other in others.strip('"').split("|"):
                if other and other not in current:
                    found.setdefault(other, set()).add(i)
        aliases |= {s: min(i) for s, i in found.items() if s not in aliases and len(i) == 1}
    return {s: i for s, i in aliases.items() if i >= 0}
