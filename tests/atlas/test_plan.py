"""Plans: what a TOML file may say, what is said of one that is wrong, and the plan that ships."""

import re
import uuid
from collections import Counter
from importlib.resources import files

import pytest

from scgm_scvi.atlas import SOURCES
from scgm_scvi.atlas._plan import DatasetPlan, Plan, TrainingPlan

ROW = '[[dataset]]\nsource = "local"\nid = "a.h5ad"\n'


def read(tmp_path, text):
    path = tmp_path / "my_plan.toml"
    path.write_text(text, encoding="utf-8")
    return Plan.read(path)


def test_all_that_a_plan_can_say_is_read(tmp_path):
    plan = read(
        tmp_path,
        """
        organism = "mouse"
        seed = 7
        keep = ["condition"]
        tissue_types = ["organoid"]
        [urls]
        ucsc = "http://127.0.0.1:1"
        [qc]
        min_genes = 300
        [training]
        genes = ["ENSG1", "ENSG2"]
        memory = "1GB"
        [[dataset]]
        source = "local"
        id = "a/b"
        version = "abc"
        n_cells = 12
        licence = "CC0"
        citation = "doi:10.1/x"
        note = "a note"
        read = { layer = "counts", columns = { cell_line = "Line" } }
        obs = { tissue = "lung" }
        qc = { min_genes = 10 }
        keep = ["treatment", "tnm/stage"]
        tissue_types = ["cell line", "tissue"]
        [[dataset]]
        source = "cellxgene"
        id = "a/b"
        read = { pre_analysis = true }
        """,
    )
    assert plan == Plan(
        datasets=(
            DatasetPlan(
                source="local",
                id="a/b",
                version="abc",
                n_cells=12,
                licence="CC0",
                citation="doi:10.1/x",
                note="a note",
                read={"layer": "counts", "columns": {"cell_line": "Line"}},
                obs={"tissue": "lung"},
                qc={"min_genes": 10},
                keep=("treatment", "tnm/stage"),
                tissue_types=("cell line", "tissue"),
            ),
            DatasetPlan("cellxgene", "a/b", read={"pre_analysis": True}),
        ),
        keep=("condition",),
        tissue_types=("organoid",),
        organism="mouse",
        seed=7,
        urls={"ucsc": "http://127.0.0.1:1"},
        qc={"min_genes": 300},
        training=TrainingPlan(genes=("ENSG1", "ENSG2"), memory="1GB"),
    )


def test_a_list_of_datasets_is_the_same_as_tables(tmp_path):
    listed = read(tmp_path, 'dataset = [\n  { source = "local", id = "a.h5ad" },\n]\n')
    assert listed == read(tmp_path, ROW)
    assert (listed.organism, listed.seed, listed.training.genes) == ("human", 0, 4000)


def test_a_local_folder_is_relative_to_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    plan = read(tmp_path, ROW + '[urls]\nlocal = "my/../cells"\n')
    assert plan.urls == {"local": str((tmp_path / "cells").resolve())}
    absolute = read(tmp_path, ROW + f"[urls]\nlocal = '{tmp_path}'\n")
    assert absolute.urls == {"local": str(tmp_path.resolve())}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # value, place, remedy
        ("", ["my_plan.toml", "no dataset", r"Add a \[\[dataset\]\] with source and id"]),
        ("dataset = []", ["my_plan.toml", "no dataset"]),
        ('dataset = "a.h5ad"', ["my_plan.toml", "no dataset"]),
        ("[[dataset]\nid = 3", ["my_plan.toml", "no TOML", "line 1"]),
        (ROW + "organsim = 1", [r"\[\[dataset\]\] 1 of .*my_plan.toml", "'organsim'", "known are"]),
        ("sede = 3\n" + ROW, ["my_plan.toml has 'sede'", "Did you mean 'seed'"]),
        (ROW + "[training]\ngene = 3", [r"\[training\] of .*my_plan.toml", "Did you mean 'genes'"]),
        (ROW + "n_cell = 3", ["'n_cell'", "Did you mean 'n_cells'"]),
        (
            ROW + '[[dataset]]\nsource = "usc"\nid = "x"',
            [r"\[\[dataset\]\] 2 of", "source = 'usc'", "known are .*'ucsc'", "mean 'ucsc'"],
        ),
        ('[[dataset]]\nsource = "ucsc"', [r"\[\[dataset\]\] 1 of .*my_plan.toml has no 'id'"]),
        ('[[dataset]]\nid = "x"', ["has no 'source'"]),
        ('[[dataset]]\nsource = "ucsc"\nid = ""', ["has no 'id'"]),
        (ROW + ROW, ["my_plan.toml names 'local/a.h5ad' more than once"]),
        (ROW + 'n_cells = "12"', [r"\[\[dataset\]\] 1 of", "n_cells = '12'", "int"]),
        (ROW + "n_cells = true", ["n_cells = True", "int"]),
        (ROW + "version = 3", ["version = 3", "str"]),
        (ROW + 'obs = "lung"', ["obs = 'lung'", "dict"]),
        ("seed = 1.5\n" + ROW, ["my_plan.toml has seed = 1.5", "int"]),
        ("organism = 9606\n" + ROW, ["organism = 9606", "str"]),
        (ROW + '[training]\ngenes = "all"', [r"\[training\] of", "genes = 'all'", "int"]),
        # words inside tables
        (ROW + "[qc]\nmin_gene = 3", [r"\[qc\] of .*my_plan.toml", "'min_gene'", "'min_genes'"]),
        (ROW + "qc = { max_mito = 1 }", [r"qc of \[\[dataset\]\] 1 of", "'max_mito'", "known are"]),
        (ROW + 'qc = { min_genes = "1" }', [r"qc of \[\[dataset\]\] 1", "min_genes is '1'"]),
        (
            ROW + "qc = { max_counts = 5 }\n[qc]\nmin_counts = 9",
            [r"qc of \[\[dataset\]\] 1", "min_counts is 9 and max_counts is 5"],
        ),
        (
            ROW + 'read = { layr = "x" }',
            [r"read of \[\[dataset\]\] 1", "'layr', which 'local' does not take", "'layer'"],
        ),
        (ROW + "read = { layer = 3 }", ["read of", "layer = 3"]),
        (ROW + 'read = { columns = ["a"] }', ["read of", "columns = ", "it must be a table"]),
        (ROW + 'read = { columns = { cel_type = "x" } }', ["'cel_type'", "mean 'cell_type'"]),
        (
            '[[dataset]]\nsource = "ucsc"\nid = "x"\nread = { layer = "y" }',
            ["'layer', which 'ucsc' does not take", "takes none"],
        ),
        (
            '[[dataset]]\nsource = "cellxgene"\nid = "x"\nread = { pre_analysis = "yes" }',
            ["pre_analysis = 'yes'", "true or false"],
        ),
        (ROW + 'obs = { tisue = "lung" }', [r"obs of \[\[dataset\]\] 1", "'tisue'", "'tissue'"]),
        (ROW + "obs = { donor = 3 }", ["obs of", "donor = 3", "must be a word"]),
        (ROW + 'obs = { cell_line = "A549" }', ["'cell_line'", "tissue_types = "]),
        (ROW + 'keep = "drug"', ["keep = 'drug'", "list of different names"]),
        (ROW + 'keep = ["drug", 3]', ["keep = ['drug', 3]".replace("[", r"\["), "list"]),
        (ROW + 'keep = ["drug", "drug"]', ["keep = ", "different"]),
        ('keep = [""]\n' + ROW, ["my_plan.toml has keep = ", "different names"]),
        (ROW + 'keep = ["tissue"]', [r"keep of \[\[dataset\]\] 1", "'tissue'", "anyway"]),
        (ROW + 'keep = ["genetic_perturbation_id"]', ["'genetic_perturbation_id'", "anyway"]),
        (
            'keep = ["a/b"]\n' + ROW + 'keep = ["a_b"]',
            [r"keep of \[\[dataset\]\] 1", "'a/b' and 'a_b'", "both calls 'a_b'"],
        ),
        (ROW + 'tissue_types = ["cell lines"]', ["'cell lines'", "Did you mean 'cell line'"]),
        (ROW + '[urls]\nuscs = "x"', [r"\[urls\] of .*my_plan.toml has 'uscs'", "known are"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_a_remedy(tmp_path, text, said):
    with pytest.raises(ValueError) as error:
        read(tmp_path, text)
    for part in said:
        assert re.search(part, str(error.value), re.DOTALL), f"{part!r} not in: {error.value}"


def test_a_file_that_is_not_there_or_is_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml.* Write one"):
        Plan.read(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\x89HDF\xff\x00")
    with pytest.raises(ValueError, match="binary.toml is no TOML file"):
        Plan.read(tmp_path / "binary.toml")


@pytest.fixture(scope="module")
def shipped():
    return Plan.shipped()


def of(plan, source):
    return [d for d in plan.datasets if d.source == source]


def test_the_shipped_plan_is_of_human_cells_of_all_public_sources(shipped):
    assert shipped.organism == "human"
    assert {d.source for d in shipped.datasets} == set(SOURCES) - {"local"}
    keys = [(d.source, d.id) for d in shipped.datasets]
    assert keys == sorted(keys), "sort the lines by source and id"
    assert len({k.lower() for _, k in keys}) == len(keys)


def test_the_shipped_plan_expects_enough_cells(shipped):
    counted = [d.n_cells for d in shipped.datasets if d.n_cells is not None]
    assert min(counted) > 1_000
    assert sum(counted) >= 50_000_000
    # of CELLxGENE alone, and though its numbers that include other cells were all of such
    sure = [d for d in of(shipped, "cellxgene") if "all its cells" not in d.note]
    assert sum(d.n_cells or 0 for d in sure) >= 40_000_000


@pytest.mark.parametrize("source", ["cellxgene", "hca"])
def test_the_shipped_ids_are_uuids(shipped, source):
    for dataset in of(shipped, source):
        assert str(uuid.UUID(dataset.id)) == dataset.id


def test_the_shipped_ids_of_ucsc_are_paths_of_datasets(shipped):
    for dataset in of(shipped, "ucsc"):
        assert re.fullmatch(r"[\w-]+(/[\w-]+)*", dataset.id), dataset.id


def test_the_shipped_ids_of_tisch_are_in_its_catalogue(shipped):
    records = {r.id: r for r in SOURCES["tisch"](download=None).catalog()}
    for dataset in of(shipped, "tisch"):
        record = records[dataset.id]
        assert (record.version, record.n_cells) == (dataset.version, dataset.n_cells), dataset.id
        assert record.organism == "human"


def test_the_shipped_datasets_say_what_they_are_and_under_which_licence(shipped):
    assert all(d.note.strip() for d in shipped.datasets)
    assert {d.licence for d in of(shipped, "cellxgene")} == {"CC BY 4.0"}
    for disease in (
        "COVID-19",
        "carcinoma",
        "lymphoma",
        "sclerosis",
        "Alzheimer",
        "Crohn",
        "normal",
    ):
        assert any(disease.lower() in d.note.lower() for d in shipped.datasets), disease
    citations = [d.citation for d in shipped.datasets if d.citation]
    assert all(re.search(r"doi:10\.\d{4,}/\S|PMID:\d+|GSE\d+|CRA\d+", c) for c in citations)


def test_the_shipped_plan_has_no_study_of_two_sources(shipped):
    def studies(dataset):
        return set(re.findall(r"(?:doi:|PMID:)\S+", dataset.citation))

    sources = Counter(s for name in SOURCES for s in set().union(*map(studies, of(shipped, name))))
    assert [s for s, n in sources.items() if n > 1] == []


def test_the_numbers_in_the_shipped_plans_header_are_true(shipped):
    text = (files("scgm_scvi.atlas") / "scgdb.toml").read_text(encoding="utf-8")
    rows = re.findall(r"^# (\w+) +(\d+) +(\d+) +([\d,]+)$", text, re.MULTILINE)
    assert {r[0] for r in rows} == set(SOURCES) - {"local"}
    for source, n, with_n, cells in rows:
        counted = [d.n_cells for d in of(shipped, source) if d.n_cells is not None]
        told = (int(n), int(with_n), int(cells.replace(",", "")))
        assert told == (len(of(shipped, source)), len(counted), sum(counted)), source


def test_a_table_of_aliases_is_found_beside_the_plan(tmp_path):
    (tmp_path / "hgnc.txt").write_text("symbol")
    plan = read(tmp_path, f'hgnc = "hgnc.txt"\n{ROW}')
    assert plan.hgnc == str(tmp_path / "hgnc.txt")
    with pytest.raises(FileNotFoundError, match="hgnc of .*'absent.txt'"):
        read(tmp_path, f'hgnc = "absent.txt"\n{ROW}')
