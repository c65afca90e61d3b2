"""A new source is one file, and a line that enters it in the registry."""

from pathlib import Path

import numpy as np
import pytest
from atlas_mirror import NO_QC, QUICK, on_axis
from atlas_server import FixtureServer
from atlas_truth import truth, write_10x_h5

from scgm_scvi import atlas
from scgm_scvi.atlas import SOURCES, Record, RemoteFile, Source, read_file, sources


class OurServer(Source):
    name = "ours"

    def catalog(self):
        for id in self.download.json(f"{self.url}/datasets.json"):
            yield Record(self.name, id, (RemoteFile("x.h5", f"{self.url}/{id}.h5"),))

    def read(self, record, files):
        return read_file(files["x.h5"])


class OurFolder(Source):
    name = "folder"
    is_local = True

    def catalog(self):
        for path in Path(self.url).iterdir():
            yield Record(self.name, path.name, (RemoteFile(path.name, str(path)),))

    def fetch(self, record):
        return {f.name: Path(f.url) for f in record.files}

    def read(self, record, files):
        return read_file(*files.values())


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(SOURCES, "ours", OurServer)
    monkeypatch.setitem(SOURCES, "folder", OurFolder)


def plan_of(source: str, id: str, url: str) -> atlas.Plan:
    training = {"genes": 20}
    dataset = {"source": source, "id": id}
    values = {"dataset": [dataset], "urls": {source: url}, "qc": NO_QC, "training": training}
    return atlas.Plan.from_dict(values)


def test_a_source_that_is_one_class_is_listed_and_built_from(tmp_path):
    cells = truth(40, 60)
    with FixtureServer() as server:
        server.put_json("/datasets.json", ["lung"])
        server.put("/lung.h5", write_10x_h5(cells, tmp_path / "lung.h5").read_bytes())
        assert atlas.catalog("ours", url=server.url, **QUICK)["id"].tolist() == ["lung"]
        report = atlas.build(plan_of("ours", "lung", server.url), tmp_path / "s", **QUICK)
    assert report["status"].tolist() == ["stored"], report.to_string()
    stored = atlas.open(tmp_path / "s")["ours-lung"].to_memory()
    np.testing.assert_array_equal(stored.X.toarray(), on_axis(cells))
    with pytest.raises(ValueError, match="source is 'our'; known are .*Did you mean 'ours'"):
        atlas.catalog("our")


def test_files_of_the_user_are_never_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    path = write_10x_h5(truth(40, 60), tmp_path / "mine" / "x.h5")
    plan = plan_of("folder", "x.h5", str(path.parent))
    report = atlas.build(plan, tmp_path / "s", keep_downloads=False, **QUICK)
    assert report["status"].tolist() == ["stored"], report.to_string()
    assert path.exists()


def test_every_source_in_the_folder_is_found():
    files = Path(sources.__file__).parent.glob("*.py")
    written = {
        f"{sources.__name__}.{p.stem}" for p in files if '(Source):\n    """' in p.read_text()
    }
    assert written
    assert written <= {source.__module__ for source in SOURCES.values()}
