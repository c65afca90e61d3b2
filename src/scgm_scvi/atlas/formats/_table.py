"""Tables of text: a line a gene, a column a cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from scgm_scvi.atlas._reading import Reading

from ._blocks import Spool
from ._columns import split_keys
from ._errors import no_damage
from ._text import delimiter_of, first_fields, open_text

__all__ = ["read_table"]

# A field made of these alone is zero, whatever their order: most of them need no parsing.
IS_ZERO = np.zeros(256, bool)
IS_ZERO[np.frombuffer(b"0.+", np.uint8)] = True


def read_table(path: Path | str) -> Reading:
    """Genes and cells of a table, as the UCSC Cell Browser's ``exprMatrix.tsv.gz``.

    The header names the cells, with or without a name for the first column; each line begins with
    a gene's name, which may be ``id|symbol``. Fields are separated by tabs, commas, semicolons or
    spaces, as in the header. Lines are read one by one; of them entries other than 0 are kept, up
    to 33 million in memory (400 MB), more than these in temporary files.

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
        for number, line in enumerate(f, 2):
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            key, rest = _key(line, delimiter.encode())
            if spool is None:
                cells = _cells(cells, rest.count(delimiter.encode()) + 1, path)
                spool = Spool(len(cells))
            columns, values = _numbers(rest, delimiter, cells, f"{path}, line {number} ({key!r})")
            spool.add(columns, np.full(len(columns), len(keys)), values)
            keys.append(key)
    if spool is None:
        raise ValueError(f"{path}: has no line of values.")
    var = split_keys(keys)
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    return Reading(obs=obs, var=var, blocks=lambda size: spool.blocks(size, n_genes=len(var)))


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


def _numbers(
    rest: bytes, delimiter: str, cells: list[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the fields that are not zero."""
    text = np.frombuffer(rest, np.uint8)
    is_end = text == ord(delimiter)
    ends = np.append(np.flatnonzero(is_end), len(text))
    if len(ends) != len(cells):
        raise ValueError(
            f"{where}: has {len(ends)} values, where the header has {len(cells)} cells."
        )
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts
    # a lone point or sign says no more than an empty field
    no_digit = (lengths == 0) | (
        (lengths == 1) & np.isin(text[np.minimum(starts, len(text) - 1)], (43, 46))
    )
    if no_digit.any():
        cell = cells[int(np.argmax(no_digit))]
        raise ValueError(f"{where}: the value of cell {cell!r} is empty; write 0 where it is zero.")
    telling = np.flatnonzero(~IS_ZERO[text] & ~is_end)
    columns = np.unique(np.searchsorted(ends, telling))
    fields = [rest[a:b] for a, b in zip(starts[columns], ends[columns], strict=True)]
    try:
        values = np.array(fields, dtype=bytes).astype(np.float64)
    except ValueError:
        values = np.array([_number(v) for v in fields])
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"{where}: the value of cell {cells[columns[first]]!r} is {fields[first].decode()!r}, "
            "no finite number."
        )
    return columns, values


def _number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return np.nan
