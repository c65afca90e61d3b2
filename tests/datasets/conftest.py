"""Where data sets are kept, and a pip without network, for those that pip fetches."""

from __future__ import annotations

import subprocess
from importlib import metadata

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that is looked in; it does not exist yet."""
    folder = tmp_path / "a folder" / "data"
    monkeypatch.setenv("SCGM_SCVI_DATA", str(folder))
    return folder


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("reached for pip")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def pip_finds(monkeypatch):
    """The real pip, which finds packages in a folder and nowhere else."""
    if not list(metadata.distributions(name="pip")):  # an import would have effects
        pytest.skip("pip is not installed")

    def set_folder(index):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        for name in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)

    return set_folder
