"""Cells of lines are known as such, by Cellosaurus."""

import numpy as np
import pandas as pd
import pytest
from atlas_truth import truth, write_cellxgene

from scgm_scvi.atlas import SOURCES, Record, harmonise_labels
from scgm_scvi.atlas.curate._cell_lines import harmonise_cell_lines


def lines(obs, **defaults):
    labels = harmonise_labels(obs, source="local", key="local-x")
    return harmonise_cell_lines(obs, labels, defaults)


@pytest.mark.parametrize(
    ("word", "name", "term"),
    [
        ("A549", "A-549", "CVCL_0023"),
        ("a-549", "A-549", "CVCL_0023"),
        ("K562", "K-562", "CVCL_0004"),
        ("Hep G2", "Hep-G2", "CVCL_0027"),
    ],
)
def test_a_line_in_the_authors_column_of_types(word, name, term):
    row = lines(pd.DataFrame({"cell_type": [word]})).iloc[0]
    assert (row["cell_line"], row["cell_line_ontology_term_id"]) == (name, term)
    assert (row["cell_type_raw"], row["cell_type"]) == (word, "cultured cell")
    assert row["cell_type_ontology_term_id"] == "CL:0000010"
    assert (row["cell_type_from"], row["cell_type_coarse"]) == ("cell line", "cell line")


def test_types_stay_types_and_nonsense_stays_unknown():
    found = lines(pd.DataFrame({"cell_type": ["B cell", "B", "blob of 7", None]}))
    assert found["cell_line"].to_list() == ["unknown"] * 4
    assert found["cell_type"].to_list()[2:] == ["unknown"] * 2


def test_where_the_schema_says_what_a_sample_is_no_type_is_taken_for_a_line():
    obs = pd.DataFrame(
        {
            "tissue_type": ["cell line", "cell line", "tissue", "cell line"],
            "tissue": ["A-549", "our own line", "lung", None],
            "tissue_ontology_term_id": ["CVCL_0023", None, "UBERON:0002048", None],
            "cell_type": ["na", "na", "K562", "epithelial cell"],
        }
    )
    found = lines(obs)
    assert found["cell_line"].to_list() == ["A-549", "our own line", "unknown", "cell line"]
    ids = found["cell_line_ontology_term_id"].to_list()
    assert ids == ["CVCL_0023", *["unknown"] * 3]
    types = ["cultured cell", "cultured cell", "unknown", "epithelial cell"]
    assert found["cell_type"].to_list() == types


def test_a_line_for_all_cells_is_said_by_the_plan():
    obs = pd.DataFrame({"cell_type": ["G1", "S"], "cell_line": [None, "HeLa"]})
    found = lines(obs, cell_line="K-562")
    assert found["cell_line"].to_list() == ["K-562", "HeLa"]
    found = lines(obs[["cell_type"]], cell_line_ontology_term_id="CVCL_9773")
    assert found["cell_line"].to_list() == ["WA09"] * 2


@pytest.mark.parametrize("schema", ["5.2.0", "7.1.0"])
def test_lines_of_cellxgene_are_read_when_asked_for(tmp_path, schema):
    culture = "cell culture" if schema < "7" else "primary cell culture"
    kind = np.resize(["tissue", "cell line", culture, "organoid"], 60)
    adata = truth(60, 40)
    adata.obs["tissue_type"] = kind
    path = write_cellxgene(adata, tmp_path / "a.h5ad", schema)
    source = SOURCES["cellxgene"](download=None)

    def read(*kinds):
        source.tissue_types = frozenset(kinds)
        return source.read(Record("cellxgene", "x"), {"dataset.h5ad": path})

    assert set(read("tissue").obs["tissue_type"]) == {"tissue"}
    both = read("cell line", "primary cell culture")
    assert set(both.obs["tissue_type"]) == {"cell line", culture}
    assert both.notes == ("left out 30 of 60 cells: not of a cell line or a primary cell culture",)
