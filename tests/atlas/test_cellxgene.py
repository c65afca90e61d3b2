"""Datasets of CELLxGENE, of every age of its schema."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from atlas_trees import put_cellxgene
from atlas_truth import truth, write_cellxgene
from scipy import sparse

from scgm_scvi.atlas import Record
from scgm_scvi.atlas.download._downloader import DownloadError
from scgm_scvi.atlas.sources._cellxgene import CellxgeneSource

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
REAL = SHARED / "data" / "formats" / "cellxgene"


@pytest.fixture
def source(server, download):
    return CellxgeneSource(download, server.url)


def matrix(reading, size=50):
    blocks = list(reading.blocks(size))
    assert [b.shape[0] for b in blocks[:-1]] == [size] * (len(blocks) - 1)
    return sparse.vstack(blocks).toarray()


def rewrite(path, **columns):
    """Set columns of ``obs`` of a file; None takes one away."""
    adata = ad.read_h5ad(path)
    for name, values in columns.items():
        adata.obs = adata.obs.drop(columns=name, errors="ignore")
        if values is not None:
            adata.obs[name] = values
    adata.write_h5ad(path)


@pytest.mark.parametrize("schema", ["5.2.0", "6.0.0", "7.1.0"])
@pytest.mark.parametrize("raw", [True, False])
def test_what_goes_in_comes_out(server, source, tmp_path, schema, raw):
    adata, path = truth(), tmp_path / "a.h5ad"
    write_cellxgene(adata, path, schema, raw=raw)
    found = put_cellxgene(server, path, schema_version=schema, primary_cell_count=119)
    server.put_json("/curation/v1/datasets", [found])

    (record,) = source.catalog()
    assert (record.id, record.version) == (found["dataset_id"], found["dataset_version_id"])
    assert (record.organism, record.licence, record.n_cells) == ("human", "CC BY 4.0", 119)
    assert (record.tissues, record.diseases) == (("lung",), ("normal",))
    assert record.assays == ("10x 3' v3",)
    assert record.studies == ("10.1000/journal.1",)
    assert record.citation == found["citation"]
    assert record.size == path.stat().st_size
    assert record.files[0].url == f"{server.url}/{record.version}.h5ad"
    assert Record.from_dict(record.to_dict()) == record
    assert len(server.requests) == 1

    reading = source.read(record, source.fetch(record))
    np.testing.assert_array_equal(matrix(reading), adata.X.toarray())
    assert list(reading.var.index) == list(adata.var_names)
    assert list(reading.var["symbol"]) == list(adata.var["symbol"])
    for column in adata.obs:
        assert list(reading.obs[column]) == list(adata.obs[column]), column
    assert reading.notes == ()


def test_only_primary_cells_of_tissues_by_assays_of_rna(source, tmp_path):
    adata, path = truth(200, 40), tmp_path / "a.h5ad"
    write_cellxgene(adata, path)
    rng = np.random.default_rng(1)
    primary = rng.random(200) < 0.6
    kind = rng.choice(["tissue", "organoid", "cell culture", "cell line"], 200, p=[0.7, *[0.1] * 3])
    assay = rng.choice(["10x 3' v3", "10x multiome", "Visium Spatial Gene Expression"], 200)
    disease = rng.choice(["normal", "COVID-19 || lung adenocarcinoma"], 200)
    rewrite(path, is_primary_data=primary, tissue_type=kind, assay=assay, disease=disease)
    reading = source.read(Record("cellxgene", "x"), {"dataset.h5ad": path})
    kept = primary & (kind == "tissue") & (assay != "Visium Spatial Gene Expression")
    assert 20 < kept.sum() < 150
    for size in (1, 7, 64, 1000):
        np.testing.assert_array_equal(matrix(reading, size), adata.X.toarray()[kept])
    assert list(reading.obs.index) == list(adata.obs_names[kept])
    assert list(reading.obs["disease"]) == list(disease[kept])
    assert set(reading.obs["suspension_type"]) == {"cell"}
    n_primary, n_tissue = primary.sum(), (primary & (kind == "tissue")).sum()
    assert reading.notes == (
        f"left out {200 - n_primary} of 200 cells: not primary data",
        f"left out {n_primary - n_tissue} of {n_primary} cells: not of a tissue",
        f"left out {n_tissue - kept.sum()} of {n_tissue} cells: not an assay of single cells' RNA",
    )


def test_before_schema_5_the_tissue_says_what_it_is(source, tmp_path):
    adata, path = truth(60, 40), tmp_path / "a.h5ad"
    write_cellxgene(adata, path, "5.2.0")
    tissue = np.resize(["lung", "lung (organoid)", "cortex (cell culture)"], 60)
    rewrite(path, tissue_type=None, tissue=tissue, is_primary_data=None, assay=None)
    record = Record("cellxgene", "x", assays=("Smart-seq2",))
    reading = source.read(record, {"dataset.h5ad": path})
    np.testing.assert_array_equal(matrix(reading), adata.X[::3].toarray())
    assert set(reading.obs["assay"]) == {"Smart-seq2"}


def test_a_pre_analysis_data_set_is_left_out_unless_asked_for(source, tmp_path):
    path = write_cellxgene(truth(20, 40), tmp_path / "a.h5ad", uns={"is_pre_analysis": True})
    record = Record("cellxgene", "x")
    with pytest.raises(ValueError, match="left out 20 of 20 cells: of a pre-analysis collection"):
        source.read(record, {"dataset.h5ad": path})
    assert len(source.read(record, {"dataset.h5ad": path}, pre_analysis=True).obs) == 20
    write_cellxgene(truth(20, 40), path, uns={"is_pre_analysis": False})
    assert source.read(record, {"dataset.h5ad": path}).notes == ()


def test_nothing_left_is_an_error(source, tmp_path):
    path = tmp_path / "a.h5ad"
    write_cellxgene(truth(20, 40), path)
    rewrite(path, is_primary_data=[False] * 20)
    with pytest.raises(ValueError, match=r"cellxgene x: none of its 20 cells.*not primary data"):
        source.read(Record("cellxgene", "x"), {"dataset.h5ad": path})


def test_what_is_left_out_and_why(server, source, tmp_path):
    path = tmp_path / "a.h5ad"
    write_cellxgene(truth(20, 40), path)
    human, mouse = ({"label": o} for o in ("Homo sapiens", "Mus musculus"))
    culture = {"label": "lung", "tissue_type": "cell culture"}
    changes = {
        "kept": {},
        "mouse": {"organism": [mouse]},
        "both": {"is_primary_data": [True, False]},
        "words": {"is_primary_data": "BOTH"},
        "bare": dict.fromkeys(
            ["is_primary_data", "title", "citation", "tissue", "disease", "assay"]
        )
        | {"collection_doi": None, "cell_count": None},
        "odd": {"cell_count": "many", "is_primary_data": True, "disease": "normal", "title": 7},
        "partly": {"tissue": [culture, {"label": "lung", "tissue_type": "tissue"}]},
        "old label": {"tissue": ["lung"]},
        "no:secondary": {"is_primary_data": [False]},
        "no:words": {"is_primary_data": "SECONDARY"},
        "no:fly": {"organism": [{"label": "Drosophila melanogaster"}]},
        "no:two organisms": {"organism": [human, mouse]},
        "no:organism": {"organism": None},
        "no:asset": {"assets": []},
        "no:url": {"assets": [{"filetype": "H5AD"}, {}, None]},
        "no:culture": {"tissue": [culture, {"label": "brain (organoid)"}]},
        "no:spatial": {"assay": [{"label": "Visium Spatial Gene Expression"}]},
    }
    found = [put_cellxgene(server, path, dataset_id=k, **v) for k, v in changes.items()]
    server.put_json("/curation/v1/datasets", [*found, {}, None])
    records = {r.id: r for r in source.catalog()}
    assert list(records) == [k for k in changes if not k.startswith("no:")]
    assert set(source.skipped) == {*(k for k in changes if k.startswith("no:")), "?"}
    assert records["mouse"].organism == "mouse"
    assert records["bare"] == Record(
        *("cellxgene", "bare", records["bare"].files),
        version=found[0]["dataset_version_id"],
        organism="human",
        licence="CC BY 4.0",
    )
    assert len(source.read(records["bare"], source.fetch(records["bare"])).obs) == 20


def test_what_cells_come_from_decides_which_data_sets_there_are(server, source, tmp_path):
    path = write_cellxgene(truth(20, 40), tmp_path / "a.h5ad")
    line = {"label": "A-549", "tissue_type": "cell line", "ontology_term_id": "CVCL_0023"}
    culture = {"label": "lung", "tissue_type": "cell culture"}
    kinds = {"line": line, "culture": culture, "tissue": {"label": "lung", "tissue_type": "tissue"}}
    found = [put_cellxgene(server, path, dataset_id=k, tissue=[v]) for k, v in kinds.items()]
    server.put_json("/curation/v1/datasets", found)
    assert [r.id for r in source.catalog()] == ["tissue"]
    assert source.skipped["line"] == "not of a tissue"
    source.tissue_types = frozenset({"cell line"})
    assert [r.id for r in source.catalog()] == ["line"]
    source.tissue_types = frozenset({"tissue", "primary cell culture"})
    assert [r.id for r in source.catalog()] == ["culture", "tissue"]
    assert source.skipped["line"] == "not of a tissue or a primary cell culture"


def test_a_record_of_a_plan_gets_the_files_of_its_version(server, source, tmp_path):
    path = tmp_path / "a.h5ad"
    write_cellxgene(truth(20, 40), path)
    new, old = ({"dataset_version_id": v} for v in ("new", "old"))
    versions = [put_cellxgene(server, path) | v for v in (new, old, {"assets": []})]
    id_ = versions[0]["dataset_id"]
    server.put_json(f"/curation/v1/datasets/{id_}/versions", versions)
    assert source.resolve(Record("cellxgene", id_)).version == "new"
    record = source.resolve(Record("cellxgene", id_, version="old"))
    assert (record.version, record.files[0].size) == ("old", path.stat().st_size)
    assert source.resolve(record) is record
    with pytest.raises(ValueError, match="no h5ad of version 'older'.*'new', 'old'"):
        source.resolve(Record("cellxgene", id_, version="older"))
    server.put_json("/curation/v1/datasets", {"message": "moved"})
    with pytest.raises(DownloadError, match="no list of datasets"):
        list(source.catalog())


def test_diseases_in_one_label_are_listed_each(server, source, tmp_path):
    path = tmp_path / "a.h5ad"
    write_cellxgene(truth(20, 40), path)
    labels = [{"label": s} for s in ("a || b", "b", "normal", None)]
    server.put_json("/curation/v1/datasets", [put_cellxgene(server, path, disease=labels)])
    (record,) = source.catalog()
    assert record.diseases == ("a", "b", "normal")


def test_a_hostile_id_stays_in_the_cache(server, source, tmp_path):
    path = tmp_path / "a.h5ad"
    write_cellxgene(truth(20, 40), path)
    ids = {"dataset_id": "../../x", "dataset_version_id": "/etc/y"}
    server.put_json("/curation/v1/datasets", [put_cellxgene(server, path) | ids])
    (record,) = source.catalog()
    (there,) = source.fetch(record).values()
    assert there == tmp_path / "cache" / record.key / "dataset.h5ad"


FILES = {
    "example_valid": ((2, 7), {"donor": "donor_1", "organism": "Homo sapiens"}, ()),
    "example_with_labels": (
        (318, 123),
        {"tissue": "heart left ventricle", "disease": "normal", "sex": "female"},
        # brain (organoid) and fibroblast (cell culture)
        ("left out 2 of 320 cells: not of a tissue",),
    ),
    "small_perturbations": ((500, 2000), {"organism": "Homo sapiens", "sex": "female"}, ()),
}


@pytest.mark.skipif(not REAL.exists(), reason="needs the real files of ../shared/data")
@pytest.mark.parametrize("name", FILES)
def test_real_files(source, name):
    shape, obs, notes = FILES[name]
    reading = source.read(Record("cellxgene", name), {"dataset.h5ad": REAL / f"{name}.h5ad"})
    assert matrix(reading).shape == (len(reading.obs), len(reading.var)) == shape
    assert reading.obs.iloc[0][list(obs)].to_dict() == obs
    assert reading.notes == notes
