"""A file of somebody else's server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RemoteFile"]


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, and what the server says it should be.

    Parameters
    ----------
    name
        File name in the cache, no folders in it.
    url
        Where it is.
    size
        In bytes.
    sha256, md5
        In hexadecimal; ``md5`` may be its first digits alone, as the UCSC Cell Browser gives it.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
