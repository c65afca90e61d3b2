"""The UCSC Cell Browser: a tree of documents, tables and Matrix Market files."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from atlas_trees import put_ucsc, ucsc_leaf
from atlas_truth import truth, values, write_mtx, write_ucsc, write_ucsc_meta
from scipy import sparse

from scgm_scvi.atlas import SOURCES, Record
from scgm_scvi.atlas.download._downloader import DownloadError
from scgm_scvi.atlas.sources._ucsc import UCSCSource

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
FORMATS = SHARED / "data" / "formats"


@pytest.fixture
def source(server, download):
    return UCSCSource(download, server.url)


def test_sources_are_found_by_name():
    assert SOURCES["ucsc"] is UCSCSource
    assert {"cellxgene", "hca"} <= SOURCES.keys()
    assert "source" not in SOURCES  # the class that they share


def matrix(reading, size=50):
    blocks = list(reading.blocks(size))
    assert [b.shape[0] for b in blocks[:-1]] == [size] * (len(blocks) - 1)
    return sparse.vstack(blocks).toarray()


@pytest.mark.parametrize("scale", ["counts", "log_cp10k", "log2_cpm"])
def test_what_goes_in_comes_out(server, source, tmp_path, scale):
    adata = truth()
    write_ucsc(adata, tmp_path / "a", scale=scale)
    about = {
        "title": "Known counts, at length",
        "pmid": "32398875 Liao",
        "doi": "10.1038/S41591-020-0901-9",
        "geo_series": "GSE145926, GSE1",
        "unitDesc": "UMI counts",
    }
    facets = {
        "body_parts": ["lung"],
        "diseases": ["COVID-19", "Healthy"],
        "organisms": ["Human (H. sapiens)"],
        "assays": ["10x 3' v2"],
    }
    put_ucsc(server, {"known": tmp_path / "a"}, about={"known": about}, facets={"known": facets})

    (light,) = source.catalog()
    assert (light.id, light.n_cells, light.organism) == ("known", adata.n_obs, "human")
    assert (light.tissues, light.diseases) == (("lung",), ("COVID-19", "Healthy"))
    assert light.files == ()

    record = source.resolve(light)
    assert source.resolve(record) is record
    assert (record.title, record.unit) == ("Known counts, at length", "UMI counts")
    assert record.studies == ("PMID:32398875", "10.1038/s41591-020-0901-9", "GSE145926", "GSE1")
    assert [f.name for f in record.files] == ["exprMatrix.tsv.gz", "meta.tsv"]
    assert record.size == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    assert all(len(f.md5) == 10 for f in record.files)
    assert Record.from_dict(record.to_dict()) == record

    reading = source.read(record, source.fetch(record))
    np.testing.assert_array_equal(matrix(reading), values(adata, scale).toarray())
    assert list(reading.var.index) == list(adata.var_names)
    assert list(reading.var["symbol"]) == list(adata.var["symbol"])
    assert list(reading.obs.index) == list(adata.obs_names)
    for column in ("cell_type", "donor", "sex", "tissue"):
        assert list(reading.obs[column]) == list(adata.obs[column])
    assert list(reading.obs["Cell Type"]) == list(adata.obs["cell_type"])  # the authors' own stays
    assert set(reading.obs["organism"]) == {"Homo sapiens"}
    assert "disease" not in reading.obs  # there are two, and no column says which cell has which


def test_the_catalog_asks_for_collections_alone(server, source, tmp_path):
    write_ucsc(truth(20, 30), tmp_path / "a")
    names = ["top", "hoc/heart", "hoc/lung", "allen/cortex/m1", "allen/cortex/v1", "allen/whole"]
    put_ucsc(server, dict.fromkeys(names, tmp_path / "a"))
    records = list(source.catalog())
    assert sorted(r.id for r in records) == sorted(names)
    assert len({r.key for r in records}) == len(names)
    assert source.skipped == {}
    asked = [r.path for r in server.requests]
    assert asked == [f"{p}/dataset.json" for p in ("", "/hoc", "/allen", "/allen/cortex")]
    # fetching completes a record by itself
    files = source.fetch(records[-1])
    assert len(source.read(records[-1], files).obs) == 20


def test_mtx_with_a_prefix_and_cells_that_meta_lacks(server, source, tmp_path):
    adata, folder = truth(60, 40), tmp_path / "a"
    few = adata[np.random.default_rng(0).permutation(60)[:35]]  # in another order, too
    write_mtx(adata, folder, version=3, prefix="raw_")
    write_ucsc_meta(few, folder / "meta.tsv")
    put_ucsc(server, {"x/mtx": folder})
    (light,) = source.catalog()
    record = source.resolve(light)
    assert [f.name for f in record.files] == [
        *("matrix.mtx.gz", "meta.tsv", "features.tsv.gz", "barcodes.tsv.gz")
    ]
    assert record.files[0].url == f"{server.url}/x/mtx/raw_matrix.mtx.gz"
    assert None not in [f.md5 for f in record.files]
    reading = source.read(record, source.fetch(record))
    kept = adata[adata.obs_names.isin(few.obs_names)]
    np.testing.assert_array_equal(matrix(reading, 8), kept.X.toarray())
    assert list(reading.obs.index) == list(kept.obs_names)
    assert list(reading.obs["cell_type"]) == list(kept.obs["cell_type"])
    assert reading.notes == ("left out 25 of 60 cells: not in meta.tsv",)


@pytest.mark.parametrize(
    ("version", "gz", "has_list", "expected"),
    [
        (2, True, True, "genes.tsv.gz"),
        (3, False, True, "features.tsv"),
        (3, True, False, "features.tsv.gz"),
    ],
)
def test_tables_that_no_version_names(server, source, tmp_path, version, gz, has_list, expected):
    adata, folder = truth(20, 30), tmp_path / "a"
    write_mtx(adata, folder, version=version, gz=gz)
    write_ucsc_meta(adata, folder / "meta.tsv")
    put_ucsc(server, {"m": folder})
    leaf = ucsc_leaf("m", folder)
    leaf["fileVersions"] = {k: leaf["fileVersions"][k] for k in ("outMatrix", "outMeta")}
    server.put_json("/m/dataset.json", leaf)
    if not has_list:
        server.put("/m/files.txt", b"", status=404)
    record = source.resolve(Record("ucsc", "m"))
    assert record.files[2].url.endswith(f"/m/{expected}")
    reading = source.read(record, source.fetch(record))
    np.testing.assert_array_equal(matrix(reading), adata.X.toarray())


def test_every_optional_field_may_be_absent(server, source, tmp_path):
    adata = truth(20, 30)
    for path in write_ucsc(adata, tmp_path / "a", keys="symbol"):
        server.put(f"/bare/{path.name}", path.read_bytes())
    entries = [{"name": "bare"}, {"shortLabel": "nameless"}, "not an entry", {"name": None}]
    server.put_json("/dataset.json", {"datasets": entries})
    server.put_json("/bare/dataset.json", {"name": "bare", "facets": None, "fileVersions": None})
    (light,) = source.catalog()
    assert light == Record("ucsc", "bare")
    assert set(source.skipped) == {"nameless", "None"}
    record = source.resolve(light)
    assert [f.url for f in record.files] == [
        f"{server.url}/bare/{n}" for n in ("exprMatrix.tsv.gz", "meta.tsv")
    ]
    assert record.size is None
    reading = source.read(record, source.fetch(record))
    np.testing.assert_array_equal(matrix(reading), adata.X.toarray())
    assert list(reading.var.index) == list(adata.var["symbol"])


def test_hostile_and_broken_trees(server, source):
    bad = ["../up", "/etc", "a/../b", "a//b", "http://evil.example/x", "a?b", "a b", "..", ".", "é"]
    collection = lambda name, **more: {"name": name, "isCollection": True, **more}
    entries = [{"name": n} for n in bad]
    entries += [collection(n) for n in ("loop", "gone", "text", "deep")]
    server.put_json("/dataset.json", {"datasets": [*entries, {"name": "good"}, {"name": "good"}]})
    server.put_json("/loop/dataset.json", {"datasets": [collection("loop"), {"name": "loop/x"}]})
    server.put("/text/dataset.json", b"<html>")
    name = "deep"
    for _ in range(20):
        server.put_json(f"/{name}/dataset.json", {"datasets": [collection(name := f"{name}/d")]})
    assert [r.id for r in source.catalog()] == ["loop/x", "good"]
    assert set(source.skipped) == {*bad, "loop", "gone", "text", "good", "deep" + "/d" * 7}
    assert source.skipped["good"] == "listed twice"
    assert "404" in source.skipped["gone"]
    server.put_json("/dataset.json", {"datasets": []})
    with pytest.raises(DownloadError, match="lists no datasets"):
        list(source.catalog())
    for name in (*bad, ""):
        with pytest.raises(ValueError, match="not the name of a dataset"):
            source.resolve(Record("ucsc", name))
    with pytest.raises(ValueError, match=r"'loop' is a collection.*'loop/x'"):
        source.resolve(Record("ucsc", "loop"))


@pytest.mark.parametrize("fname", ["/x/../../../etc/passwd", "..\\..\\evil.tsv.gz", "m.h5ad", ".."])
def test_a_matrix_of_another_name_is_refused(server, source, tmp_path, fname):
    write_ucsc(truth(20, 30), tmp_path / "a")
    leaf = ucsc_leaf("x", tmp_path / "a")
    leaf["fileVersions"]["outMatrix"]["fname"] = fname
    server.put_json("/x/dataset.json", leaf)
    with pytest.raises(ValueError, match="/x: its matrix is"):
        source.resolve(Record("ucsc", "x"))


def test_a_path_of_the_server_is_no_path_of_ours(server, source, tmp_path):
    write_ucsc(truth(20, 30), tmp_path / "a")
    put_ucsc(server, {"x": tmp_path / "a"})
    leaf = ucsc_leaf("x", tmp_path / "a")
    leaf["fileVersions"]["outMatrix"]["fname"] = "/../../exprMatrix.tsv.gz"
    leaf["fileVersions"]["outMeta"]["fname"] = "../../../../.ssh/authorized_keys"
    server.put_json("/x/dataset.json", leaf)
    server.put("/x/authorized_keys", (tmp_path / "a" / "meta.tsv").read_bytes())
    files = source.fetch(Record("ucsc", "x"))
    cache = tmp_path / "cache" / "ucsc-x"
    assert files == {n: cache / n for n in ("exprMatrix.tsv.gz", "meta.tsv")}
    leaf["fileVersions"]["outMeta"]["fname"] = "a%2f..%2fb"
    server.put_json("/x/dataset.json", leaf)
    with pytest.raises(ValueError, match="not the name of a file"):
        source.resolve(Record("ucsc", "x"))


@pytest.mark.parametrize("wrong", [{"md5": "0123456789"}, {"size": 17}])
def test_a_checksum_that_lies(server, source, tmp_path, wrong):
    write_ucsc(truth(20, 30), tmp_path / "a")
    put_ucsc(server, dict.fromkeys(["right", "wrong"], tmp_path / "a"))
    leaf = ucsc_leaf("wrong", tmp_path / "a")
    leaf["fileVersions"]["outMatrix"] |= wrong
    server.put_json("/wrong/dataset.json", leaf)
    right, lying = source.catalog()
    with pytest.raises(DownloadError, match=r"exprMatrix\.tsv\.gz"):
        source.fetch(lying)
    left = [p.name for p in (tmp_path / "cache").rglob("exprMatrix*")]
    assert [n for n in left if not n.endswith(".lock")] == []
    assert len(source.read(right, source.fetch(right)).obs) == 20


@pytest.mark.parametrize("form", ["chr{}:{}-{}", "chr{}_{}_{}", "chr{}-{}-{}", "GL000{}.1:{}-{}"])
def test_chromatin_is_no_expression(source, tmp_path, form):
    adata = truth(20, 30)
    adata.var["symbol"] = [form.format(i % 22 + 1, 1000 * i, 1000 * i + 500) for i in range(30)]
    matrix_path, meta = write_ucsc(adata, tmp_path / "a", keys="symbol")
    with pytest.raises(ValueError, match="ucsc atac: its rows are chromatin regions"):
        source.read(Record("ucsc", "atac"), {"exprMatrix.tsv.gz": matrix_path, "meta.tsv": meta})


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("cellId\ttype\nother1\tT\nother2\tB\n", "no cell of the matrix"),
        ("cellId\ttype\na\tT\nb\tB\na\tT\n", "'a' are there more than once"),
        ("cellId\ttype\na\tT\n\tB\n", "1 cells have no name"),
        ("", "can't be read"),
    ],
)
def test_metadata_that_does_not_fit(source, tmp_path, meta, message):
    matrix_path, path = write_ucsc(truth(20, 30), tmp_path / "a")
    path.write_text(meta)
    with pytest.raises(ValueError, match=f"ucsc x.*{message}"):
        source.read(Record("ucsc", "x"), {"exprMatrix.tsv.gz": matrix_path, "meta.tsv": path})


def test_metadata_is_text_where_it_has_to_be(source, tmp_path):
    adata = truth(4, 30)
    matrix_path, path = write_ucsc(adata, tmp_path / "a")
    a, b, c, d = adata.obs_names
    path.write_text(
        f"\ufeffcellId\tPatient ID\tnUMI\tcell_type\tAge\tnote\n{d}\t007\t12\tNA\t54\tit's \"x\n"
        f"{a}\t01\t7\tT cell\t3\t\nother\t1\t1\tB\t\t\n{b}\t01\t8\tnone\t\tx\n",
        encoding="utf-8",
    )
    record = Record("ucsc", "x", tissues=("lung",), organism="mouse")
    reading = source.read(record, {"exprMatrix.tsv.gz": matrix_path, "meta.tsv": path})
    obs = reading.obs
    assert list(obs.index) == [a, b, d]
    assert list(obs["donor"]) == ["01", "01", "007"]
    assert list(obs["nUMI"]) == [7, 8, 12]
    assert list(obs["cell_type"])[:2] == ["T cell", "none"] and pd.isna(obs["cell_type"].iloc[2])
    assert list(obs["development_stage"])[::2] == ["3", "54"]
    assert obs["note"].iloc[2] == "it's \"x"
    assert set(obs["tissue"]) == {"lung"} and set(obs["organism"]) == {"Mus musculus"}
    assert reading.notes == (
        "left out 1 of 4 cells: not in meta.tsv",
        "1 of 4 cells of meta.tsv are not in the matrix",
    )


REAL = {
    "ucsc_mini": {
        "cells": (4261, "Hi_GW21_4.Hi_GW21_4"),
        "genes": (40, "RP11.560A15.3"),
        "obs": {"tissue": "Cortex", "development_stage": "19", "WGCNAcluster": "Glyc"},
        "notes": ("left out 2902 of 7163 cells: not in meta.tsv",),
    },
    "ucsc_quakeBrainGeo1": {
        "cells": (466, "SRR1974543"),
        "genes": (40, "ENSG00000281922"),
        "obs": {"cell_type": "oligodendrocytes", "sex": "female", "donor": "AB_S8"},
        "notes": (),
    },
}


@pytest.mark.skipif(not FORMATS.exists(), reason="needs the real files of ../shared/data")
@pytest.mark.parametrize("name", REAL)
def test_real_datasets(server, source, tmp_path, name):
    with gzip.open(FORMATS / name / "exprMatrix.tsv.gz", "rt") as file:
        lines = list(itertools.islice(file, 41))  # enough to know
    (tmp_path / "exprMatrix.tsv.gz").write_bytes(gzip.compress("".join(lines).encode(), 1))
    shutil.copy(FORMATS / name / "meta.tsv", tmp_path)
    put_ucsc(server, {name: tmp_path})
    (record,) = source.catalog()
    reading = source.read(record, source.fetch(record))
    cells, genes = reading.obs.index, reading.var.index
    assert (len(cells), cells[0]) == REAL[name]["cells"]
    assert (len(genes), genes[0]) == REAL[name]["genes"]
    assert reading.obs.iloc[0][list(REAL[name]["obs"])].to_dict() == REAL[name]["obs"]
    assert reading.notes == REAL[name]["notes"]
    there = set(cells)
    kept = [c in there for c in lines[0].rstrip().split("\t")[1:]]
    numbers = [line.rstrip().split("\t")[1:] for line in lines[1:]]
    np.testing.assert_array_equal(matrix(reading), np.array(numbers, dtype=np.float32).T[kept])
