import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from atlas_values import real
from hypothesis import given, settings
from hypothesis import strategies as st

from scgm_scvi.atlas.curate import _ontologies
from scgm_scvi.atlas.curate._labels import LABEL_COLUMNS, harmonise_labels

pytest.importorskip("cellxgene_ontology_guide")


def harmonise(defaults=None, **columns):
    return harmonise_labels(pd.DataFrame(columns), source="tisch", key="X", defaults=defaults)


def one(**columns):
    return harmonise(**{k: [v] for k, v in columns.items()}).iloc[0]


@pytest.mark.parametrize(
    ("word", "given", "term", "how"),
    [
        ("blob", "CL:0000236", "CL:0000236", "id"),
        ("B cell", "CL:0000084", "CL:0000084", "id"),
        ("blob", "CL:0000053", "CL:0000059", "id"),  # replaced by that
        ("B cell", "CL:9999999", "CL:0000236", "label"),
        ("B cell", "UBERON:0002048", "CL:0000236", "label"),
        ("B cells", "", "CL:0000236", "label"),
        ("  b_Cells ", "", "CL:0000236", "label"),
        ("regulatory T-lymphocyte", "", "CL:0000815", "synonym"),
        ("CD8Tex", "", "CL:0011025", "table"),
        ("Mono/Macro", "", "CL:0000113", "table"),
        ("CD4 T cells", "", "CL:0000624", "table"),
        ("FCGR3A+ Monocytes", "", "CL:0002396", "table"),
        ("Malignant cells", "", "CL:0001064", "label"),
        ("blob", "", "unknown", "unknown"),
        ("Others", "", "unknown", "unknown"),
        ("", "", "unknown", "unknown"),
    ],
)
def test_cell_types(word, given, term, how):
    cell = one(cell_type=word, cell_type_ontology_term_id=given)
    assert (cell["cell_type_ontology_term_id"], cell["cell_type_from"]) == (term, how)
    if term == "unknown":
        assert cell["cell_type"] == cell["cell_type_coarse"] == "unknown"
    else:
        assert cell["cell_type"] == _ontologies.term_label(term)
        assert cell["cell_type_coarse"] != "unknown"
    raw = "unknown" if word in ("", "Others") else " ".join(word.split())
    assert cell["cell_type_raw"] == raw


@pytest.mark.parametrize(
    ("word", "coarse"),
    [
        ("CD8T", "T cell"),
        ("Treg", "T cell"),
        ("NK", "natural killer cell"),
        ("Plasma", "plasma cell"),
        ("plasmablast", "plasma cell"),
        ("CD14 Mono", "mononuclear phagocyte"),
        ("Kupffer cell", "mononuclear phagocyte"),
        ("Microglia", "microglial cell"),
        ("pDC", "dendritic cell"),
        ("neutrophil", "granulocyte"),
        ("AT2", "epithelial cell"),
        ("Hepatocytes", "hepatocyte"),
        ("fibroblast of lung", "fibroblast"),
        ("cardiac muscle cell", "muscle cell"),
        ("Malignant", "neoplastic cell"),
        ("endocrine cell", "other"),
    ],
)
def test_coarse_cell_types(word, coarse):
    assert one(cell_type=word)["cell_type_coarse"] == coarse


@pytest.mark.parametrize("name", ["cell_types", "coarse_cell_types", "diseases", "tissues"])
def test_tables_name_terms_that_there_are(name):
    table = _ontologies.table(name)
    for row in table.itertuples():
        assert _ontologies.current_id(row.ontology_term_id) == row.ontology_term_id
        assert _ontologies.term_label(row.ontology_term_id) == row.name
    if "label" in table:
        assert (table["label"] == table["label"].map(_ontologies.plain)).all()
        assert table["label"].is_unique


@pytest.mark.parametrize(
    ("word", "given", "label", "term"),
    [
        ("COVID-19", "", "COVID-19", "MONDO:0100096"),
        ("covid19", "", "COVID-19", "MONDO:0100096"),
        ("", "MONDO:0100096", "COVID-19", "MONDO:0100096"),
        ("normal", "", "normal", "PATO:0000461"),
        ("Healthy", "", "normal", "PATO:0000461"),
        ("none", "", "normal", "PATO:0000461"),
        ("MM", "", "plasma cell myeloma", "MONDO:0009693"),
        ("feeling odd", "", "feeling odd", "unknown"),
        ("", "", "unknown", "unknown"),
        (
            "",
            "MONDO:0100096 || MONDO:0005002",
            "COVID-19 || chronic obstructive pulmonary disease",
            "MONDO:0100096 || MONDO:0005002",
        ),
        ("COVID-19 || blob", "", "COVID-19 || blob", "MONDO:0100096 || unknown"),
    ],
)
def test_diseases(word, given, label, term):
    cell = one(disease=word, disease_ontology_term_id=given)
    assert (cell["disease"], cell["disease_ontology_term_id"]) == (label, term)


@pytest.mark.parametrize(
    ("word", "given", "label", "term"),
    [
        ("Lung", "", "lung", "UBERON:0002048"),
        ("PBMC", "", "blood", "UBERON:0000178"),
        ("", "UBERON:0000955 (organoid)", "brain (organoid)", "UBERON:0000955"),
        ("brain (organoid)", "", "brain (organoid)", "UBERON:0000955"),
        ("a place", "", "a place", "unknown"),
    ],
)
def test_tissues(word, given, label, term):
    cell = one(tissue=word, tissue_ontology_term_id=given)
    assert (cell["tissue"], cell["tissue_ontology_term_id"]) == (label, term)


def test_columns_donors_and_defaults():
    cells = harmonise(
        donor=[1.0, 2.0, np.nan, 1.0],
        sex=["F", "male", "?", None],
        disease=["COVID-19", "unknown", None, "normal"],
        defaults={"tissue": "lung", "disease": "normal", "assay_ontology_term_id": "EFO:0009922"},
    )
    assert tuple(cells.columns) == LABEL_COLUMNS
    assert (cells.dtypes == "category").all() and not cells.isna().any().any()
    assert cells["donor"].tolist() == ["X:1", "X:2", "X:unknown", "X:1"]
    assert cells["sex"].tolist() == ["female", "male", "unknown", "unknown"]
    assert cells["disease"].tolist() == ["COVID-19", "normal", "normal", "normal"]
    assert set(cells["tissue"]) == {"lung"} and set(cells["assay"]) == {"10x 3' v3"}
    assert set(cells["source"]) == {"tisch"} and set(cells["dataset"]) == {"X"}
    assert set(cells["cell_type"]) == {"unknown"}
    assert harmonise_labels(pd.DataFrame(), source="s", key="k").shape == (0, len(LABEL_COLUMNS))
    with pytest.raises(ValueError, match="'tisue'.*Did you mean 'tissue'"):
        harmonise(defaults={"tisue": "lung"}, donor=["a"])


WORDS = ["B cell", "CD8T", "blob", None, "NK cells", "unknown", 3]


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(
        st.tuples(st.sampled_from(WORDS), st.sampled_from(["CL:0000084", None])), min_size=1
    ),
    categorical=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_cell_has_what_it_would_have_alone(words, categorical, seed):
    obs = pd.DataFrame(words, columns=["cell_type", "cell_type_ontology_term_id"], dtype=object)
    obs["donor"] = obs["cell_type"]
    if categorical:
        obs = obs.astype("category")
    obs.index = [f"cell{i}" for i in range(len(obs))]
    cells = harmonise_labels(obs, source="s", key="k")
    assert (cells.index == obs.index).all()
    for column in cells:
        assert set(cells[column].cat.categories) == set(cells[column])
    i = seed % len(obs)
    alone = harmonise_labels(obs.iloc[[i]], source="s", key="k")
    assert alone.iloc[0].tolist() == cells.iloc[i].tolist()


def test_without_the_ontologies(monkeypatch):
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide.ontology_parser", None)
    _ontologies._parser.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'pip install "scgm_scvi\[atlas\]"'):
            one(cell_type_ontology_term_id="CL:0000101")  # which no other test looks up
    finally:
        _ontologies._parser.cache_clear()


def test_real_labels():
    obs = anndata.read_h5ad(real("pancreas_hormone2cell.h5ad"), backed="r").obs
    cells = harmonise_labels(
        obs.rename(columns={"donor_id": "donor"}), source="local", key="pancreas"
    )
    assert (cells["cell_type"].astype(str) == obs["cell_type"].astype(str)).all()
    assert set(cells["cell_type_from"]) == {"id"}
    by_label = harmonise_labels(obs[["cell_type"]], source="local", key="pancreas")
    same = "cell_type_ontology_term_id"
    assert (by_label[same].astype(str) == cells[same].astype(str)).all()
    assert set(by_label["cell_type_from"]) == {"label"}
    assert set(cells["disease_ontology_term_id"]) == {"PATO:0000461"}
    assert cells["donor"].nunique() == 20


@pytest.mark.parametrize("file", ["pbmc3k.h5ad", "kang_ifnb_4k.h5ad"])
def test_all_real_blood_cells_are_recognised(file):
    obs = anndata.read_h5ad(real(file), backed="r").obs
    cells = harmonise_labels(obs[["cell_type"]], source="local", key="blood")
    assert "unknown" not in set(cells["cell_type"])
    assert len(set(cells["cell_type_coarse"]) - {"other"}) >= 5
