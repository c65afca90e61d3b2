"""Files and documents of other people's servers, as they are there, in a folder of ours."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from filelock import FileLock

from ._checksum_lock import ChecksumError, ChecksumLock
from ._http import DownloadError, Session
from ._partial_download import PartialDownload, WrongFile, plain_name
from ._remote_file import RemoteFile

__all__ = ["DownloadError", "Downloader"]

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Downloader:
    """Downloads files, and goes on where it stopped.

    Bytes are kept as ``<name>.part`` until all are there and right, so a file in the cache is a
    whole one. Servers are asked politely: with our name, at most ``connections`` at a time, a
    pause between requests, as late as their Retry-After says. May be used by several threads, and
    a cache by several processes.

    Parameters
    ----------
    cache
        Folder of the files; nothing is written outside of it.
    lock
        Where the first download of a file is written down, and every other one compared with it.
    min_interval
        Seconds between two requests to a host.
    intervals
        The same for single hosts, by name.
    connections
        Most open at a time to a host.
    max_bytes
        Largest file that is downloaded.
    max_text_bytes
        Largest document of :meth:`json` and :meth:`text`, unpacked.
    retries
        Attempts after the first one; those that brought a mebibyte or more don't count.
    timeout
        Seconds without a byte after which a connection is given up.
    max_wait
        Most seconds that a server may make us wait before it answers.
    insecure_hosts
        Hosts that have no https. Others are asked by https alone, except this machine itself.
    progress
        Called with the file, the bytes there so far and the bytes there will be, where known.
    rng
        Scatters the pauses between attempts.
    sleep, clock, transport
        In place of :func:`time.sleep`, :func:`time.monotonic` and the network, for tests.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import httpx
    >>> from scgm_scvi.atlas import Downloader, RemoteFile
    >>> server = httpx.MockTransport(lambda request: httpx.Response(200, content=iter([b"counts"])))
    >>> remote = RemoteFile("x.h5", "https://example.org/study/x.h5", size=6)
    >>> with TemporaryDirectory() as cache, Downloader(cache, transport=server) as download:
    ...     path = download.file(remote, "a-study")
    ...     path.relative_to(cache).as_posix(), path.read_bytes()
    ('a-study/x.h5', b'counts')
    """

    def __init__(
        self,
        cache: str | os.PathLike[str],
        *,
        lock: ChecksumLock | None = None,
        min_interval: float = 1.0,
        intervals: Mapping[str, float] | None = None,
        connections: int = 2,
        max_bytes: int | None = None,
        max_text_bytes: int = 2**28,
        retries: int = 5,
        timeout: float = 60.0,
        max_wait: float = 1800.0,
        insecure_hosts: Collection[str] = (),
        progress: Callable[[RemoteFile, int, int | None], None] | None = None,
        rng: np.random.Generator | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.cache = Path(cache)
        self.lock = lock
        self.max_bytes = max_bytes
        self.max_text_bytes = max_text_bytes
        self._progress = progress or (lambda remote, done, total: None)
        self._session = Session(
            min_interval=min_interval,
            intervals=intervals or {},
            connections=connections,
            retries=retries,
            timeout=timeout,
            max_wait=max_wait,
            insecure_hosts=insecure_hosts,
            rng=rng,
            sleep=sleep,
            clock=clock,
            transport=transport,
        )

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def file(self, remote: RemoteFile, folder: str) -> Path:
        """A file, downloaded unless it is there and right.

        Parameters
        ----------
        remote
            Where it is, and what it should be.
        folder
            Folder in the cache: a name, no path.

        Returns
        -------
        ``cache / folder / remote.name``.

        Raises
        ------
        DownloadError
            If the name would leave the cache, the file is too large, isn't there, isn't what it
            should be (after a second try), or the disk is full. A partial download stays for the next
            time, except on a full disk.
        ChecksumError
            If the file isn't the one in the lock file.
        """
        name = plain_name(remote.name, remote.url)
        path = self.cache / plain_name(folder, remote.url) / name
        part = PartialDownload(path, remote, max_bytes=self.max_bytes, progress=self._progress)
        key = f"{folder}/{name}"
        self._require_sense(remote, key)
        try:
            part.require_small(remote.size)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f"{name}.part.lock")):  # one process has the part
                if not self._is_right(path, remote, key):
                    self._download(part, key)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            part.discard()  # or nothing else could go on
            raise DownloadError(
                f"{remote.url}: no room left for it in {path.parent} ({error}): free some space "
                "and run again. Nothing was kept."
            ) from error
        return path

    def json(self, url: str, **params: Any) -> Any:
        """A JSON document, parsed.

        Parameters
        ----------
        url
            Where it is.
        **params
            Added to its query.

        Raises
        ------
        DownloadError
            If it isn't there, is too large, or isn't JSON.
        """
        text = self.text(url, **params)
        try:
            return json.loads(text)
        except ValueError as error:
            raise DownloadError(
                f"{url}: not JSON ({error}); it begins with {text[:60]!r}. Is this the right "
                "address?"
            ) from error

    def text(self, url: str, **params: Any) -> str:
        """A document, decoded as its server says, or as UTF-8; parameters as for :meth:`json`.

        Raises
        ------
        DownloadError
            If it isn't there or is too large.
        """
        if params:
            url = str(self._session.require_allowed(url).copy_merge_params(params))

        def attempt() -> str:
            body = bytearray()
            with self._session.get(url, {"Accept-Encoding": "gzip"}) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > self.max_text_bytes:
                        raise DownloadError(
                            f"{url}: more than {self.max_text_bytes} bytes of text: raise "
                            "max_text_bytes if it is meant to be so large."
                        )
                encoding = response.charset_encoding or "utf-8-sig"
            try:
                return body.decode(encoding, errors="replace")
            except LookupError:  # no such encoding
                return body.decode("utf-8-sig", errors="replace")

        return self._session.retried(url, attempt)

    def _require_sense(self, remote: RemoteFile, key: str) -> None:
        """Refuse a record that no file can fulfil, before anything is asked or written."""
        self._session.require_allowed(remote.url)
        for name, digits in (("sha256", "{64}"), ("md5", "{8,32}")):
            value = getattr(remote, name)
            if value is not None and not re.fullmatch(f"[0-9a-fA-F]{digits}", value):
                raise DownloadError(
                    f"{remote.url}: {value!r} is said to be its {name}, and cannot be: the "
                    "catalogue is wrong; list the source again, or tell its keepers."
                )
        locked = self.lock.get(key) if self.lock is not None else None
        for name in ("size", "sha256") if locked else ():
            theirs, ours = getattr(remote, name), getattr(locked, name)
            if theirs is not None and str(theirs).lower() != str(ours):
                raise ChecksumError(
                    f"{key}: {remote.url} is said to have {name} {theirs}, but {self.lock.path} "
                    f"says {ours} since {locked.first_seen}. {self.lock.remedy(key)}"
                )

    def _is_right(self, path: Path, remote: RemoteFile, key: str) -> bool:
        try:
            self._require_right(path, remote, key)
        except (FileNotFoundError, WrongFile, ChecksumError):
            return False
        return True

    def _require_right(
        self, path: Path, remote: RemoteFile, key: str, etag: str | None = None
    ) -> None:
        """Compare a whole file with its record and with the lock, and write it into the lock."""
        size = path.stat().st_size
        if remote.size is not None and size != remote.size:
            raise WrongFile(f"{size} bytes in place of {remote.size}")
        for name in ("md5", "sha256"):
            expected = getattr(remote, name)
            if expected is None and not (name == "sha256" and self.lock is not None):
                continue
            with path.open("rb") as file:  # sha256 comes last, for the lock
                found = hashlib.file_digest(file, name).hexdigest()
            if expected is not None and not found.startswith(expected.lower()):
                raise WrongFile(f"{name} {found} in place of {expected}")
        if self.lock is not None:
            self.lock.add(key, url=remote.url, size=size, sha256=found, etag=etag)

    def _download(self, part: PartialDownload, key: str) -> None:
        remote = part.remote
        for last in (False, True):
            try:
                self._session.retried(remote.url, lambda: part.fill(self._session))
                self._require_right(part.path, remote, key, part.etag)
            except (WrongFile, ChecksumError) as error:
                part.discard()
                if not last:
                    continue
                if isinstance(error, ChecksumError):
                    raise
                raise DownloadError(
                    f"{remote.url}: {error}, twice over. The file has changed since it was "
                    "catalogued, or its catalogue is wrong: list the source again, or tell its "
                    "keepers. Nothing was kept."
                ) from error
            part.finish()
            return
