import hashlib
import io
import subprocess
import tarfile

import pytest

from scgm_scvi.datasets import _atlas_files, atlas_files

FILES = {"data/a.h5ad": b"cells", "docs/b.h5": b"more cells"}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A source package whose build system is nowhere to be had, in a place where pip finds it."""
    place = tmp_path / "index"
    place.mkdir()
    files = {
        "pyproject.toml": b'[build-system]\nrequires = ["nope"]\nbuild-backend = "no.such.thing"\n',
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Python: >=99\n",
        **FILES,
    }
    with tarfile.open(place / "tiny-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"tiny-1.0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    sha256 = hashlib.sha256((place / "tiny-1.0.tar.gz").read_bytes()).hexdigest()
    members = {"data/a.h5ad": "a.h5ad", "docs/b.h5": "b.h5"}
    archives = [("tiny", "1.0", sha256, "no.such.thing", members)]
    monkeypatch.setattr(_atlas_files, "_ARCHIVES", archives)
    monkeypatch.setenv("SCGM_SCVI_DATA", str(tmp_path / "kept"))
    return place


def test_pip_fetches_the_archive_and_the_files_are_as_published(index, tmp_path, pip_finds):
    pip_finds(index)
    paths = atlas_files(tmp_path / "out")
    assert [p.name for p in paths] == ["a.h5ad", "b.h5"]
    assert [p.read_bytes() for p in paths] == list(FILES.values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.h5ad", "b.h5"]


def test_files_that_are_there_are_left_as_they_are(index, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("reached for pip")

    monkeypatch.setattr(subprocess, "run", refuse)
    (tmp_path / "out").mkdir()
    for name in ("a.h5ad", "b.h5"):
        (tmp_path / "out" / name).write_bytes(b"mine")
    assert {p.read_bytes() for p in atlas_files(tmp_path / "out")} == {b"mine"}
