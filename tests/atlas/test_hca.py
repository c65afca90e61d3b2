"""Projects of the Human Cell Atlas, their matrices, and the way to a file."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from atlas_trees import azul_file, azul_tree, put_azul
from atlas_truth import truth, write_10x_h5, write_cellxgene, write_loom, write_mtx
from scipy import sparse

from scgm_scvi.atlas import Record
from scgm_scvi.atlas.download._downloader import DownloadError
from scgm_scvi.atlas.sources._hca import HCASource


@pytest.fixture
def source(server, download):
    return HCASource(download, server.url)


def matrix(reading):
    return sparse.vstack(list(reading.blocks(50))).toarray()


def project(id_="74b6d569-3b11-42ef-b6b1-a0454522b4a0", contributed=(), matrices=None, **more):
    """A hit of the index of projects."""
    entity = {
        "projectId": id_,
        "projectTitle": "A lung",
        "projectShortname": "Lung/../../etc",
        "publications": [
            {"doi": "10.1000/A.1", "publicationTitle": "A paper", "publicationUrl": None}
        ],
        "accessions": [{"namespace": "geo_series", "accession": "GSE145926"}],
        "estimatedCellCount": 120,
        "dataUseRestriction": None,
        "accessible": True,
        "matrices": matrices or {},
        "contributedAnalyses": azul_tree(list(contributed)) if contributed else {},
        **more,
    }
    return {
        "entryId": id_,
        "projects": [entity],
        "donorOrganisms": [
            {"genusSpecies": ["Homo sapiens"], "disease": ["normal", "COVID-19"], "donorCount": 3}
        ],
        "specimens": [{"organ": ["lung", "blood"], "disease": ["COVID-19", None]}],
        "samples": [{"organ": ["lung"]}],
        "protocols": [{"workflow": ["optimus"]}, {"libraryConstructionApproach": ["10x 3' v2"]}],
    }


@pytest.mark.parametrize(
    "kind", ["optimus.loom", "old.loom", "m.h5ad", "raw.H5", "mtx", "a.h5ad.tar.gz"]
)
def test_what_goes_in_comes_out(server, source, tmp_path, kind):
    adata, path = truth(), tmp_path / kind
    if kind == "mtx":
        there = write_mtx(adata, path, version=2, prefix="GSM1_")
        files = [azul_file(server, p) for p in reversed(there)]
    else:
        if kind.endswith("loom"):
            write_loom(adata, path, optimus=kind == "optimus.loom")
        elif kind == "m.h5ad":
            write_cellxgene(adata, path)
        elif kind == "a.h5ad.tar.gz":
            write_cellxgene(adata, tmp_path / "a.h5ad")
            with tarfile.open(path, "w:gz") as archive:
                archive.add(tmp_path / "a.h5ad", "folder/a.h5ad")
        else:
            write_10x_h5(adata, path)
        files = [azul_file(server, path)]
    put_azul(server, [project(contributed=files)])

    (record,) = source.catalog()
    assert record.id.startswith("74b6d569-")
    assert record.size == sum(f["size"] for f in files)
    assert {f.sha256 for f in record.files} == {f["sha256"] for f in files}
    assert (record.organism, record.version[:4], record.n_cells) == ("human", "2024", 120)
    assert (record.tissues, record.diseases) == (("lung",), ("COVID-19",))
    assert (record.assays, record.citation) == (("10X 3' v3",), "A paper")
    assert record.studies == ("10.1000/a.1", "GSE145926")
    assert Record.from_dict(record.to_dict()) == record

    fetched = source.fetch(record)
    assert all(p.parent == tmp_path / "cache" / record.key for p in fetched.values())
    reading = source.read(record, fetched)
    np.testing.assert_array_equal(matrix(reading), adata.X.toarray())
    assert list(reading.var.index) == list(adata.var_names)
    assert list(reading.obs.index) == list(adata.obs_names)
    if kind.endswith(("loom", "h5ad", "tar.gz")):
        assert list(reading.obs["cell_type"]) == list(adata.obs["cell_type"])
        assert list(reading.obs["donor"]) == list(adata.obs["donor"])
        assert list(reading.obs["disease"]) == list(adata.obs["disease"])  # the file knows better
    else:  # what the project says of all cells
        assert set(reading.obs["disease"]) == {"COVID-19"}
        assert set(reading.obs["organism"]) == {"Homo sapiens"}


def test_a_file_is_asked_for_until_it_is_there(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    file = azul_file(server, tmp_path / "a.loom")
    put_azul(server, [project(contributed=[file])])
    (record,) = source.catalog()
    server.requests.clear()
    source.fetch(record)
    address, id_ = f"/repository/files/{file['uuid']}?catalog=dcp60&version=1", file["uuid"]
    assert [r.path for r in server.requests] == [
        *(address, f"{address}&requestIndex=1", f"/bucket/{id_}?Signature=abc%2Bdef&Expires=9")
    ]


def test_pages_are_followed_as_they_are(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    files = [azul_file(server, tmp_path / "a.loom", name=f"{i}.loom") for i in range(5)]
    put_azul(server, [project(f"{i}" * 8, [f]) for i, f in enumerate(files)], size=2)
    records = list(source.catalog())
    assert [r.id[:8] for r in records] == [str(i) * 8 for i in range(5)]
    assert len({r.key for r in records}) == 5
    asked = [r for r in server.requests if r.path.startswith("/index/projects")]
    assert [r.query.get("search_after") for r in asked] == [None, '"2"', '"4"']
    assert asked[0].query == {"catalog": "dcp60", "size": "100"}
    # another catalogue is the user's choice
    other = HCASource(source.download, server.url, "dcp59")
    next(other.catalog())
    assert server.requests[-1].query["catalog"] == "dcp59"


def test_a_record_of_a_plan_gets_its_files(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    files = [azul_file(server, tmp_path / "a.loom", name=f"{i}.loom") for i in range(3)]
    put_azul(server, [project(f"{i}" * 8, [f]) for i, f in enumerate(files)])
    records = list(source.catalog())
    server.requests.clear()
    for r in records:
        assert source.resolve(Record("hca", r.id)) == r == source.resolve(r)
        assert source.resolve(Record("hca", r.id, version=r.version)) == r
    assert len(server.requests) == 4  # of the first time: the catalogues, and three pages
    with pytest.raises(ValueError, match="has it in version 2024-05-01"):
        source.resolve(Record("hca", records[0].id, version="2020"))
    with pytest.raises(ValueError, match="does not have it"):
        source.fetch(Record("hca", "gone"))


def test_pages_that_go_round(server, source):
    loop = f"{server.url}/index/projects?catalog=dcp60&search_after=x"
    page = {"hits": [], "pagination": {"next": loop}}
    server.put_json("/index/catalogs", {"default_catalog": "dcp60"})
    server.put_json("/index/projects", {"message": "moved"})
    with pytest.raises(DownloadError, match="no page of projects"):
        list(source.catalog())
    server.put_json("/index/projects", page)
    with pytest.raises(DownloadError, match="followed by itself"):
        list(source.catalog())
    server.put_json("/index/catalogs", {})
    with pytest.raises(DownloadError, match="catalog_name"):
        list(source.catalog())


def test_a_file_in_several_strata_is_one_dataset(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    file = azul_file(server, tmp_path / "a.loom", matrixCellCount=20)
    tree = {"genusSpecies": {s: {"organ": {}} for s in ("Homo sapiens", "Mus musculus")}}
    tree["genusSpecies"]["Homo sapiens"]["organ"] = {"lung": [file], "blood": [file, None]}
    tree["genusSpecies"]["Mus musculus"]["organ"] = {"blood": [file]}
    put_azul(server, [project(matrices=tree)])
    (record,) = source.catalog()
    assert (record.organism, record.tissues) == ("Homo sapiens, Mus musculus", ("lung", "blood"))
    assert (record.assays, record.n_cells) == (("10x 3' v2",), 20)
    reading = source.read(record, source.fetch(record))
    assert set(reading.obs["tissue"]) == {"lung"}  # the file's own


def test_contributed_matrices_of_other_cells_are_kept(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    ours, same, heart, mouse = (
        azul_file(server, tmp_path / "a.loom", name=f"{n}.loom") for n in ("o", "s", "h", "m")
    )
    theirs = azul_tree([same])
    theirs["genusSpecies"] |= azul_tree([mouse], species="Mus musculus")["genusSpecies"]
    deeper = theirs["genusSpecies"]["Homo sapiens"]["developmentStage"]["human adult stage"]
    deeper["organ"]["heart"] = {"libraryConstructionApproach": {"Smart-seq2": [heart]}}
    put_azul(server, [project(matrices=azul_tree([ours]), contributedAnalyses=theirs)])
    records = {r.title.split(": ")[1]: r for r in source.catalog()}
    assert list(records) == ["o.loom", "h.loom", "m.loom"]
    assert records["h.loom"].assays == ("Smart-seq2",)
    assert records["m.loom"].organism == "mouse"
    assert list(source.skipped.values()) == ["the platform's own o.loom has its cells"]


def test_what_is_left_out_and_why(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")

    def file(name, **more):
        return azul_file(server, tmp_path / "a.loom", name=name, **more)

    ours = file("platform.loom")
    names = ["a.rds", "b.h5ad.zip", "c.csv.gz", "d.xlsx", "x_matrix.mtx.gz", "x_barcodes.tsv"]
    no_url = {**file("e.h5ad"), "azul_url": None, "uuid": "no-url"}
    older = file("f.h5ad")
    older["url"] = older.pop("azul_url")
    part = file("part.h5ad", isIntermediate=True)
    put_azul(
        server,
        [
            project("1" * 8, [file("contributed.h5ad")], matrices=azul_tree([ours])),
            project("2" * 8, [*(file(n) for n in names), no_url, older, part, {}]),
            project("3" * 8, [file("g.loom")], dataUseRestriction="GRU-NCU"),
            project("4" * 8, [file("h.loom")], dataUseRestriction="NRES"),
            project("5" * 8, [file("i.loom")], accessible=False),
            project("6" * 8),
        ],
        size=4,
    )
    records = list(source.catalog())
    assert [r.title for r in records] == [
        f"A lung: {n}" for n in ("platform.loom", "f.h5ad", "h.loom")
    ]
    why = {k.split("(")[-1].rstrip(")"): v for k, v in source.skipped.items()}
    assert why["contributed.h5ad"] == "the platform's own platform.loom has its cells"
    assert all(why[n].startswith("none of h5ad") for n in names[:4])
    assert all("not all there" in why[n] for n in names[4:])
    assert "no uuid" in why["e.h5ad"] and "no uuid" in why["no name"]
    assert "GRU-NCU" in why["3" * 8] and "login" in why["5" * 8] and "no matrix" in why["6" * 8]
    assert len(why) == len(names) + 6
    # a second look does not add to the first one's
    assert len(list(source.catalog())) == 3 and len(source.skipped) == len(why)


@pytest.mark.parametrize(
    "hit", [{}, {"projects": [None]}, {"projects": [{"accessions": [None]}]}, None]
)
def test_every_optional_field_may_be_absent(server, source, tmp_path, hit):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    file = azul_file(server, tmp_path / "a.loom")
    bare = {k: file[k] for k in ("name", "uuid", "azul_url")}
    put_azul(server, [hit, {"projects": [{"contributedAnalyses": {"any": [bare]}}]}])
    (record,) = source.catalog()
    assert record.id == f"-{file['uuid']}"
    assert (record.size, record.n_cells, record.organism, record.studies) == (None, None, "", ())
    assert len(source.read(record, source.fetch(record)).obs) == 20


@pytest.mark.parametrize("name", ["../../../etc/cron.d/x.loom", "C:\\x.loom", "/etc/x.loom"])
def test_a_hostile_name_stays_in_the_cache(server, source, tmp_path, name):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    file = azul_file(server, tmp_path / "a.loom", name=name, uuid="../../x")
    put_azul(server, [project(contributed=[file])])
    (record,) = source.catalog()
    (path,) = source.fetch(record).values()
    assert path == tmp_path / "cache" / record.key / "matrix.loom"


def test_a_checksum_that_lies(server, source, tmp_path):
    write_loom(truth(20, 30), tmp_path / "a.loom")
    file = azul_file(server, tmp_path / "a.loom", sha256="0" * 64)
    put_azul(server, [project(contributed=[file])])
    (record,) = source.catalog()
    with pytest.raises(DownloadError, match="sha256"):
        source.fetch(record)
    assert not list((tmp_path / "cache").rglob("*.loom"))
