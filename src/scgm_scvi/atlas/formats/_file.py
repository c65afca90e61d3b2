"""Any file, by what is in it."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import Any

import h5py

from scgm_scvi._errors import listed
from scgm_scvi.atlas.formats._reading import Reading

from ._archive import MAX_BYTES, gunzip, unpack
from ._errors import UnsupportedFormat, no_damage
from ._h5 import open_h5
from ._h5ad import read_h5ad
from ._loom import read_loom
from ._mtx import read_mtx
from ._table import read_table
from ._tenx_h5 import read_10x_h5

__all__ = ["find_files", "mtx_parts", "read_file"]

HDF5 = b"\x89HDF\r\n\x1a\n"
TABLES = (".tsv", ".csv", ".txt", ".tab")
READ = "h5ad, 10x h5, loom, Matrix Market, tables of text, and .tar archives of one of them"


def read_file(path: Path | str, *, max_bytes: int = MAX_BYTES, **options: Any) -> Reading:
    """Genes and cells of a file, in whatever format it is.

    HDF5 files are told apart by what they hold: h5ad, 10x Genomics' h5, or loom. Beside a
    ``matrix.mtx`` its features and barcodes are looked for, under names with the same beginning. A
    folder or an archive (``.tar``, ``.tar.gz``) has to hold exactly one such file. Archives and
    gzipped HDF5 files are unpacked into a temporary folder (``TMPDIR`` says where), which is
    removed with the reading.

    Parameters
    ----------
    path
        File or folder.
    max_bytes
        Largest archive, unpacked.
    **options
        For the function that reads the format, such as ``layer`` for :func:`read_h5ad`.

    Raises
    ------
    UnsupportedFormat
        The format is none of these.
    ValueError
        The file is damaged, or there are none or several to read.
    """
    path = Path(path)
    if path.is_dir():
        return read_file(_only_one(path, path), max_bytes=max_bytes, **options)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    with no_damage(path):
        zipped, start = _beginning(path)
    if start.startswith(HDF5):
        return _unpacked(path, max_bytes, options) if zipped else _read_h5(path, options)
    if start.startswith(b"%%MatrixMarket"):
        return read_mtx(path, *mtx_parts(path), **options)
    with no_damage(path):
        if tarfile.is_tarfile(path):
            return _unpacked(path, max_bytes, options)
    if path.name.lower().removesuffix(".gz").endswith(TABLES) and b"\0" not in start:
        return read_table(path, **options)
    raise UnsupportedFormat(f"{path}: this format is not read. These are: {READ}.")


def find_files(folder: Path) -> list[Path]:
    """All files below a folder that can be read, sorted; of a Matrix Market one the matrix.

    Tables are those that the UCSC Cell Browser calls ``exprMatrix``.
    """
    found = []
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in files:
            low = name.lower().removesuffix(".gz")
            if name.startswith("."):
                continue
            path = Path(at, name)
            is_h5 = low.endswith((".h5ad", ".h5", ".hdf5", ".loom"))
            if is_h5 and (low != name.lower() or _kind(path)):
                found.append(path)
            elif low.endswith(".mtx") or low.endswith(tuple(f"exprmatrix{t}" for t in TABLES)):
                found.append(path)
    return sorted(found)


def mtx_parts(path: Path) -> tuple[Path, Path]:
    """Features and barcodes that belong to a Matrix Market file, by their names.

    Beside ``GSM1_matrix.mtx.gz`` these are ``GSM1_features.tsv.gz`` (or ``genes``) and
    ``GSM1_barcodes.tsv.gz``, and without the beginning where there are none with it.

    Raises
    ------
    ValueError
        They are not beside it.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".mtx")
    # of "GSM1_matrix" and "GSM1_counts"
    prefixes = dict.fromkeys([stem.removesuffix("matrix"), re.sub(r"[^._-]*$", "", stem), ""])
    parts = []
    for nouns in (("features", "genes"), ("barcodes", "cells")):
        names = [f"{p}{n}{end}" for p in prefixes for n in nouns for end in
                 (".tsv.gz", ".tsv", ".txt.gz", ".txt", ".csv.gz", ".csv")]  # fmt: skip
        beside = next((path.with_name(n) for n in names if path.with_name(n).exists()), None)
        if beside is None:
            raise ValueError(f"{path}: needs {names[0]} (or {names[1]}, ...) beside it.")
        parts.append(beside)
    return parts[0], parts[1]


def _beginning(path: Path) -> tuple[bool, bytes]:
    """Whether a file is gzipped, and its first bytes, decompressed."""
    with open(path, "rb") as f:
        start = f.read(512)
    if not start.startswith(b"\x1f\x8b"):
        return False, start
    with gzip.open(path) as f:
        return True, f.read(512)


def _kind(path: Path) -> str | None:
    """Format of an HDF5 file; None where it is none of ours, or damaged."""
    try:
        with open_h5(path) as f:
            matrix = f.get("matrix")
            if isinstance(matrix, h5py.Dataset) and "row_attrs" in f:
                return "loom"
            if "obs" in f and "X" in f:
                return "h5ad"
            groups = [v for v in f.values() if isinstance(v, h5py.Group)]
            if any("barcodes" in g and "indptr" in g for g in groups):
                return "10x"
    except (OSError, KeyError, RuntimeError):
        # a damaged file is to be listed, and to fail when it is read
        return "damaged" if path.suffix in (".h5ad", ".loom") else None
    return None


def _read_h5(path: Path, options: dict[str, Any]) -> Reading:
    with no_damage(path), open_h5(path) as f:
        names = list(f)
    reader = {"h5ad": read_h5ad, "loom": read_loom, "10x": read_10x_h5}.get(_kind(path))
    if reader is None:
        raise UnsupportedFormat(
            f"{path}: an HDF5 file of another kind, with {listed(names)}. These are read: {READ}."
        )
    return reader(path, **options)


def _unpacked(path: Path, max_bytes: int, options: dict[str, Any]) -> Reading:
    folder = Path(tempfile.mkdtemp(prefix="scgm-atlas-"))
    try:
        if tarfile.is_tarfile(path):
            unpack(path, folder, max_bytes=max_bytes)
            found = _only_one(folder, path)
        else:
            found = folder / path.name.removesuffix(".gz")
            gunzip(path, found, max_bytes=max_bytes)
        reading = read_file(found, max_bytes=max_bytes, **options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # a running iterator holds blocks, not the reading
    weakref.finalize(reading.blocks, shutil.rmtree, folder, ignore_errors=True)
    return reading


def _only_one(folder: Path, path: Path) -> Path:
    """The one file below the folder that can be read."""
    found = find_files(folder)
    if not found:
        found = [
            f
            for f in sorted(folder.rglob("*"))
            if f.name.lower().removesuffix(".gz").endswith(TABLES)
        ]
    if len(found) == 1:
        return found[0]
    names = [f.relative_to(folder) for f in sorted(folder.rglob("*")) if f.is_file()]
    what = f"{len(found)} files that can be read: {listed(f.relative_to(folder) for f in found)}"
    if not found:
        raise UnsupportedFormat(
            f"{path}: holds nothing that is read ({READ}), but {listed(names)}."
        )
    raise ValueError(f"{path}: holds {what}. Name one of them, or unpack it first.")
