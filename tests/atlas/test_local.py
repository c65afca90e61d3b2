"""Files of one's own, where they lie."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from atlas_truth import (
    truth,
    write_10x_h5,
    write_cellxgene,
    write_loom,
    write_mtx,
    write_ucsc,
)
from scipy import sparse

from scgm_scvi.atlas import SOURCES
from scgm_scvi.atlas.sources._local import LocalSource

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
KNOWN = truth()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cxg").mkdir()
    write_cellxgene(KNOWN, tmp_path / "cxg" / "a.h5ad")
    write_10x_h5(KNOWN, tmp_path / "b.h5")
    write_loom(KNOWN, tmp_path / "c.loom")
    write_mtx(KNOWN, tmp_path / "mtx")
    write_mtx(KNOWN, tmp_path / "many", prefix="GSM1_")
    write_mtx(KNOWN, tmp_path / "many", prefix="GSM2_")
    write_ucsc(KNOWN, tmp_path / "ucsc")
    (tmp_path / "notes.txt").write_text("nothing to read")
    (tmp_path / ".hidden").mkdir()
    write_10x_h5(KNOWN, tmp_path / ".hidden" / "b.h5")
    return tmp_path


def test_everything_that_can_be_read_is_listed_and_read(folder):
    source = SOURCES["local"](None, base_url=str(folder))
    records = {r.id: r for r in source.catalog()}
    assert list(records) == [
        "b.h5",
        "c.loom",
        "cxg/a.h5ad",
        "many/GSM1_matrix.mtx.gz",
        "many/GSM2_matrix.mtx.gz",
        "mtx/matrix.mtx.gz",
        "ucsc/exprMatrix.tsv.gz",
    ]
    for record in records.values():
        files = source.fetch(record)
        assert record.size == sum(p.stat().st_size for p in files.values())
        assert all(p.is_relative_to(folder) for p in files.values())
        reading = source.read(record, files)
        assert (sparse.vstack(list(reading.blocks(50))) != KNOWN.X).nnz == 0
        assert list(reading.var.index) == list(KNOWN.var_names)
        assert record == type(record).from_dict(record.to_dict())
    assert list(reading.obs["Cell Type"]) == list(KNOWN.obs["cell_type"])


def test_columns_of_the_authors_get_standard_names(folder):
    source = LocalSource(None, base_url=str(folder))
    record = next(r for r in source.catalog() if r.id.startswith("ucsc"))
    files = source.fetch(record)
    reading = source.read(record, files, columns={"cell_type": "Cell Type", "donor": "Donor"})
    assert list(reading.obs["cell_type"]) == list(KNOWN.obs["cell_type"])
    assert list(reading.obs["donor"]) == list(reading.obs["Donor"])
    with pytest.raises(KeyError, match="'Cell type' is not in obs.*Did you mean 'Cell Type'"):
        source.read(record, files, columns={"cell_type": "Cell type"})
    with pytest.raises(KeyError, match="'celltype' is no standard column.*'cell_type'"):
        source.read(record, files, columns={"celltype": "Cell Type"})


def test_layers(tmp_path):
    adata = ad.AnnData(KNOWN.X * 0.5, obs=KNOWN.obs, var=KNOWN.var, layers={"counts": KNOWN.X})
    adata.write_h5ad(tmp_path / "a.h5ad")
    source = LocalSource(None, base_url=str(tmp_path))
    (record,) = source.catalog()
    reading = source.read(record, source.fetch(record), layer="counts")
    assert (sparse.vstack(list(reading.blocks(50))) != KNOWN.X).nnz == 0


def test_names_of_mtx_files(tmp_path):
    for matrix, prefix in (
        ("GSM1_counts.mtx.gz", "GSM1_"),
        ("raw.mtx.gz", ""),
        ("a-b.mtx.gz", "a-"),
    ):
        folder = tmp_path / matrix
        write_mtx(KNOWN, folder, prefix=prefix)[0].rename(folder / matrix)
        source = LocalSource(None, str(folder))
        (record,) = source.catalog()
        assert len(record.files) == 3
        assert source.read(record, source.fetch(record)).obs.shape[0] == 120


def test_a_table_of_cells_in_another_encoding(tmp_path):
    _, meta = write_ucsc(KNOWN, tmp_path)
    meta.write_bytes(
        b"\xef\xbb\xbf" + meta.read_bytes().replace(b"lung", "60 \xb5m".encode("latin1"))
    )
    source = LocalSource(None, str(tmp_path))
    (record,) = source.catalog()
    obs = source.read(record, source.fetch(record)).obs
    assert set(obs["Tissue"]) == {"60 \ufffdm"}
    assert list(obs["Cell Type"]) == list(KNOWN.obs["cell_type"])


def test_folders_and_files_that_are_not_there(folder):
    with pytest.raises(ValueError, match="base_url is missing"):
        list(LocalSource(None).catalog())
    with pytest.raises(FileNotFoundError, match="'/no/such' is not a folder"):
        list(LocalSource(None, "/no/such").catalog())
    source = LocalSource(None, str(folder))
    records = list(source.catalog())
    (folder / "b.h5").unlink()
    with pytest.raises(FileNotFoundError, match="b.h5.* is not there any more"):
        source.fetch(next(r for r in records if r.id == "b.h5"))


def test_damaged_files_are_listed_and_fail_when_read(folder):
    (folder / "cxg" / "a.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (folder / "mtx" / "barcodes.tsv.gz").unlink()
    source = LocalSource(None, str(folder))
    records = {r.id: r for r in source.catalog()}
    for name, message in (("cxg/a.h5ad", "a.h5ad: cut"), ("mtx/matrix.mtx.gz", "needs barcodes")):
        with pytest.raises(ValueError, match=message):
            source.read(records[name], source.fetch(records[name]))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="real data are not here")
def test_real_files_need_no_special_case():
    source = LocalSource(None, str(SHARED / "formats"))
    for record in source.catalog():
        if record.size > 10e6:  # a large table, of a layout that a small one has as well
            continue
        reading = source.read(record, source.fetch(record))
        block = next(iter(reading.blocks(100)))
        assert block.shape == (min(100, len(reading.obs)), len(reading.var)), record.id
        assert block.nnz
        assert np.isfinite(block.data).all()
