"""A server of files of one's own, and a downloader that does not wait."""

from __future__ import annotations

import pytest
from atlas_server import FixtureServer

from scgm_scvi.atlas.download._downloader import Downloader


@pytest.fixture
def server():
    with FixtureServer() as server:
        yield server


@pytest.fixture
def download(tmp_path):
    with Downloader(tmp_path / "cache", min_interval=0, sleep=lambda s: None) as download:
        yield download
