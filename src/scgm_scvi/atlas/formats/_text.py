"""Text files, compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from scgm_scvi._errors import listed

from ._errors import no_damage

__all__ = ["delimiter_of", "first_fields", "open_text", "read_lines", "read_meta"]


def open_text(path: Path) -> BinaryIO:
    """Bytes of a file, decompressed where it begins like a gzip file, whatever its name."""
    with open(path, "rb") as f:
        zipped = f.read(2) == b"\x1f\x8b"
    # as reading a gzip file line by line is slow
    return io.BufferedReader(gzip.open(path), 1 << 20) if zipped else open(path, "rb")


def delimiter_of(line: str) -> str:
    """What separates the fields of a header: a tab if there is one, else a comma, a semicolon."""
    return next((d for d in "\t,;" if d in line), " ")


def first_fields(line: str, delimiter: str) -> list[str]:
    """Fields of one line, without their quotes."""
    return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])


def read_lines(path: Path) -> list[str]:
    """Lines that are not empty, without their ends."""
    with open_text(path) as f:
        lines = f.read().decode("utf-8-sig").splitlines()
    return [line for line in lines if line]


def read_meta(path: Path, index: str | None = None) -> pd.DataFrame:
    """A table of cells by their names, in the column ``index`` or else the first one.

    Raises
    ------
    ValueError
        Two rows have the same name, or there is no column of that name.
    """
    with no_damage(path), open_text(path) as f:
        header = f.readline().decode("utf-8-sig", "replace")
        f.seek(0)
        columns = first_fields(header, delimiter_of(header))
        index = index or next(iter(columns), "")
        if index not in columns:
            raise ValueError(f"{path}: no column {index!r}; its columns: {listed(columns)}.")
        options = {"sep": delimiter_of(header), "dtype": {index: str}, "low_memory": False}
        options["encoding"], options["encoding_errors"] = "utf-8-sig", "replace"
        try:
            meta = pd.read_csv(f, **options)
        except ValueError as e:
            raise ValueError(f"{path}: no table ({str(e).strip()}).") from e
    names = meta.pop(index).astype(str)
    if names.duplicated().any():
        raise ValueError(f"{path}: cell {names[names.duplicated()].iloc[0]!r} is there twice.")
    return meta.set_index(pd.Index(names, dtype=object))
