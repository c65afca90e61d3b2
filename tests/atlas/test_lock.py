import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from scgm_scvi.atlas.download._checksum_lock import ChecksumError, ChecksumLock

A, B = "a" * 64, "b" * 64


@pytest.fixture
def lock(tmp_path):
    return ChecksumLock(tmp_path / "new" / "scgdb.lock", today=lambda: date(2026, 1, 2))


def test_the_first_is_trusted_and_the_others_must_match(lock):
    assert lock.get("s/x.h5") is None and list(lock) == []
    first = lock.add("s/x.h5", url="https://a.org/x.h5", size=3, sha256=A.upper(), etag='"1"')
    # a mirror of the same bytes is the same file, and what was seen first stays
    again = ChecksumLock(lock.path, today=lambda: date(2027, 1, 1)).add(
        "s/x.h5", url="https://mirror.org/x.h5", size=3, sha256=A, etag='"2"'
    )
    assert again == first == lock.get("s/x.h5")
    before = lock.path.read_bytes()
    for size, sha256 in ((3, B), (4, A)):
        with pytest.raises(ChecksumError, match=f"(?s){sha256}.*{A}.*2026-01-02.*remove the entry"):
            lock.add("s/x.h5", url="https://a.org/x.h5", size=size, sha256=sha256)
    assert lock.path.read_bytes() == before
    lock.remove("s/x.h5")
    assert lock.add("s/x.h5", url="https://a.org/x.h5", size=4, sha256=B).sha256 == B
    with pytest.raises(KeyError, match="nothing"):
        lock.remove("nothing")


def test_the_file_is_sorted_json_with_a_line_a_value(lock):
    for name in ("b/2", "a/1", "c/é"):
        lock.add(name, url="https://a.org", size=1, sha256=A)
    text = lock.path.read_text(encoding="utf-8")
    assert list(json.loads(text)["files"]) == list(lock) == ["a/1", "b/2", "c/é"]
    assert text.endswith("}\n") and '   "sha256": "' + A + '",\n' in text and "é" in text
    same = ChecksumLock(lock.path.with_name("same"), today=lambda: date(2026, 1, 2))
    for name in ("c/é", "b/2", "a/1"):
        same.add(name, url="https://a.org", size=1, sha256=A)
    assert same.path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<<<<<<< ours",
        "[]",
        "{}",
        '{"format": 1, "files": {"a": 3}}',
        '{"format": 1, "files": {"a": {"url": "u"}}}',
        json.dumps(
            {
                "format": 1,
                "files": {
                    "a": {"url": "", "size": 1, "sha256": "x", "etag": None, "first_seen": ""}
                },
            }
        ),
    ],
)
def test_what_is_no_lock_file_is_left_alone(lock, text):
    lock.path.parent.mkdir()
    lock.path.write_text(text)
    for use in (list, lambda k: k.get("a"), lambda k: k.add("a", url="", size=1, sha256=A)):
        with pytest.raises(ChecksumError, match="scgdb.lock is not a lock file"):
            use(lock)
    assert lock.path.read_text() == text


def test_another_format_is_refused(lock):
    lock.path.parent.mkdir()
    lock.path.write_text('{"format": 2, "files": {}}')
    with pytest.raises(ChecksumError, match="format 2"):
        list(lock)


def test_many_writers_lose_nothing(lock):
    def add(i: int) -> None:  # each its own object, as in processes of their own
        ChecksumLock(lock.path).add(f"s/{i % 20}", url="https://a.org", size=i % 20, sha256=A)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(60)))
    assert len(list(lock)) == 20 and lock.get("s/7").size == 7
