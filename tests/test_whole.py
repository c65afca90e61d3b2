"""Files and folders appear whole or not at all."""

import os

import pytest

from scgm_scvi import _whole
from scgm_scvi._whole import remove_whole, written_whole


def write(part, text, folder):
    """A file, or a folder with a file in it."""
    if folder:
        part.mkdir()
        part = part / "x"
    part.write_text(text)


def tree(folder):
    """What is in a folder, by name."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=[False, True], ids=["beside", "tmp"])
def tmp(request, tmp_path):
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp" if request.param else None


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("before", [None, False, True], ids=["nothing", "file", "folder"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
class TestWritten:
    def test_the_new_takes_the_place_of_the_old(self, tmp_path, tmp, folder, before, sync):
        path = tmp_path / "cells.zarr"
        if before is not None:
            write(path, "old", before)
        old = tree(tmp_path)
        with written_whole(path, tmp=tmp, sync=sync) as part:
            write(part, "new", folder)
            assert old.items() <= tree(tmp_path).items()  # readers see what was there
            assert path.exists() == (before is not None)
        assert tree(tmp_path) == {"cells.zarr/x" if folder else "cells.zarr": "new"}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.zarr", "tmp"]

    def test_an_error_leaves_what_was_there(self, tmp_path, tmp, folder, before, sync):
        path = tmp_path / "cells.zarr"
        if before is not None:
            write(path, "old", before)
        old = tree(tmp_path)
        with pytest.raises(KeyboardInterrupt), written_whole(path, tmp=tmp, sync=sync) as part:
            write(part, "new", folder)
            raise KeyboardInterrupt
        assert tree(tmp_path) == old

    def test_a_rename_that_fails(self, tmp_path, tmp, folder, before, sync, monkeypatch):
        path = tmp_path / "cells.zarr"
        if before is not None:
            write(path, "old", before)
        old = tree(tmp_path)

        def full(*args):
            raise OSError("no room")

        monkeypatch.setattr(_whole.os, "replace", full)
        with (
            pytest.raises(OSError, match="no room"),
            written_whole(path, tmp=tmp, sync=sync) as part,
        ):
            write(part, "new", folder)
        assert tree(tmp_path) == old


@pytest.mark.parametrize("left", [False, True], ids=["file", "folder"])
def test_what_a_killed_process_left_is_written_over(tmp_path, left):
    write(tmp_path / "x.h5ad.part", "half", left)
    with written_whole(tmp_path / "x.h5ad") as part:
        assert not part.exists()
        part.write_text("new")
    assert tree(tmp_path) == {"x.h5ad": "new"}


def test_files_of_like_names_are_left_alone(tmp_path):
    for name in ("x.old", "x.bak"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        with written_whole(tmp_path / "x") as part:
            part.mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.bak", "x.old"]


def test_all_is_on_disk_before_it_appears(tmp_path, monkeypatch):
    synced, path = [], tmp_path / "x"
    fsync = os.fsync

    def noted(handle):
        synced.append((os.fstat(handle).st_ino, path.exists()))
        fsync(handle)

    monkeypatch.setattr(_whole.os, "fsync", noted)
    with written_whole(path, sync=True) as part:
        write(part, "new", folder=True)
    inside = {(p.stat().st_ino, False) for p in (path, path / "x")}
    assert set(synced[:2]) == inside
    assert synced[2:] == [(tmp_path.stat().st_ino, True)]


def test_a_folder_is_removed_by_way_of_another(tmp_path):
    write(tmp_path / "x", "old", folder=True)
    (tmp_path / "tmp").mkdir()
    remove_whole(tmp_path / "x", tmp_path / "tmp")
    assert [p.name for p in tmp_path.rglob("*")] == ["tmp"]
