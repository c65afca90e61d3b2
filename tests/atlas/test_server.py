"""The server that other tests trust."""

import httpx
import pytest
from atlas_server import FixtureServer, Response

BODY = bytes(range(256)) * 40


@pytest.fixture
def server():
    with FixtureServer({"/f.bin": BODY}) as server:
        yield server


def get(server, path, method="GET", **headers):
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.request(method, server.url + path, headers=headers, trust_env=False)


def test_whole_parts_and_head(server):
    whole = get(server, "/f.bin")
    assert (whole.status_code, whole.content) == (200, BODY)
    assert whole.headers["content-length"] == str(len(BODY))
    assert get(server, "/f.bin", "HEAD").headers["etag"] == whole.headers["etag"]
    assert get(server, "/f.bin", "HEAD").content == b""
    part = get(server, "/f.bin", range="bytes=100-199")
    assert (part.status_code, part.content) == (206, BODY[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(BODY)}"
    assert get(server, "/f.bin", range="bytes=10000-").content == BODY[10000:]
    assert get(server, "/f.bin", range="bytes=-7").content == BODY[-7:]
    past = get(server, "/f.bin", range=f"bytes={len(BODY)}-")
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{len(BODY)}")
    assert get(server, "/nothing").status_code == 404


def test_if_range(server):
    etag = get(server, "/f.bin").headers["etag"]
    assert get(server, "/f.bin", range="bytes=5-", if_range=etag).status_code == 206
    server.put("/f.bin", BODY[::-1])
    stale = get(server, "/f.bin", range="bytes=5-", if_range=etag)
    assert (stale.status_code, stale.content) == (200, BODY[::-1])
    server.put("/f.bin", BODY, ranges=False)
    assert get(server, "/f.bin", range="bytes=5-").status_code == 200


def test_faults_wait_in_line(server):
    server.fault("/f.bin", status=503, headers={"Retry-After": "2"}, times=2)
    server.fault("/f.bin", body=b"wrong")
    server.fault("/f.bin", cut=10)
    server.fault("/f.bin", length=len(BODY) + 1)
    for _ in range(2):
        busy = get(server, "/f.bin")
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "2")
    assert get(server, "/f.bin").content == b"wrong"
    for _ in ("cut", "length"):
        with pytest.raises(httpx.RemoteProtocolError):
            get(server, "/f.bin")
    assert get(server, "/f.bin").content == BODY
    assert len(server.requests_of("/f.bin")) == 6
    with pytest.raises(TypeError, match="retry"):
        server.fault("/f.bin", retry=3)


def test_functions_queries_and_redirects(server):
    server.put("/files", lambda r: r.query["page"].encode())
    server.put("/files?page=2", lambda r: Response(b"two", 418))
    assert get(server, "/files?page=1").text == "1"
    assert (get(server, "/files?page=2").text, get(server, "/files?page=2").status_code) == (
        "two",
        418,
    )
    server.redirect("/old", "/f.bin", status=301, retry_after=3)
    old = get(server, "/old")
    assert (old.status_code, old.headers["location"]) == (301, server.url + "/f.bin")
    assert old.headers["retry-after"] == "3"
    assert server.requests[-1].headers["host"] in server.url
    assert server.put_json("/j", {"url": server.url}) == server.url + "/j"
    assert get(server, "/j").json() == {"url": server.url}
