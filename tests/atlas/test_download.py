"""Downloads from a server that fails in every way it can; nothing sleeps."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from atlas_server import FixtureServer, Response
from hypothesis import given, settings
from hypothesis import strategies as st

import scgm_scvi
from scgm_scvi.atlas import RemoteFile
from scgm_scvi.atlas.download import _partial_download as partial_download
from scgm_scvi.atlas.download._checksum_lock import ChecksumError, ChecksumLock
from scgm_scvi.atlas.download._downloader import Downloader, DownloadError
from scgm_scvi.atlas.download._http import seconds_of

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server():
    with FixtureServer({"/d/f.h5": BODY}) as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def slept():
    return []


@pytest.fixture
def make(cache, slept):
    """Downloaders that note how long they would have slept."""
    made = []

    def make(**options) -> Downloader:
        options = {"min_interval": 0, "sleep": slept.append, **options}
        made.append(Downloader(cache, rng=np.random.default_rng(0), **options))
        return made[-1]

    yield make
    for download in made:
        download.close()


@pytest.fixture
def remote(server):
    return RemoteFile("f.h5", server.url + "/d/f.h5", size=len(BODY), sha256=SHA, md5=MD5[:10])


def bare(remote: RemoteFile) -> RemoteFile:
    return dataclasses.replace(remote, size=None, sha256=None, md5=None)


def ranges(server, path="/d/f.h5"):
    return [r.headers["range"] for r in server.requests_of(path)]


def left(cache: Path) -> list[str]:
    """All files in the cache but the guards of processes."""
    files = (p for p in cache.rglob("*") if p.is_file() and not p.name.endswith(".part.lock"))
    return sorted(p.relative_to(cache).as_posix() for p in files)


def test_a_file_is_downloaded_once_and_we_say_who_we_are(server, cache, make, remote):
    seen = []
    download = make(progress=lambda *progress: seen.append(progress))
    path = download.file(remote, "set")
    assert path == cache / "set" / "f.h5" and path.read_bytes() == BODY
    assert download.file(remote, "set") == path and make().file(remote, "set") == path
    assert left(cache) == ["set/f.h5"]
    (request,) = server.requests
    assert request.headers["user-agent"] == (
        f"scgm-scvi/{scgm_scvi.__version__} (+https://scgm-scvi.readthedocs.io)"
    )
    assert request.headers["accept-encoding"] == "identity"
    done = [d for _, d, _ in seen]
    assert done == sorted(done) and seen[-1] == (remote, len(BODY), len(BODY))


@pytest.mark.parametrize("known", [True, False])
def test_cut_twice_it_goes_on_where_it_stopped(server, make, remote, slept, known):
    server.fault("/d/f.h5", cut=851_968)
    server.fault("/d/f.h5", cut=851_968)
    path = make().file(remote if known else bare(remote), "set")
    assert path.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=851968-", "bytes=1703936-"]
    assert {r.headers["if-range"] for r in server.requests[1:]} == {
        f'"{hashlib.md5(BODY).hexdigest()}"'
    }
    assert len(slept) == 2 and 0.5 <= slept[0] <= 1.5 and 1 <= slept[1] <= 3


def test_attempts_that_bring_much_do_not_count(server, make, remote):
    server.fault("/d/f.h5", cut=2**20, times=2)
    assert make(retries=1).file(remote, "set").read_bytes() == BODY
    server.put("/d/f.h5", BODY, etag='"other"')
    server.fault("/d/f.h5", cut=1000, times=2)
    with pytest.raises(DownloadError, match=r"2 attempts.*Run again later"):
        make(retries=1).file(remote, "other")
    # what there is stays for the next time
    make().file(remote, "other")
    assert ranges(server)[-1] == "bytes=2000-"


@pytest.mark.parametrize("headers", [{"Retry-After": "7"}, {"Retry-After": "date"}, {}])
@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_left_alone_for_as_long_as_it_says(
    server, make, remote, slept, status, headers
):
    if headers.get("Retry-After") == "date":
        headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=9))}
    server.fault("/d/f.h5", status=status, headers=headers)
    make().file(remote, "set")
    least, most = {"7": (6.5, 7), None: (0.5, 1.5)}.get(headers.get("Retry-After"), (6, 9))
    assert len([s for s in slept if least <= s <= most]) == 1 and sum(slept) <= most
    server.fault("/d/f.h5", status=status, headers={"Retry-After": "99999"})
    with pytest.raises(DownloadError, match="wait 99999 s.*max_wait"):
        make().file(remote, "other")


@settings(deadline=None)
@given(st.text() | st.integers().map(str) | st.datetimes().map(format_datetime))
def test_any_retry_after_is_survived(text):
    seconds = seconds_of(text)
    assert seconds is None or seconds >= 0


def test_wrong_bytes_are_thrown_away_and_tried_once_more(server, cache, make, remote):
    wrong = bytes(len(BODY))
    server.fault("/d/f.h5", body=wrong)
    assert make().file(remote, "set").read_bytes() == BODY
    assert ranges(server) == [None, None]
    server.fault("/d/f.h5", body=wrong, times=2)
    with pytest.raises(DownloadError, match=f"md5 .* in place of {MD5[:10]}, twice.*list") as info:
        make().file(remote, "other")
    assert remote.url in str(info.value)
    assert left(cache) == ["set/f.h5"] and len(server.requests) == 4


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ({"sha256": "0" * 64}, f"sha256 {SHA} in place of 0000"),
        ({"md5": "0123456789"}, f"md5 {MD5} in place of 0123456789"),
        ({"size": 5, "sha256": None, "md5": None}, f"{len(BODY)} bytes announced in place of 5"),
        ({"size": 2**40}, f"{len(BODY)} bytes announced in place of {2**40}"),
    ],
)
def test_a_lying_catalogue(server, cache, make, remote, lie, found):
    with pytest.raises(DownloadError, match=found):
        make().file(dataclasses.replace(remote, **lie), "set")
    assert left(cache) == [] and len(server.requests) == 2


@pytest.mark.parametrize("lie", [{"sha256": "xyz"}, {"md5": ""}, {"md5": "f" * 40}])
def test_what_cannot_be_a_checksum_is_refused_at_once(server, cache, make, remote, lie):
    with pytest.raises(DownloadError, match="is said to be its"):
        make().file(dataclasses.replace(remote, **lie), "set")
    assert not server.requests and not cache.exists()


@pytest.mark.parametrize("length", [1_000_000, 9_000_000])
def test_a_lying_content_length(server, cache, make, remote, length):
    only_sha = dataclasses.replace(remote, size=None)
    server.fault("/d/f.h5", length=length)
    # too short: the wrong checksum shows it; too long: the end of the connection
    assert make().file(only_sha, "set").read_bytes() == BODY


def test_a_file_that_changes_in_between_starts_again(server, make, remote):
    new = BODY[::-1]
    server.fault("/d/f.h5", cut=1_000_000)

    def swap(seconds: float) -> None:
        server.put("/d/f.h5", new)

    assert make(sleep=swap).file(bare(remote), "set").read_bytes() == new
    assert ranges(server) == [None, "bytes=1000000-"]  # and a 200 to the second


def test_a_part_of_another_file_is_not_put_behind(server, make, remote):
    # a server that minds Range but not If-Range
    def careless(request):
        start = int((request.headers["range"] or "bytes=0-")[6:-1])
        body = BODY[::-1] if start else BODY
        headers = {"ETag": '"new"' if start else '"old"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        return Response(body[start:], 206 if start else 200, headers, ranges=False)

    server.put("/d/f.h5", careless)
    server.fault("/d/f.h5", cut=1_000_000)
    assert make().file(bare(remote), "set").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("options", [{"ranges": False}, {"etag": 'W/"weak"'}])
def test_without_ranges_or_a_strong_etag_it_starts_again(server, make, remote, options):
    server.put("/d/f.h5", BODY, **options)
    server.fault("/d/f.h5", cut=1_000_000)
    assert make().file(bare(remote), "set").read_bytes() == BODY
    expected = "bytes=1000000-" if "ranges" in options else None
    assert ranges(server) == [None, expected]


def test_without_an_etag_a_checksum_lets_it_go_on(server, make, remote):
    server.put("/d/f.h5", BODY, etag='W/"weak"')
    server.fault("/d/f.h5", cut=1_000_000)
    assert make().file(remote, "set").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-"]
    assert server.requests[1].headers["if-range"] is None


def test_a_part_of_another_address_is_not_gone_on_with(server, cache, make, remote):
    server.put("/new/f.h5", BODY[::-1], etag='"same"')
    server.put("/d/f.h5", BODY, etag='"same"')
    server.fault("/d/f.h5", cut=1_000_000)
    with pytest.raises(DownloadError, match="1 attempts"):
        make(retries=0).file(bare(remote), "set")
    assert left(cache) == ["set/f.h5.part", "set/f.h5.part.json"]
    moved = dataclasses.replace(bare(remote), url=server.url + "/new/f.h5")
    assert make().file(moved, "set").read_bytes() == BODY[::-1]
    assert ranges(server, "/new/f.h5") == [None]


def test_a_part_longer_than_the_file_starts_again(server, cache, make, remote):
    server.fault("/d/f.h5", cut=1_000_000)
    with pytest.raises(DownloadError):
        make(retries=0).file(bare(remote), "set")
    with (cache / "set" / "f.h5.part").open("ab") as part:
        part.write(BODY)
    assert make().file(bare(remote), "set").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=4000000-", None]


def test_a_body_of_unknown_length_that_ends_early(make, remote):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Range"))
        if len(asked) == 1:
            return httpx.Response(200, headers={"ETag": '"1"'}, content=iter([BODY[:1000]]))
        headers = {"Content-Range": f"bytes 1000-{len(BODY) - 1}/*"}
        return httpx.Response(206, headers=headers, content=iter([BODY[1000:]]))

    download = make(transport=httpx.MockTransport(answer))
    sized = dataclasses.replace(bare(remote), size=len(BODY))
    assert download.file(sized, "set").read_bytes() == BODY
    assert asked == [None, "bytes=1000-"]


def test_a_part_that_nobody_asked_for(make, remote):
    headers = {"Content-Range": f"bytes 5-9/{len(BODY)}"}
    answer = lambda request: httpx.Response(206, headers=headers, content=iter([BODY[5:10]]))
    download = make(transport=httpx.MockTransport(answer))
    for ask in (lambda: download.text(remote.url), lambda: download.file(remote, "set")):
        with pytest.raises(DownloadError, match="status 206"):
            ask()


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_was_whole_before_the_process_died(server, cache, make, remote, extra):
    part = cache / "set" / "f.h5.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY + extra)
    assert make().file(remote, "set").read_bytes() == BODY
    expected = [f"bytes={len(BODY) + len(extra)}-"] + ([None] if extra else [])
    assert ranges(server) == expected and left(cache) == ["set/f.h5"]


def test_azul_is_polled_and_its_signed_urls_are_asked_for_again(server, make, remote, slept):
    server.redirect("/files/u", "/files/u/ready?token=1", status=301, retry_after=3)
    server.redirect("/files/u/ready", "/blob?Signature=secret", status=302)
    server.put("/blob", BODY)
    # not ready twice; then cut, and the signature has run out when it goes on
    server.fault(
        "/files/u/ready",
        status=301,
        headers={"Location": "/files/u/ready?token=2", "Retry-After": "5"},
    )
    server.fault("/blob", cut=1_000_000)
    server.fault("/blob", status=403)
    file = dataclasses.replace(remote, url=server.url + "/files/u")
    assert make().file(file, "set").read_bytes() == BODY
    assert [s for s in slept if s >= 3] == [3, 5, 3, 3]
    assert ranges(server, "/blob") == [None, "bytes=1000000-", "bytes=1000000-"]
    assert len(server.requests_of("/files/u")) == 3
    for seconds, polls in ((3, 6), (0, 20)):  # never ready
        before = len(server.requests)
        server.redirect("/files/u", "/files/u", status=301, retry_after=seconds)
        with pytest.raises(DownloadError, match="max_wait"):
            make(max_wait=20).file(file, "other")
        assert len(server.requests) == before + polls + 1
    server.fault("/blob", status=403, times=None)
    server.redirect("/files/u", "/blob?Signature=secret")
    with pytest.raises(DownloadError, match="status 403") as info:
        make(retries=1).file(file, "other")
    assert "secret" not in str(info.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(server, make, remote, status):
    server.redirect("/old", "/d/f.h5", status=status)
    moved = dataclasses.replace(remote, url=server.url + "/old")
    assert make().file(moved, "set").read_bytes() == BODY
    server.redirect("/circle", "/circle", status=status)
    with pytest.raises(DownloadError, match="in circles"):
        make().file(dataclasses.replace(remote, url=server.url + "/circle"), "other")
    server.fault("/old", status=status)
    with pytest.raises(DownloadError, match="without a Location"):
        make().file(moved, "other")


@pytest.mark.parametrize(
    ("url", "to", "found"),
    [
        ("http://a.org/x", None, "add 'a.org' to insecure_hosts"),
        ("ftp://a.org/x", None, "only http and https"),
        ("file:///etc/passwd", None, "only http and https"),
        ("/etc/passwd", None, "only http and https"),
        ("https://a.org:x/", None, "is not a URL"),
        ("https://a.org/x", "http://a.org/x", "from https to http"),
        ("https://a.org/x", "http://tisch.org/x", "from https to http"),
        ("https://a.org/x", "https://127.0.0.1/x", "this machine itself"),
        ("http://tisch.org/x", "http://localhost/x", "this machine itself"),
        ("http://tisch.org/x", "http://b.org/x", "add 'b.org'"),
        ("https://a.org/x", "file:///etc/passwd", "only http and https"),
        ("http://TISCH.org/x", None, None),
        ("http://127.0.0.1/x", None, None),
        ("http://[::1]/x", None, None),
        ("http://tisch.org/x", "https://b.org/x", None),
        ("https://a.org/x", "//b.org/y", None),
    ],
)
def test_where_we_do_not_go(make, cache, url, to, found):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if to and len(asked) == 1:
            return httpx.Response(302, headers={"Location": to})
        return httpx.Response(200, content=iter([b"here"]))

    transport = httpx.MockTransport(answer)
    download = make(transport=transport, insecure_hosts=["Tisch.org"])
    if found is None:
        assert download.file(RemoteFile("x", url), "set").read_bytes() == b"here"
        assert download.text(url) == "here"
        return
    with pytest.raises(DownloadError, match=found):
        download.file(RemoteFile("x", url), "set")
    assert len(asked) == (to is not None) and left(cache) == []
    asked.clear()
    with pytest.raises(DownloadError, match=found):
        download.json(url)


NAMES = st.text(max_size=8) | st.lists(
    st.sampled_from(
        ["..", "/", "\\", ".", "a", "C:", "\0", "~", " ", "CON", ".part", ".part.json", "é", "%2e"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None)
@given(NAMES, NAMES)
def test_no_name_leaves_the_cache(tmp_path_factory, name, folder):
    root = tmp_path_factory.mktemp("names")
    cache = root / "up" / "cache"
    body = httpx.MockTransport(lambda request: httpx.Response(200, content=iter([b"here"])))
    with Downloader(cache, transport=body, min_interval=0) as download:
        try:
            path = download.file(RemoteFile(name, "https://a.org/x"), folder)
        except DownloadError as error:
            assert "cannot name a file in the cache" in str(error)
            assert list(root.rglob("*")) == []
        else:
            assert path.parent.parent == cache and path.read_bytes() == b"here"
            assert path.name == name and path.parent.name == folder
            assert left(root) == [path.relative_to(root).as_posix()]
            assert path.resolve().is_relative_to(cache.resolve())


BAD_NAMES = ["", ".", "..", "../x", "/x", "a/b", "a\\b", "C:x", "x\0", "x.part", "x.PART.json"]
BAD_NAMES += ["x.", " x", "x\n", "NUL", "nul.h5", "é" * 101, "\ud800", None]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(make, cache, name):
    for names in ((name, "set"), ("x", name)):
        with pytest.raises(DownloadError, match="cannot name a file"):
            make().file(RemoteFile(names[0], "https://a.org/x"), names[1])
    assert not cache.exists()


def test_caps(server, cache, make, remote):
    with pytest.raises(DownloadError, match="max_bytes is 1000000"):
        make(max_bytes=1_000_000).file(remote, "set")
    assert not server.requests  # the catalogue had said so
    with pytest.raises(DownloadError, match="3000000 bytes or more, and max_bytes"):
        make(max_bytes=1_000_000).file(bare(remote), "set")
    got = []

    def endless(request: httpx.Request) -> httpx.Response:
        def chunks():
            while True:
                got.append(1)
                yield bytes(100_000)

        return httpx.Response(200, content=chunks())

    lies = make(max_bytes=1_000_000, max_text_bytes=500_000, transport=httpx.MockTransport(endless))
    with pytest.raises(DownloadError, match="1100000 bytes or more"):
        lies.file(bare(remote), "set")
    assert len(got) == 11
    with pytest.raises(DownloadError, match="more than 250000 bytes, twice"):
        lies.file(dataclasses.replace(remote, size=250_000), "set")
    with pytest.raises(DownloadError, match="max_text_bytes"):
        lies.json(remote.url)
    assert left(cache) == []


def test_a_bomb_of_text_is_not_unpacked(make):
    bomb = gzip.compress(bytes(50_000_000))
    headers = {"Content-Encoding": "gzip"}
    transport = httpx.MockTransport(lambda r: httpx.Response(200, content=bomb, headers=headers))
    download = make(transport=transport, max_text_bytes=1_000_000)
    with pytest.raises(DownloadError, match="max_text_bytes"):
        download.text("https://a.org/x.json")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(server, cache, make, remote, monkeypatch, code):
    write = partial_download._write

    def full(file, chunk: bytes) -> None:
        if file.tell() > 1_000_000:
            raise OSError(code, os.strerror(code))
        write(file, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(partial_download, "_write", full)
        with pytest.raises(DownloadError, match="no room left for it .*free some space"):
            make().file(remote, "set")
        assert left(cache) == []  # others can go on
    server.fault("/d/f.h5", cut=400_000)
    with pytest.raises(DownloadError):
        make(retries=0).file(remote, "set")
    with monkeypatch.context() as patch:
        patch.setattr(
            partial_download.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_500_000)
        )
        with pytest.raises(DownloadError, match="2600000 bytes are missing and the disk"):
            make().file(remote, "set")  # the part stays, for when there is room
        # what an old part takes is free when it starts again
        part = cache / "other" / "f.h5.part"
        part.parent.mkdir()
        part.write_bytes(bytes(600_000))
        assert make().file(bare(remote), "other").read_bytes() == BODY
    assert make().file(remote, "set").read_bytes() == BODY
    assert ranges(server)[-1] == "bytes=400000-"


def test_writes_that_take_a_part_alone():
    written = bytearray()

    def write(chunk: memoryview) -> int:
        written.extend(chunk[:3])
        return min(3, len(chunk))

    partial_download._write(SimpleNamespace(write=write), b"0123456789")
    assert written == b"0123456789"


def test_packed_bodies(server, make):
    packed = {"Content-Encoding": "gzip"}  # as some servers say of any .gz
    url = server.put("/m.tsv", b"\x1f\x8bbytes", headers=packed)
    path = make().file(RemoteFile("m.tsv.gz", url), "set")
    assert path.read_bytes() == b"\x1f\x8bbytes"
    with pytest.raises(DownloadError, match="packed with 'gzip'"):
        make().file(RemoteFile("m.tsv", url), "set")


def test_the_lock_holds_the_first_download(server, cache, make, remote, tmp_path):
    lock = ChecksumLock(tmp_path / "scgdb.lock")
    make(lock=lock).file(bare(remote), "set")
    locked = lock.get("set/f.h5")
    assert (locked.url, locked.size, locked.sha256) == (remote.url, len(BODY), SHA)
    assert locked.etag == f'"{MD5}"'
    # the same bytes elsewhere: fine. A file that has been spoiled: brought again
    path = cache / "set" / "f.h5"
    path.write_bytes(bytes(len(BODY)))
    assert make(lock=lock).file(bare(remote), "set").read_bytes() == BODY
    assert len(server.requests) == 2
    # another version: refused, and the old one stays
    server.put("/d/f.h5", BODY[::-1])
    path.unlink()
    with pytest.raises(ChecksumError, match=f"(?s){SHA}.*remove the entry 'set/f.h5' from"):
        make(lock=lock).file(bare(remote), "set")
    assert left(cache) == [] and len(server.requests) == 4
    # a catalogue that speaks of another version is refused before anything is asked
    for lie in ({"size": 5}, {"sha256": "0" * 64, "size": None}):
        with pytest.raises(ChecksumError, match="is said to have"):
            make(lock=lock).file(dataclasses.replace(remote, **lie), "set")
    assert len(server.requests) == 4
    lock.remove("set/f.h5")
    assert make(lock=lock).file(bare(remote), "set").read_bytes() == BODY[::-1]


def test_a_file_that_was_there_before_the_lock_is_pinned(make, remote, tmp_path):
    make().file(remote, "set")
    lock = ChecksumLock(tmp_path / "scgdb.lock")
    make(lock=lock).file(remote, "set")
    assert lock.get("set/f.h5").sha256 == SHA


def test_threads_share_one_download_and_two_connections(server, make, remote):
    for i in range(6):
        server.put(f"/many/{i}", BODY[i:])
    now, most = [], []

    def progress(file: RemoteFile, done: int, total: int | None) -> None:
        now.append(file.name)
        most.append(len(set(now)))
        time.sleep(0.002)
        now.remove(file.name)

    download = make(progress=progress)
    files = [remote] * 4 + [RemoteFile(f"{i}", f"{server.url}/many/{i}") for i in range(6)]
    with ThreadPoolExecutor(10) as pool:
        paths = list(pool.map(lambda f: download.file(f, "set"), files))
    assert [p.read_bytes() for p in paths] == [BODY] * 4 + [BODY[i:] for i in range(6)]
    assert len(server.requests_of("/d/f.h5")) == 1
    assert max(most) == 2


def test_requests_to_a_host_keep_their_distance(server, cache, remote):
    now, starts = [100.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def answer(request: httpx.Request) -> httpx.Response:
        starts.append((request.url.host, now[0]))
        return httpx.Response(200, text="here")

    with Downloader(
        cache,
        intervals={"Slow.org": 5},
        sleep=sleep,
        clock=lambda: now[0],
        transport=httpx.MockTransport(answer),
    ) as download:
        for host in ("a.org", "a.org", "slow.org", "slow.org", "a.org", "slow.org"):
            download.text(f"https://{host}/x")
    assert starts == [
        ("a.org", 100),
        ("a.org", 101),
        ("slow.org", 101),
        ("slow.org", 106),
        ("a.org", 106),
        ("slow.org", 111),
    ]


def test_documents(server, make):
    url = server.put_json("/index", {"url": server.url, "ä": [1]})
    assert make().json(url, size=5, filters=json.dumps({"a": "b&c"})) == {
        "url": server.url,
        "ä": [1],
    }
    assert server.requests[-1].query == {"size": "5", "filters": '{"a": "b&c"}'}
    make().text(url + "?page=2&x=%20", size=5)
    assert server.requests[-1].query == {"page": "2", "x": " ", "size": "5"}
    make().text(url + "?x=%2Fa+b")
    assert server.requests[-1].path == "/index?x=%2Fa+b"  # links are followed to the letter
    latin = {"Content-Type": "text/plain; charset=latin-1"}
    assert make().text(server.put("/latin", "é".encode("latin-1"), headers=latin)) == "é"
    odd = {"Content-Type": "text/plain; charset=klingon"}
    assert make().text(server.put("/odd", b"\xef\xbb\xbfa", headers=odd)) == "a"
    server.fault("/index", cut=3)
    server.fault("/index", status=500)
    assert make().json(url)["url"] == server.url
    with pytest.raises(DownloadError, match=r"not JSON .* begins with '<html>"):
        make().json(server.put("/page", b"<html></html>"))
    with pytest.raises(DownloadError, match="/gone: status 404 .*still there"):
        make().json(server.url + "/gone")


# A package of which only the downloader is imported, for a quick start of other processes.
CHILD = """
import sys, types
for name, path in (("scgm_scvi", {root!r}), ("scgm_scvi.atlas", {root!r} + "/atlas")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from scgm_scvi.atlas.download._downloader import Downloader
from scgm_scvi.atlas.download._remote_file import RemoteFile
with Downloader({cache!r}, min_interval=0) as download:
    download.file(RemoteFile(*{remote!r}), "set")
"""


def child(cache: Path, remote: RemoteFile) -> subprocess.Popen:
    code = CHILD.format(
        root=str(Path(scgm_scvi.__file__).parent),
        cache=str(cache),
        remote=dataclasses.astuple(remote),
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_it_goes_on(server, cache, make, remote):
    server.fault("/d/f.h5", hang=1_000_000)
    part = cache / "set" / "f.h5.part"
    with child(cache, bare(remote)) as process:
        for _ in range(2000):
            if part.exists() and part.stat().st_size == 1_000_000:
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert make().file(bare(remote), "set").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-"] and left(cache) == ["set/f.h5"]


@pytest.mark.slow
def test_two_processes_want_the_same_file(server, cache, remote):
    server.fault("/d/f.h5", cut=1_000_000)
    processes = [child(cache, remote) for _ in range(2)]
    for process in processes:
        with process:
            assert process.wait(60) == 0, process.stderr.read()
    assert (cache / "set" / "f.h5").read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000000-"]
