"""One study under several names, in several sources."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgm_scvi.atlas import Record
from scgm_scvi.atlas.sources._studies import drop_duplicates, find_studies, normalise_study


@pytest.mark.parametrize(
    ("study", "plain"),
    [
        ("10.1038/S41591-020-0901-9", "10.1038/s41591-020-0901-9"),
        ("doi:10.1038/s41591-020-0901-9.", "10.1038/s41591-020-0901-9"),
        ("http://dx.doi.org/10.1016/j.cell.2021.04.048", "10.1016/j.cell.2021.04.048"),
        (
            "https://www.biorxiv.org/content/10.1101/2020.07.23.213371v2.full",
            "10.1101/2020.07.23.213371",
        ),
        ("10.1101/gr.277112v1", "10.1101/gr.277112v1"),  # a journal's, not a preprint's version
        (" gse145926 ", "GSE145926"),
        ("https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE96583", "GSE96583"),
        ("PMID: 32398875", "PMID:32398875"),
        ("https://pubmed.ncbi.nlm.nih.gov/32398875/", "PMID:32398875"),
        ("https://www.ncbi.nlm.nih.gov/pubmed/31097668 Velmeshev et al.", "PMID:31097668"),
        ("e-mtab-6701", "E-MTAB-6701"),
        ("prjna434002", "PRJNA434002"),
        ("HCA-Lung", "HCA-LUNG"),
    ],
)
def test_one_way_to_write_a_study(study, plain):
    assert normalise_study(study) == plain
    assert normalise_study(plain) == plain


def test_studies_are_found_in_sloppy_texts():
    found = find_studies(
        "See doi:10.1126/science.aav8130; data: GSE129845,gse129845 and (PMID:31097668).",
        None,
        ["", ["https://doi.org/10.1101/GSE999x"], 17, "no GSE, no 10.1/x, no 12345678"],
    )
    # the accession inside a DOI is no study of its own
    assert set(found) == {
        *("10.1126/science.aav8130", "GSE129845", "PMID:31097668", "10.1101/gse999x"),
    }


def record(source, id_, *studies):
    return Record(source, id_, studies=studies)


def test_the_preferred_source_keeps_all_its_datasets_of_a_study():
    a1, a2 = record("cellxgene", "a1", "10.1000/a"), record("cellxgene", "a2", "10.1000/a")
    b = record("hca", "b", "https://doi.org/10.1000/A", "GSE10")
    c = record("tisch", "c", "gse10")
    alone, nameless = record("tisch", "alone", "GSE11"), record("ucsc", "nameless", " ")
    other = record("ucsc", "other", "")
    records = [c, a1, other, b, alone, a2, nameless]
    kept, dropped = drop_duplicates(records)
    assert kept == [a1, other, alone, a2, nameless]
    assert {r.id: why for r, why in dropped} == {
        "b": "same study as cellxgene a1: 10.1000/a",
        "c": "same study as cellxgene a1: by way of others' studies",
    }


def test_the_order_of_preference_is_the_users():
    records = [record(s, s, "GSE1") for s in ("mine", "cellxgene", "another", "tisch")]
    assert [r.id for r in drop_duplicates(records, ("tisch", "hca"))[0]] == ["tisch"]
    assert [r.id for r in drop_duplicates(records, ())[0]] == ["another"]


STUDIES = st.lists(st.sampled_from([f"GSE{i}" for i in range(8)]), max_size=3).map(tuple)
RECORDS = st.lists(
    st.tuples(st.sampled_from(["cellxgene", "hca", "ucsc", "x"]), STUDIES), max_size=12
)


@settings(deadline=None)
@given(RECORDS, st.randoms(use_true_random=False))
def test_no_study_is_kept_twice_and_none_is_lost(pairs, rng: random.Random):
    records = [record(s, str(i), *names) for i, (s, names) in enumerate(pairs)]
    kept, dropped = drop_duplicates(records)
    assert sorted(r.id for r in [*kept, *(r for r, _ in dropped)]) == sorted(r.id for r in records)
    owner = {}
    for r in kept:
        for study in r.studies:
            assert owner.setdefault(study, r.source) == r.source
    # a study none of whose records is kept has one that shares another study with a kept one, ...
    assert all(r.studies for r, _ in dropped)
    assert bool(records) == bool(kept)
    shuffled = rng.sample(records, len(records))
    assert {r.id for r in drop_duplicates(shuffled)[0]} == {r.id for r in kept}
