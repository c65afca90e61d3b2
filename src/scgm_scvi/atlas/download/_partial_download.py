"""A partial download: the bytes so far, and what says that the rest is of the same file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from ._http import DownloadError, Retry, Session
from ._remote_file import RemoteFile

__all__ = ["PartialDownload", "WrongFile", "plain_name"]

PROGRESS = 2**20  # bytes that make an attempt count as none that failed
LONGEST_NAME = 200  # bytes; file systems allow 255, and a partial one has a suffix
RESERVED = re.compile(
    r"\.part(\.json|\.lock)?$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE
)


class WrongFile(Exception):
    """What has come is not what was announced."""


def plain_name(name: str, url: str) -> str:
    """``name``, if it can be a file or folder here and on other systems, and nothing but that.

    Raises
    ------
    DownloadError
        If it has a path, a drive or a control character in it, or means something else.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()  # no control characters, no lone surrogates
        or re.search(r"[/\\:]", name)
        or name != name.strip(" ")
        or name.endswith(".")
        or not 0 < len(name.encode()) <= LONGEST_NAME
        or RESERVED.search(name)
    ):
        raise DownloadError(
            f"{url}: {name!r} cannot name a file in the cache. It must be a name without folders, "
            f"of at most {LONGEST_NAME} bytes, that does not end with '.part'."
        )
    return name


class PartialDownload:
    """The bytes of a file so far, as ``<name>.part``, and its ETag, as ``<name>.part.json``.

    Parameters
    ----------
    path
        Where the whole file will be.
    remote
        What is downloaded.
    max_bytes
        Largest file that is.
    progress
        Called with the file, the bytes so far, and all of them where known.
    """

    def __init__(
        self,
        path: Path,
        remote: RemoteFile,
        *,
        max_bytes: int | None,
        progress: Callable[[RemoteFile, int, int | None], None],
    ) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.remote = remote
        self._whole = path
        self._notes = path.with_name(f"{path.name}.part.json")
        self._max_bytes = max_bytes
        self._progress = progress

    @property
    def etag(self) -> str | None:
        """Strong ETag of the bytes so far; None where there is none, or for another URL."""
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return notes["etag"] if notes["url"] == self.remote.url else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def discard(self) -> None:
        """Begin anew the next time."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def finish(self) -> None:
        """Be the whole file from now on."""
        os.replace(self.path, self._whole)
        self._notes.unlink(missing_ok=True)

    def require_small(self, size: int | None) -> None:
        """Refuse more bytes than are wanted."""
        if self._max_bytes is not None and size is not None and size > self._max_bytes:
            self.discard()
            raise DownloadError(
                f"{self.remote.url}: {size} bytes or more, and max_bytes is {self._max_bytes}: "
                "raise it, or leave this file out."
            )

    def fill(self, session: Session) -> None:
        """Download what is missing, in one request; all of it, or :class:`Retry`."""
        etag = self.etag
        start = self.path.stat().st_size if self.path.exists() else 0
        if not (etag or self.remote.sha256 or self.remote.md5):
            start = 0  # nothing would tell that the rest is of another file
        headers = {"Accept-Encoding": "identity"}  # the file's own bytes, whether .gz or not
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": etag} if etag else {})
        done = start
        try:
            with session.get(self.remote.url, headers) as response:
                first, total = _range_of(response)
                if response.status_code == 416:
                    if start != (self.remote.size if total is None else total):
                        self.discard()
                        raise Retry(f"no bytes from {start} on, of {total}")
                    return
                theirs = response.headers.get("ETag")
                if first and (first != start or etag and theirs not in {None, etag}):
                    self.discard()
                    raise Retry(f"bytes from {first} on of {theirs}, not from {start} of {etag}")
                start = done = first
                self._require_sense(response, total, start)
                with self.path.open("ab" if start else "wb", buffering=0) as file:
                    if not start:  # a new file: its ETag is written after the old bytes are gone
                        self._note(theirs)
                    for chunk in response.iter_raw():
                        _write(file, chunk)
                        done += len(chunk)
                        self.require_small(done)
                        if self.remote.size is not None and done > self.remote.size:
                            raise WrongFile(f"more than {self.remote.size} bytes")
                        self._progress(self.remote, done, total or self.remote.size)
                    os.fsync(file.fileno())
            missing = (total if total is not None else self.remote.size or 0) - done
            if missing > 0:
                raise Retry(f"{missing} bytes missing")
        except Retry as error:
            error.progress = done - start >= PROGRESS
            raise

    def _note(self, etag: str | None) -> None:
        # a weak one says that files are alike, not that their bytes are
        strong = None if etag is None or etag.startswith("W/") else etag
        notes = {"url": self.remote.url, "etag": strong}
        self._notes.write_text(json.dumps(notes), encoding="utf-8")

    def _require_sense(self, response: httpx.Response, total: int | None, start: int) -> None:
        """Refuse a body that cannot be the file, or has no room, before any of it is read."""
        remote = self.remote
        packed = response.headers.get("Content-Encoding", "identity")
        if packed != "identity" and not remote.name.lower().endswith((".gz", ".tgz", ".bgz")):
            raise DownloadError(
                f"{remote.url}: packed with {packed!r}, though its own bytes were asked for; "
                f"{remote.name!r} would not be what its name says. Tell the server's keepers."
            )
        if total is None:
            return
        if remote.size is not None and total != remote.size:
            raise WrongFile(f"{total} bytes announced in place of {remote.size}")
        self.require_small(total)
        free = shutil.disk_usage(self.path.parent).free + (0 if start else self._size())
        if total - start > free:
            raise DownloadError(
                f"{remote.url}: {total - start} bytes are missing and the disk of "
                f"{self.path.parent} has {free}: free some space and run again."
            )

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def _range_of(response: httpx.Response) -> tuple[int, int | None]:
    """First byte of the body in the file, and the bytes of the whole file where they are said."""
    headers: Mapping[str, str] = response.headers
    if response.status_code == 200:
        length = headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(
        r"bytes (?:([0-9]{1,18})-[0-9]+|\*)/([0-9]{1,18}|\*)", headers.get("Content-Range", "")
    )
    if not found:
        return -1, None  # no part that was asked for
    first, total = found.groups()
    return int(first or 0), None if total == "*" else int(total)


def _write(file, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:  # a write may take a part alone, as on a disk that is nearly full
        rest = rest[file.write(rest) :]
