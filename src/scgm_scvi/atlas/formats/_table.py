"""Tables of text: a line a gene, a column a cell."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scgm_scvi.atlas.formats._reading import Reading

from ._blocks import EntrySpool
from ._columns import split_keys
from ._errors import no_damage
from ._text import delimiter_of, first_fields, open_text

__all__ = ["read_table"]

# A field made of these alone is zero, whatever their order: most of them need no parsing.
IS_ZERO = np.zeros(256, bool)
IS_ZERO[np.frombuffer(b"0.+", np.uint8)] = True
AT_ONCE = 1 << 20  # bytes of lines


def read_table(path: Path | str) -> Reading:
    """Genes and cells of a table, as the UCSC Cell Browser's ``exprMatrix.tsv.gz``.

    The header names the cells, with or without a name for the first column; each line begins with
    a gene's name, which may be ``id|symbol``. Fields are separated by tabs, commas, semicolons or
    spaces, as in the header. Lines are read a few at a time; entries other than 0 are kept, up to
    8 million in memory (100 MB), more than these in temporary files.

    Raises
    ------
    ValueError
        A cell is there twice; a line has more or fewer fields than the header; a field is empty,
        no number, or not finite. The line, the gene and the cell are named.
    """
    path = Path(path)
    with no_damage(path), open_text(path) as f:
        header = f.readline().decode("utf-8-sig")
        delimiter = delimiter_of(header)
        cells = first_fields(header, delimiter)
        keys: list[str] = []
        spool = None
        lines = _Lines()
        for number, line in enumerate(f, 2):
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            key, rest = _key(line, delimiter.encode())
            n = rest.count(delimiter.encode()) + 1
            if spool is None:
                cells = _cells(cells, n, path)
                spool = EntrySpool(len(cells))
            if n != len(cells):
                raise ValueError(
                    f"{path}, line {number} ({key!r}): has {n} values, where the header has "
                    f"{len(cells)} cells."
                )
            lines.add(number, key, rest)
            if lines.n_bytes > AT_ONCE:
                spool.add(*_entries(lines, delimiter, cells, len(keys), path))
                keys += lines.keys
                lines = _Lines()
        if spool is None:
            raise ValueError(f"{path}: has no line of values.")
        if lines.keys:
            spool.add(*_entries(lines, delimiter, cells, len(keys), path))
            keys += lines.keys
    var = split_keys(keys)
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    return Reading(obs=obs, var=var, blocks=lambda size: spool.blocks(size, n_genes=len(var)))


@dataclass
class _Lines:
    """Lines that are parsed together."""

    numbers: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    rests: list[bytes] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, number: int, key: str, rest: bytes) -> None:
        self.numbers.append(number)
        self.keys.append(key)
        self.rests.append(rest)
        self.n_bytes += len(rest)


def _cells(header: list[str], n: int, path: Path) -> list[str]:
    """Names of the cells; R leaves out that of the first column."""
    cells = header if len(header) == n else header[1:]
    if len(cells) != n:
        raise ValueError(
            f"{path}, line 2: has {n} values, where the header has {len(cells)} cells."
        )
    names = pd.Index(cells)
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise ValueError(f"{path}: cell {twice!r} is there twice in the header.")
    return cells


def _key(line: bytes, delimiter: bytes) -> tuple[str, bytes]:
    """The gene's name, and the rest of the line."""
    if line.startswith(b'"') and (end := line.find(b'"' + delimiter, 1)) > 0:
        return line[1:end].decode(), line[end + 2 :]
    key, _, rest = line.partition(delimiter)
    return key.decode(), rest


def _entries(
    lines: _Lines, delimiter: str, cells: list[str], n_before: int, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, genes and values of the fields that are not zero."""

    def refuse(place: int, what: str) -> None:
        line, cell = divmod(int(place), len(cells))
        raise ValueError(
            f"{path}, line {lines.numbers[line]} ({lines.keys[line]!r}): the value of cell "
            f"{cells[cell]!r} is {what}."
        )

    joined = delimiter.encode().join(lines.rests)
    text = np.frombuffer(joined, np.uint8)
    is_end = text == ord(delimiter)
    ends = np.append(np.flatnonzero(is_end), len(text))
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts
    if (lengths == 0).any():
        refuse(np.argmax(lengths == 0), "empty; write 0 where it is zero")
    first = text[starts]
    no_digit = (lengths == 1) & ((first == ord(".")) | (first == ord("+")))
    if no_digit.any():
        refuse(np.argmax(no_digit), f"{chr(first[np.argmax(no_digit)])!r}, no number")

    places = np.searchsorted(ends, np.flatnonzero(~IS_ZERO[text] & ~is_end))
    places = places[np.append(True, places[1:] != places[:-1])[: len(places)]]
    values = first[places].astype(np.float64) - ord("0")
    # most counts have one digit; the others go through the parser of floats
    parsed = np.flatnonzero((lengths[places] > 1) | (values < 0) | (values > 9))
    is_parsed = np.zeros(len(ends), bool)
    is_parsed[places[parsed]] = True
    # their bytes, each field with the delimiter behind it, as lines
    lined = np.full(len(text) + 1, ord("\n"), np.uint8)
    np.copyto(lined[:-1], text, where=~is_end)
    values[parsed] = _numbers(lined[np.repeat(is_parsed, lengths + 1)].tobytes())
    if not np.isfinite(values).all():
        place = places[np.argmin(np.isfinite(values))]
        refuse(place, f"{joined[starts[place] : ends[place]].decode()!r}, no finite number")
    return places % len(cells), places // len(cells) + n_before, values


def _numbers(text: bytes) -> np.ndarray:
    """Numbers of lines, NaN where one is none."""
    n = text.count(b"\n")
    try:
        # by far the fastest parser at hand
        options = {"header": None, "na_filter": False, "skip_blank_lines": False, "sep": "\0"}
        column = pd.read_csv(io.BytesIO(text), dtype=np.float64, **options)
        if len(column) == n:
            return column[0].to_numpy()
    except ValueError:
        pass
    return np.array([_number(line) for line in text.split(b"\n")[:n]])


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
