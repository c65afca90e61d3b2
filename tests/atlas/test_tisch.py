"""TISCH2 through a server with its layout, from known counts."""

import numpy as np
import pytest
from atlas_server import FixtureServer
from atlas_truth import log_cp10k, tisch_metainfo, truth, write_10x_h5, write_tisch
from scipy import sparse

from scgm_scvi.atlas import SOURCES
from scgm_scvi.atlas.download._downloader import Downloader
from scgm_scvi.atlas.sources._tisch import TischSource, _cancers, _datasets

KNOWN = truth()
DATASET = "NSCLC_GSE127465"


def serve(server, folder, dataset=DATASET, known=KNOWN):
    h5, table = write_tisch(known, folder, dataset)
    server.put(f"/TISCH_2022/{dataset}/{h5.name}", h5.read_bytes())
    server.put(f"/static/data/{dataset}/{table.name}", table.read_bytes())


def record_of(source, dataset=DATASET):
    return next(r for r in source.catalog() if r.id == dataset)


def read(folder, table=None, dataset=DATASET, known=KNOWN):
    """What is read from files with a changed table."""
    paths = write_tisch(known, folder, dataset)
    if table is not None:
        table.to_csv(paths[1], sep="\t", index=False)
    source = TischSource(None)
    return source.read(record_of(source, dataset), {p.name: p for p in paths})


def test_from_the_server_to_the_reading(tmp_path):
    with FixtureServer() as server, Downloader(tmp_path / "cache", min_interval=0) as download:
        serve(server, tmp_path / "site")
        source = SOURCES["tisch"](download, base_url=server.url)
        record = record_of(source)
        files = source.fetch(record)
        assert [p.name for p in files.values()] == [f.name for f in record.files]
        reading = source.read(record, files)
        n = len(server.requests)
        source.fetch(record)  # from the cache
        assert len(server.requests) == n
    found = sparse.vstack(list(reading.blocks(17)))
    assert (found != log_cp10k(KNOWN)).nnz == 0
    assert list(reading.obs.index) == list(KNOWN.obs_names)
    assert list(reading.var.index) == list(KNOWN.var["symbol"])
    # counts can be had back: the least value of a cell is that of one count
    logs = found.toarray()
    ones = np.where(logs > 0, np.expm1(logs), np.inf).min(axis=1, keepdims=True)
    np.testing.assert_array_equal(np.rint(np.expm1(logs) / ones), KNOWN.X.toarray())


def test_columns(tmp_path):
    table = tisch_metainfo(KNOWN).sample(frac=1, random_state=0)  # in no order of the matrix
    obs = read(tmp_path, table).obs
    own = table.set_index("Cell").loc[KNOWN.obs_names]
    assert list(obs["cell_type"]) == list(own["Celltype (major-lineage)"])
    for column in ("Celltype (malignancy)", "Celltype (minor-lineage)", "Source", "Cluster"):
        assert list(obs[column]) == list(own[column])
    assert list(obs["donor"]) == list(KNOWN.obs["donor"])
    assert list(obs["sex"]) == list(KNOWN.obs["sex"])
    assert set(obs["disease"]) == {"non-small cell lung carcinoma"}
    assert set(obs["tissue"]) == {"lung"}
    assert set(obs["organism"]) == {"Homo sapiens"}


def test_donors_fall_back(tmp_path):
    table = tisch_metainfo(KNOWN)
    table["Patient"] = [3.0] * 40 + [np.nan] * 80
    table["Sample"] = [np.nan] * 60 + ["s1"] * 30 + [np.nan] * 30
    obs = read(tmp_path, table).obs
    assert list(obs["donor"]) == ["3"] * 40 + [DATASET] * 20 + ["s1"] * 30 + [DATASET] * 30
    obs = read(tmp_path, table.drop(columns=["Patient", "Sample"])).obs
    assert set(obs["donor"]) == {DATASET}


@pytest.mark.parametrize(
    ("column", "value", "disease", "tissue"),
    [
        ("Source", "Tumor", "cancer", "lung"),
        ("Source", "Normal", "normal", "lung"),
        ("Tissue", "adjacent_normal", "normal", "lung"),
        ("Source", "Non-tumor", "normal", "lung"),
        ("Source", "Healthy", "normal", "lung"),
        ("Site", "Peripheral blood", "cancer", "blood"),
        ("Source", "PBMC", "cancer", "blood"),
        ("Tissue", "Normal lymph node", "normal", "lymph node"),
        ("Source", "Metastasis", "cancer", None),
        ("Site", "brain metastasis", "cancer", "brain"),
        ("Source", "abnormal", "cancer", "lung"),
        ("Source", "primary tumor", "cancer", "lung"),
        ("Treatment", "Normal", "cancer", "lung"),
    ],
)
def test_what_a_sample_says_of_disease_and_tissue(tmp_path, column, value, disease, tissue):
    table = tisch_metainfo(KNOWN).drop(columns="Source")
    table[column] = [value] * 50 + [np.nan] * 70
    obs = read(tmp_path, table).obs
    cancer = "non-small cell lung carcinoma"
    assert set(obs["disease"][:50]) == {cancer if disease == "cancer" else disease}
    assert set(obs["tissue"][:50].fillna("")) == {tissue or ""}
    assert set(obs["disease"][50:]) == {cancer}
    assert set(obs["tissue"][50:]) == {"lung"}


def test_a_dataset_of_metastases_has_no_tissue_of_its_own(tmp_path):
    assert read(tmp_path, dataset="SKCM_GSE72056").obs["tissue"].isna().all()


def test_cells_of_one_file_alone_are_left_out(tmp_path):
    table = tisch_metainfo(KNOWN)
    reading = read(tmp_path, table.iloc[10:])
    assert list(reading.obs.index) == list(KNOWN.obs_names[10:])
    assert reading.notes == ("left out 10 cells that the table of cells does not have",)
    table["Cell"] = [f"x{c}" for c in table["Cell"][:70]] + list(table["Cell"][70:])
    with pytest.raises(ValueError, match=f"{DATASET}: only 50 cells are in both"):
        read(tmp_path, table)
    with pytest.raises(ValueError, match="no column 'Cell'"):
        read(tmp_path, table.rename(columns={"Cell": "barcode"}))


def test_species_is_that_of_the_symbols(tmp_path):
    mouse = KNOWN.copy()
    mouse.var["symbol"] = [s.capitalize() for s in KNOWN.var["symbol"]]
    of_mice = "CRC_GSE112865_mouse_aPD1"
    assert set(read(tmp_path, dataset=of_mice, known=mouse).obs["organism"]) == {"Mus musculus"}
    with pytest.raises(ValueError, match="listed as human, but 0 of .* a mouse would"):
        read(tmp_path, known=mouse)
    with pytest.raises(ValueError, match="listed as mouse"):
        read(tmp_path, dataset=of_mice)


def test_a_column_of_the_authors_with_a_standard_name_is_kept(tmp_path):
    table = tisch_metainfo(KNOWN).assign(tissue="LUAD core")
    obs = read(tmp_path, table).obs
    assert set(obs["tissue (original)"]) == {"LUAD core"}
    assert set(obs["tissue"]) == {"lung"}


def test_the_catalogue():
    records = list(TischSource(None).catalog())
    table = _datasets()
    assert len(records) == len({r.key for r in records}) == len(table) == 187
    assert sum(r.n_cells for r in records) == 6_128_274
    assert set(table["cancer"]) == set(_cancers().index)
    assert all(r.id.startswith(f"{table.loc[r.id, 'cancer']}_") for r in records)
    assert {r.organism for r in records} == {"human", "mouse"}
    assert all("_mouse" in r.id for r in records if r.organism == "mouse")
    assert all(r.diseases and r.studies for r in records)
    urls = [f.url for f in record_of(TischSource(None), "PAAD_CRA001160").files]
    assert urls == [
        "https://biostorage.s3.ap-northeast-2.amazonaws.com/TISCH_2022/PAAD_CRA001160/"
        "PAAD_CRA001160_expression.h5",
        "http://tisch.comp-genomics.org/static/data/PAAD_CRA001160/"
        "PAAD_CRA001160_CellMetainfo_table.tsv",
    ]


def test_diseases_and_tissues_are_names_of_the_ontologies():
    guide = pytest.importorskip("cellxgene_ontology_guide.ontology_parser")
    parser = guide.OntologyParser()
    for label in _cancers()["disease"]:
        assert parser.get_term_id_by_label(label, "MONDO"), label
    for label in filter(None, _cancers()["tissue"]):
        assert parser.get_term_id_by_label(label, "UBERON"), label


def test_an_unknown_dataset_is_refused(tmp_path):
    source = TischSource(None)
    record = record_of(source)
    other = type(record)(source="tisch", id="NSCLC_GSE1")
    with pytest.raises(KeyError, match="NSCLC_GSE1"):
        source.read(other, {})


def test_a_file_of_the_right_name_with_wrong_contents(tmp_path):
    paths = write_tisch(KNOWN, tmp_path, DATASET)
    write_10x_h5(KNOWN, paths[0], feature_type="Peaks")
    source = TischSource(None)
    with pytest.raises(ValueError, match=f"{paths[0].name}.*'Peaks'"):
        source.read(record_of(source), {p.name: p for p in paths})
    write_tisch(KNOWN, tmp_path, DATASET)
    paths[1].write_text("<html>404</html>\n")
    with pytest.raises(ValueError, match=f"{paths[1].name}: no column 'Cell'"):
        source.read(record_of(source), {p.name: p for p in paths})
