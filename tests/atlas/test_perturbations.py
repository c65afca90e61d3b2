"""What screens say of their cells: names of targets, in the words of CELLxGENE's schema 7.1."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlas_truth import truth, write_cellxgene

from scgm_scvi.atlas import GeneAxis, read_file
from scgm_scvi.atlas.curate._perturbations import harmonise_perturbations
from scgm_scvi.atlas.formats._guides import guide_table

GUIDES = {
    "CD4-1": {"role": "targeting", "derived_features": {"ENSG00000010610": "CD4"}},
    "CD4-2": {"role": "targeting"},  # of a promoter: it lies in no gene
    "CD8A-1": {
        "role": "targeting",
        "derived_features": {"ENSG00000153563": "CD8A", "ENSG00000254126": "CD8B2"},
    },
    "oligo-7": {
        "role": "targeting",
        "derived_features": {"ENSG00000167286": "CD3D", "ENSG00000198851": "CD3E"},
    },
    "NKX2-1": {"role": "targeting"},  # no number: the gene's own
    "NKX2-1_sg3": {"role": "targeting"},
    "weird+7": {"role": "targeting"},
    "NTC-1": {"role": "control"},
    "NTC-2": {"role": "control"},
}


@pytest.fixture(scope="module")
def axis():
    return GeneAxis.load("human")


def named(axis, ids, guides=GUIDES, **columns):
    obs = pd.DataFrame({"genetic_perturbation_id": ids, **columns})
    table = None if guides is None else guide_table(guides)
    out, notes = harmonise_perturbations(obs, table, axis)
    names = out["genetic_perturbation"] if "genetic_perturbation" in out else None
    return [None if pd.isna(n) else n for n in names], notes


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CD4-1", "CD4"),
        ("CD4-2", "CD4"),
        ("CD4-1 || CD4-2", "CD4"),
        ("CD4-1 || CD8A-1", "CD4+CD8A"),
        ("CD8A-1 || CD4-1", "CD4+CD8A"),
        ("oligo-7", "CD3D+CD3E"),
        ("NKX2-1", "NKX2-1"),
        ("NKX2-1_sg3", "NKX2-1"),
        ("weird+7", "weird_7"),
        ("NTC-1", "control"),
        ("NTC-1 || NTC-2", "control"),
        ("CD4-2 || NTC-1", "CD4"),
        ("na", None),
        (None, None),
    ],
)
def test_a_cell_is_named_by_the_targets_of_its_guides(axis, given, name):
    assert named(axis, ["CD4-1", given])[0] == ["CD4", name]


def test_what_had_to_be_guessed_is_noted(axis):
    _, notes = named(axis, ["oligo-7", "oligo-7 || CD4-1", "weird+7", "lost-1"])
    assert notes == (
        "guides said to lie in several genes, all of them taken: 1",
        "guides of no known gene, named by their ids: 2",
        "guides absent from uns['genetic_perturbations']: 1",
    )


def test_without_a_table_the_strategy_says_which_cells_are_controls(axis):
    strategy = ["CRISPR knockout screen", "control", "no perturbations", "CRISPR knockout screen"]
    ids = ["CD4-1", "NTC-1", "na", "CD8A-1 || NTC-1"]
    for guides in (None, {"CD4-1": GUIDES["CD4-1"]}):
        found, _ = named(axis, ids, guides, genetic_perturbation_strategy=strategy)
        assert found == ["CD4", "control", None, "CD8A"]


def test_former_symbols_in_ids_are_known_if_the_axis_knows_them(axis):
    known = replace(axis, aliases={"OLDNAME": list(axis.symbols).index("CD4")})
    assert named(known, ["OLDNAME-1 || OLDNAME-2"], None)[0] == ["CD4"]
    assert named(axis, ["OLDNAME-1"], None)[0] == ["OLDNAME-1"]


def test_where_nothing_is_pooled_a_cell_without_a_guide_is_a_control(axis):
    strategy = ["CRISPR knockout mutant", "no perturbations"]
    found, _ = named(axis, ["CD4-1", "na"], genetic_perturbation_strategy=strategy)
    assert found == ["CD4", "control"]


def test_other_columns_are_as_the_file_has_them(axis):
    obs = pd.DataFrame(
        {
            "perturbation_types": ["chemical", "no perturbations"],
            "experimental_condition": ["tamoxifen", "na"],
            "experimental_condition_ontology_term_id": ["CHEBI:41774", "na"],
            "genetic_perturbation_strategy": [None, None],
            "mine": [1, 2],
        }
    )
    out, notes = harmonise_perturbations(obs, None, axis)
    pd.testing.assert_frame_equal(out, obs.iloc[:, :3])
    assert notes == ()


def test_a_file_of_the_schema_keeps_its_table_of_guides(tmp_path):
    adata = truth(20, 30)
    path = write_cellxgene(adata, tmp_path / "a.h5ad", guides=GUIDES)
    reading = read_file(path)
    assert reading.guides.index.to_list() == sorted(GUIDES)
    assert reading.guides.loc["oligo-7", "feature_names"] == "CD3D || CD3E"
    assert reading.only(np.arange(20) < 5).guides is reading.guides
    assert read_file(write_cellxgene(adata, tmp_path / "b.h5ad")).guides is None


def test_a_guide_that_is_no_table_is_named():
    with pytest.raises(ValueError, match=r"genetic_perturbations'\]\['CD4-1'\] is 'targeting'"):
        guide_table({"CD4-1": "targeting"})
