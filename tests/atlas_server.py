"""A web server on 127.0.0.1 that has what a test gives it, and fails when told to.

>>> with FixtureServer() as server:
...     server.put("/a.txt", b"counts")
...     server.put_json("/index.json", {"file": server.url + "/a.txt"})
...     server.fault("/a.txt", status=503, headers={"Retry-After": "2"})  # the first time only
...     server.fault("/a.txt", cut=3)  # the time after that
...     server.redirect("/old", "/a.txt", status=301, retry_after=0)
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["FixtureServer", "Request", "Response"]


@dataclass(frozen=True)
class Request:
    """What a client has asked for. ``path`` is as sent, with its query."""

    method: str
    path: str
    headers: Message  # headers["range"]: names in any case, None where absent

    @property
    def query(self) -> dict[str, str]:
        """Parameters after the '?'; the last one of each name."""
        return {k: v[-1] for k, v in parse_qs(urlsplit(self.path).query).items()}


@dataclass
class Response:
    """An answer. ``ranges`` and ``etag`` (default: a hash of the body) are for status 200 alone."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = None


class FixtureServer:
    """Serves bytes by path, with Range, If-Range, ETag, HEAD, and scripted faults.

    A context manager; ``url`` is known from the start (``http://127.0.0.1:<port>``), so that bodies
    may hold links to the server itself. ``requests`` lists every request so far.

    Parameters
    ----------
    files
        Path to body, as for :meth:`put`.
    """

    def __init__(self, files: dict[str, bytes | Callable[[Request], Any]] | None = None) -> None:
        self.requests: list[Request] = []
        self._answers: dict[str, Callable[[Request], Any]] = {}
        self._faults: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"fixture": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        for path, body in (files or {}).items():
            self.put(path, body)

    def put(self, path: str, body: bytes | Callable[[Request], Any], **options: Any) -> str:
        """Serve a body under a path, in place of what was there; the URL.

        ``body`` may be a function of the :class:`Request` that returns bytes or a
        :class:`Response`. A path with a query is found before the same path without.
        ``options`` are those of :class:`Response`: ``headers``, ``ranges=False``, ``etag``, ...
        """
        answer = body if callable(body) else lambda request: body
        self._answers[path] = lambda request: _response(answer(request), options)
        return self.url + path

    def put_json(self, path: str, value: Any, **options: Any) -> str:
        """Serve a value as JSON; the URL."""
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.put(path, json.dumps(value).encode(), headers=headers, **options)

    def redirect(self, path: str, to: str, *, status: int = 302, retry_after: object = None) -> str:
        """Send on to another path of this server, or to a whole URL; the URL."""
        headers = {"Location": to if "://" in to else self.url + to}
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        return self.put(path, b"", status=status, headers=headers)

    def requests_of(self, path: str) -> list[Request]:
        """Requests so far of a path, whatever their query."""
        return [r for r in self.requests if urlsplit(r.path).path == path]

    def fault(self, path: str, *, times: int | None = 1, **fault: Any) -> None:
        """Do wrong the next ``times`` (None: always) that a path is asked for.

        Faults of a path wait in line: each is used up before the next one begins. They are

        - ``status=503, headers={"Retry-After": "2"}``: this status, with these headers alone, no body;
        - ``body=b"..."``: other bytes, with the ETag of the right ones;
        - ``cut=n``: the connection ends after n bytes of the body;
        - ``hang=n``: after n bytes nothing more comes until the server closes;
        - ``length=n``: a Content-Length that lies;
        - ``ranges=False``: Range is ignored;
        - ``etag='"x"'``: another ETag; ``headers={...}``: more headers.
        """
        known = {"status", "headers", "body", "cut", "hang", "length", "ranges", "etag"}
        if not fault or fault.keys() - known:
            raise TypeError(f"a fault has some of {sorted(known)}, not {sorted(fault)}")
        self._faults[path].append({**fault, "times": times})

    def _fault_of(self, path: str) -> dict[str, Any]:
        with self._lock:
            line = self._faults.get(path)
            if not line:
                return {}
            fault = line[0]
            if fault["times"] is not None:
                fault["times"] -= 1
                if fault["times"] == 0:
                    line.pop(0)
            return fault

    def __enter__(self) -> FixtureServer:
        # polls often, for a quick shutdown
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _response(answer: Any, options: dict[str, Any]) -> Response:
    return answer if isinstance(answer, Response) else Response(answer, **options)


class _Handler(BaseHTTPRequestHandler):
    fixture: FixtureServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def handle(self) -> None:
        """Serve a connection until it ends; a client may go without a word."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer a GET or a HEAD."""
        request = Request(self.command, self.path, self.headers)
        self.fixture.requests.append(request)
        bare = urlsplit(self.path).path
        answers = self.fixture._answers
        answer = answers.get(self.path) or answers.get(bare)
        fault = self.fixture._fault_of(bare)
        if answer is None and "status" not in fault:
            self.send_error(404)
            return
        response = answer(request) if answer else Response()
        self._send(response, fault)

    do_HEAD = do_GET

    def _send(self, response: Response, fault: dict[str, Any]) -> None:
        if "status" in fault:
            response = Response(status=fault["status"])
        headers = {**response.headers, **fault.get("headers", {})}
        status, body = response.status, response.body
        etag = fault.get("etag", response.etag or f'"{hashlib.md5(body).hexdigest()}"')
        body = fault.get("body", body)
        if status == 200:
            headers = {"ETag": etag, **headers}
            if response.ranges and fault.get("ranges", True):
                headers["Accept-Ranges"] = "bytes"
                status, body, more = _part(body, self.headers, etag)
                headers.update(more)
        cut = fault.get("cut", fault.get("hang"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(fault.get("length", len(body))))
        if cut is not None or "length" in fault:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if "hang" in fault:
            self.fixture._closing.wait()

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""


def _part(body: bytes, asked: Message, etag: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, bytes and headers for one range of a body; the whole for none, or a stale one."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("Range", ""))
    stale = "If-Range" in asked and (asked["If-Range"] != etag or etag.startswith("W/"))
    if not found or found.groups() == ("", "") or stale:
        return 200, body, {}
    first, last = found.groups()
    if first:
        start, end = int(first), min(int(last or len(body)), len(body) - 1)
    else:  # the last so many bytes
        start, end = max(len(body) - int(last), 0), len(body) - 1
    if start > end:
        return 416, b"", {"Content-Range": f"bytes */{len(body)}"}
    headers = {"Content-Range": f"bytes {start}-{end}/{len(body)}"}
    return 206, body[start : end + 1], headers
