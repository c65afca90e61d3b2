"""What was downloaded the first time, so that it is the same every other time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from filelock import FileLock

from scgm_scvi._whole import written_whole

__all__ = ["Checksum", "ChecksumError", "ChecksumLock"]

FORMAT = 1


class ChecksumError(RuntimeError):
    """A lock file that cannot be read, or a file that is not the one it holds."""


@dataclass(frozen=True)
class Checksum:
    """The checksum of a file, and where and when it was first seen.

    Parameters
    ----------
    url
        Where it came from.
    size
        In bytes.
    sha256
        In hexadecimal.
    etag
        The server's name of this version; None where it gave none.
    first_seen
        Day, as ``YYYY-MM-DD``, in UTC.
    """

    url: str
    size: int
    sha256: str
    etag: str | None
    first_seen: str


def _today() -> date:
    return datetime.now(UTC).date()


class ChecksumLock:
    """A lock file of checksums: trust on first use.

    Some sources give no checksums. The first download of a file is then taken at its word and
    written down here; whoever has the lock file gets the same bytes, or an error. It is JSON,
    sorted and a line a value, so that it can be kept under version control. Several threads and
    processes may use one file.

    Parameters
    ----------
    path
        The lock file; made with the first checksum.
    today
        Gives the day that is written as first seen.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from scgm_scvi.atlas import ChecksumLock
    >>> with TemporaryDirectory() as folder:
    ...     lock = ChecksumLock(Path(folder) / "scgdb.lock")
    ...     checksum = lock.add("a/x.h5", url="https://example.org/x.h5", size=3, sha256="0" * 64)
    ...     lock.get("a/x.h5").size, list(lock)
    (3, ['a/x.h5'])
    """

    def __init__(self, path: str | os.PathLike[str], *, today: Callable[[], date] = _today) -> None:
        self.path = Path(path)
        self._today = today

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._read()))

    def get(self, key: str) -> Checksum | None:
        """What is known of a file, by its ``"folder/name"``; None where that is nothing.

        Raises
        ------
        ChecksumError
            If the lock file is not one.
        """
        return self._read().get(key)

    def add(
        self, key: str, *, url: str, size: int, sha256: str, etag: str | None = None
    ) -> Checksum:
        """Write down a file, or compare it with what is written: size and sha256 must agree.

        Parameters
        ----------
        key
            ``"folder/name"`` in the cache.
        url, size, sha256, etag
            As of :class:`Checksum`.

        Returns
        -------
        The file as first seen.

        Raises
        ------
        ChecksumError
            If another file is written there, or the lock file is not one.
        """
        new = Checksum(url, size, sha256.lower(), etag, self._today().isoformat())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            known = self._read()
            old = known.get(key)
            if old is None:
                self._write({**known, key: new})
                return new
        if (old.size, old.sha256) != (new.size, new.sha256):
            raise ChecksumError(
                f"{key}: {url} has {size} bytes of sha256 {new.sha256}, but {self.path} says "
                f"{old.size} bytes of sha256 {old.sha256} since {old.first_seen}. "
                f"{self.remedy(key)}"
            )
        return old

    def remove(self, key: str) -> None:
        """Forget a file, so that whatever is downloaded next is trusted.

        Raises
        ------
        KeyError
            If the file isn't there.
        """
        with self._alone():
            known = self._read()
            if key not in known:
                raise KeyError(f"{self.path} holds no {key!r}.")
            del known[key]
            self._write(known)

    def remedy(self, key: str) -> str:
        """How a new version is accepted; the end of errors about a file that has changed."""
        return f"To accept a new version, remove the entry {key!r} from {self.path}."

    def _alone(self) -> FileLock:
        return FileLock(self.path.with_name(f".{self.path.name}.guard"))

    def _read(self) -> dict[str, Checksum]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ChecksumError(
                    f"{self.path} has format {values['format']!r}; this version of scgm_scvi "
                    f"reads format {FORMAT}: update the one or make the other anew."
                )
            known = {key: Checksum(**given) for key, given in values["files"].items()}
            for key, of in known.items():
                if not (type(of.size) is int and re.fullmatch("[0-9a-f]{64}", str(of.sha256))):
                    raise ValueError(f"{key!r} has no size in bytes and sha256")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChecksumError(
                f"{self.path} is not a lock file ({type(error).__name__}: {error}): mend it, or "
                "remove it to trust what is downloaded next."
            ) from error
        return known

    def _write(self, known: dict[str, Checksum]) -> None:
        values = {"format": FORMAT, "files": {k: asdict(c) for k, c in known.items()}}
        text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        with written_whole(self.path, sync=True) as part:  # one writer at a time has it
            part.write_text(text, encoding="utf-8", newline="\n")
