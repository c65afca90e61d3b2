"""How servers are asked: who we are, how often, how again, and where we won't go."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import urlsplit
from weakref import finalize

import httpx
import numpy as np

__all__ = ["Retry", "DownloadError", "Session", "short"]

T = TypeVar("T")

REDIRECTS = {301, 302, 303, 307, 308}
BUSY = {408, 425, 429, 500, 502, 503, 504}
EXPIRED = {400, 401, 403}  # what object stores say to a signed URL that is too old
MOST_REDIRECTS = 20
LONGEST_BACKOFF = 60.0  # seconds


class DownloadError(RuntimeError):
    """A file or document that could not be had: its URL, what was found, and what to do."""


class Retry(Exception):
    """An attempt has failed in a way that another one may not.

    Parameters
    ----------
    reason
        What was found.
    wait
        Seconds that the server asks for.
    progress
        Whether so much was won that earlier failures don't count.
    """

    def __init__(self, reason: str, *, wait: float | None = None, progress: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.progress = progress


class Session:
    """An HTTP client with manners.

    The parameters are those of :class:`scgm_scvi.atlas.Downloader`.
    """

    def __init__(
        self,
        *,
        min_interval: float,
        intervals: Mapping[str, float],
        connections: int,
        retries: int,
        timeout: float,
        max_wait: float,
        insecure_hosts: Collection[str],
        rng: np.random.Generator | None,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        transport: httpx.BaseTransport | None,
    ) -> None:
        self.retries = retries
        self._max_wait = max_wait
        self._min_interval = min_interval
        self._intervals = {host.lower(): seconds for host, seconds in intervals.items()}
        self._insecure = {host.lower() for host in insecure_hosts}
        # the process's number: workers that fail together must not come back together
        self._rng = rng if rng is not None else np.random.default_rng(os.getpid())
        self._sleep = sleep
        self._clock = clock
        self._guard = threading.Lock()
        self._free_at: dict[str, float] = {}  # when a host may be asked next
        self._open_to = defaultdict(lambda: threading.BoundedSemaphore(connections))
        address = "https://scgm-scvi.readthedocs.io"
        local = ("localhost", "127.0.0.1", "[::1]")
        client = httpx.Client(
            headers={"User-Agent": f"scgm-scvi/{version('scgm_scvi')} (+{address})"},
            timeout=timeout,
            follow_redirects=False,
            transport=transport,
            # no proxy for this machine itself
            mounts=None if transport else {f"all://{host}": None for host in local},
        )
        self._client = client
        self.close = finalize(self, client.close)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The response to a GET, its body not yet read: 200, 206 or 416, redirects followed.

        Raises
        ------
        Retry
            If the server is busy, or has gone.
        DownloadError
            If it has no such thing, or sends us where we don't go.
        """
        at = self.require_allowed(url)
        waited, redirects = 0.0, 0
        while True:
            with self._ask(at, headers) as response:
                status = response.status_code
                if status == 200 or status in {206, 416} and "Range" in headers:
                    yield response
                    return
                wait = seconds_of(response.headers.get("Retry-After"))
                to = response.headers.get("Location")
            if status not in REDIRECTS:
                self._refuse(url, at, status, wait, redirects)
            if to is None:
                raise DownloadError(f"{url}: status {status} without a Location from {at.host}.")
            at = self.require_allowed(to, at)
            if wait is None:
                redirects += 1
                if redirects > MOST_REDIRECTS:
                    raise DownloadError(
                        f"{url}: more than {MOST_REDIRECTS} redirects, the last one to "
                        f"{short(at)}: the server sends us in circles; report it to its keepers."
                    )
            else:  # not ready yet; ask there again
                wait = max(wait, 1.0)
                waited += wait
                self._require_patience(url, waited)
                self._sleep(wait)

    def retried(self, url: str, attempt: Callable[[], T]) -> T:
        """The result of an attempt that may raise :class:`Retry` a few times."""
        failures = 0
        while True:
            try:
                return attempt()
            except Retry as error:
                failures = 1 if error.progress else failures + 1
                if failures > self.retries:
                    raise DownloadError(
                        f"{url}: given up after {failures} attempts, the last of which ended with: "
                        f"{error}. Run again later; a file goes on where it stopped."
                    ) from error
                wait = self._backoff(failures) if error.wait is None else error.wait
                self._sleep(wait)

    def _backoff(self, failures: int) -> float:
        with self._guard:
            jitter = self._rng.uniform(0.5, 1.5)
        return min(2.0 ** (failures - 1), LONGEST_BACKOFF) * jitter

    def _refuse(
        self, url: str, at: httpx.URL, status: int, wait: float | None, redirects: int
    ) -> None:
        found = f"status {status} from {short(at)}"
        if status in BUSY:
            if wait is not None:
                self._require_patience(url, wait)
                with self._guard:  # all that ask this host wait
                    until = self._clock() + wait
                    self._free_at[at.host] = max(self._free_at.get(at.host, until), until)
                wait = 0.0
            raise Retry(found, wait=wait)
        if redirects and status in EXPIRED:
            raise Retry(found)
        remedy = {404: "is the name right, and is it still there?", 410: "it is there no more."}
        raise DownloadError(f"{url}: {found}: {remedy.get(status, 'the server refuses it.')}")

    def _require_patience(self, url: str, wait: float) -> None:
        if wait > self._max_wait:
            raise DownloadError(
                f"{url}: the server asks us to wait {wait:.0f} s, more than max_wait "
                f"({self._max_wait:.0f} s): run again later, or raise max_wait."
            )

    @contextmanager
    def _ask(self, url: httpx.URL, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        with self._guard:
            door = self._open_to[url.host]
        with door:
            with self._guard:
                now = self._clock()
                start = max(now, self._free_at.get(url.host, now))
                gap = self._intervals.get(url.host, self._min_interval)
                self._free_at[url.host] = start + gap
            if start > now:
                self._sleep(start - now)
            try:
                with self._client.stream("GET", url, headers=headers) as response:
                    yield response
            except (httpx.TransportError, httpx.DecodingError) as error:
                raise Retry(f"{type(error).__name__}: {error} ({short(url)})") from error

    def require_allowed(self, url: str, origin: httpx.URL | None = None) -> httpx.URL:
        """A URL, parsed, if it may be asked; ``origin`` is where a redirect to it came from.

        Raises
        ------
        DownloadError
            If it may not.
        """
        try:
            to = httpx.URL(url) if origin is None else origin.join(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise DownloadError(f"{url!r} is not a URL: {error}.") from error
        found = short(to) + (f" (a redirect from {short(origin)})" if origin else "")
        if to.scheme not in {"http", "https"} or not to.host:
            raise DownloadError(f"{found}: only http and https addresses are downloaded.")
        if origin and _is_loopback(to.host) and not _is_loopback(origin.host):
            raise DownloadError(f"{found}: a server must not send us to this machine itself.")
        if to.scheme == "http":
            if origin and origin.scheme == "https":
                raise DownloadError(f"{found}: from https to http, where anybody may change it.")
            if to.host not in self._insecure and not _is_loopback(to.host):
                raise DownloadError(
                    f"{found}: http, which anybody on the way may change. Use https, or add "
                    f"{to.host!r} to insecure_hosts if it has none."
                )
        return to


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date; None where it makes no sense."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)


def short(url: httpx.URL) -> str:
    """A URL without its query, which may be a signature that nobody else should read."""
    parts = urlsplit(str(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
