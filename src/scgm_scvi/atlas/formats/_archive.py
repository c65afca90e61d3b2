"""Tar archives, unpacked with care."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ._errors import no_damage

__all__ = ["MAX_BYTES", "gunzip", "unpack"]

MAX_BYTES = 1 << 38  # 256 GB
MAX_MEMBERS = 10_000


def unpack(path: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a tar archive, compressed or not, below a folder.

    Raises
    ------
    ValueError
        The archive is damaged; a member would lie outside of the folder, or is a link or a device;
        there are more than 10,000 members, or more than ``max_bytes`` bytes. What was unpacked
        before is left in the folder.
    """
    n_bytes = 0
    with no_damage(path), tarfile.open(path) as archive:
        for number, member in enumerate(archive, 1):
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or "\\" in member.name:
                raise ValueError(f"{path}: member {member.name!r} leads out of the archive.")
            if not (member.isfile() or member.isdir()):
                raise ValueError(f"{path}: member {member.name!r} is a link or a device.")
            n_bytes += member.size
            if n_bytes > max_bytes or number > MAX_MEMBERS:
                raise ValueError(
                    f"{path}: holds more than {max_bytes:,} bytes or {MAX_MEMBERS:,} members; "
                    "unpack it by hand if it is to be trusted."
                )
            # a Mac's archives hold a twin of each file in "._" files
            if member.isdir() or name.name.startswith("."):
                continue
            target = folder / name
            if target.exists():
                raise ValueError(f"{path}: member {member.name!r} is there twice.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as source, open(target, "xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def gunzip(path: Path, target: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Decompress a gzip file.

    Raises
    ------
    ValueError
        It is damaged, or larger than ``max_bytes``.
    """
    with no_damage(path), gzip.open(path) as source, open(target, "xb") as out:
        _copy(source, out, path, max_bytes)


def _copy(source: BinaryIO, out: BinaryIO, path: Path, max_bytes: int) -> None:
    n_bytes = 0
    while part := source.read(1 << 20):
        n_bytes += len(part)
        if n_bytes > max_bytes:
            raise ValueError(f"{path}: holds more than {max_bytes:,} bytes.")
        out.write(part)
