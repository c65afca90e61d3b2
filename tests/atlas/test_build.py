"""A build brings every count of every source, once, whatever happens on the way."""

import errno
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from atlas_mirror import PROJECT, QUICK, mirror, on_axis, plan_of
from atlas_server import FixtureServer
from atlas_truth import truth, write_10x_h5

from scgm_scvi import atlas
from scgm_scvi.atlas import _prepare

pytestmark = pytest.mark.slow  # builds in several processes, and again


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with FixtureServer() as server:
        yield server, folder, mirror(server, folder)


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    server, folder, cells = world
    out = tmp_path_factory.mktemp("stores") / "whole"
    lines = []
    report = atlas.build(plan_of([*cells], server.url, folder), out, progress=lines.append, **QUICK)
    return out, report, lines


def names_of(report):
    """The report by ``source/id`` of the plan, where a project stands for its matrix."""
    ids = report["id"].where(report["source"] != "hca", PROJECT)
    return report.set_index(report["source"] + "/" + ids)


def test_counts_in_are_counts_out_for_every_source_and_scale(world, built):
    out, report, lines = built
    assert report["status"].tolist() == ["stored"] * len(world[2]), report.to_string()
    store, rows = atlas.open(out), names_of(report)
    for name, adata in world[2].items():
        stored = store[rows.loc[name, "key"]].to_memory()
        np.testing.assert_array_equal(stored.X.toarray(), on_axis(adata), err_msg=name)
    assert store.verify() == {}
    assert len(lines) == len(report) + 1  # and one about the training store
    assert report["n_cells"].sum() == store.datasets["n_cells"].sum()


def test_what_the_manifest_says_of_a_dataset(built):
    table = atlas.open(built[0]).datasets.set_index("source")
    assert table.loc["tisch", "scale"] == "ln_cp10k"
    assert table.loc["hca", "scale"] == "counts"
    assert table.loc["cellxgene", "licence"] == "CC BY 4.0"
    assert table.loc["cellxgene", "version"]
    assert table.loc["tisch", "genes"]["n"] == 150
    assert table.loc["tisch", "files"][0]["url"].startswith("http://127.0.0.1")


def test_plain_anndata_reads_a_dataset(built):
    adata = ad.io.read_zarr(next((built[0] / "datasets").glob("cellxgene*")))
    assert adata.obs["cell_type"].nunique() > 2
    assert (adata.obs["disease"] == "non-small cell lung carcinoma").all()
    assert "ENSG00000167286" in adata.var_names


def test_a_second_build_does_nothing_again(world, built, monkeypatch):
    server, folder, cells = world
    hashed = atlas.open(built[0]).content_hash()
    before = len(server.requests)
    monkeypatch.setattr("scgm_scvi.atlas._build.prepare", None)  # would be called
    report = atlas.build(plan_of([*cells], server.url, folder), built[0], **QUICK)
    assert (report["status"] == "stored").all()
    assert not [r for r in server.requests[before:] if r.path.endswith((".h5", ".h5ad", ".gz"))]
    assert atlas.open(built[0]).content_hash() == hashed


def test_each_failure_sets_one_dataset_aside_and_the_next_build_mends_it(
    world, tmp_path, monkeypatch
):
    server, folder, cells = world
    names = [*cells]
    server.fault("/coll/counts/exprMatrix.tsv.gz", times=None, body=b"not these bytes")
    h5ad = next(r for r in (*server._answers,) if r.endswith(".h5ad"))
    server.fault(h5ad, times=None, cut=1000)
    whole = (folder / "local" / "l0.h5").read_bytes()
    (folder / "local" / "l0.h5").write_bytes(whole[: len(whole) // 2])
    stage = _prepare.Store.stage

    def full_disk(self, key, *args, **kwargs):
        if key.startswith("tisch"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return stage(self, key, *args, **kwargs)

    monkeypatch.setattr(_prepare.Store, "stage", full_disk)
    plan = plan_of([*names, "local/absent.h5ad"], server.url, folder)
    report = names_of(atlas.build(plan, tmp_path / "s", retries=1, **QUICK))
    aside = report[report["status"] == "set aside"]["reason"]
    wanted = {"ucsc/coll/counts", "local/l0.h5", "local/absent.h5ad", f"tisch/{names[4][6:]}"}
    assert wanted | {n for n in names if n.startswith("cellxgene")} == set(aside.index)
    assert "15 bytes announced in place of" in aside["ucsc/coll/counts"]
    assert "l0.h5" in aside["local/l0.h5"]
    assert "No space left" in aside[f"tisch/{names[4][6:]}"]
    assert "no dataset 'absent.h5ad'" in aside["local/absent.h5ad"]
    store = atlas.open(tmp_path / "s")
    assert len(store) == len(names) - 4
    saved = pd.read_csv(tmp_path / "s" / "report.csv")
    assert saved["reason"].notna().sum() == len(aside)

    monkeypatch.undo()
    server._faults.clear()
    (folder / "local" / "l0.h5").write_bytes(whole)
    report = atlas.build(plan_of(names, server.url, folder), tmp_path / "s", **QUICK)
    assert (report["status"] == "stored").all()


def test_another_recipe_replaces_what_was_stored(world, tmp_path):
    server, folder, cells = world
    name = "local/l0.h5"
    plan = plan_of([name], server.url, folder)
    first = atlas.build(plan, tmp_path / "s")
    fewest = int(np.median(np.asarray(on_axis(cells[name]).sum(axis=1))))
    strict = plan_of([name], server.url, folder, qc={**plan.qc, "min_counts": fewest})
    second = atlas.build(strict, tmp_path / "s")
    kept = on_axis(cells[name]).sum(axis=1) >= fewest
    assert first["n_cells"].item() == 80
    assert second["n_cells"].item() == kept.sum() < 80
    stored = atlas.open(tmp_path / "s")[second["key"].item()].to_memory()
    np.testing.assert_array_equal(stored.X.toarray(), on_axis(cells[name])[kept])


def test_earlier_symbols_are_found_with_the_table_of_aliases(tmp_path):
    adata = truth(80, 60)
    wanted = on_axis(adata)
    symbols = adata.var["symbol"].to_numpy(str)
    column = list(symbols).index("MKI67")
    symbols[column] = "OLDNAME"
    adata.var["symbol"] = symbols
    (tmp_path / "local").mkdir()
    ids = list(symbols)
    write_10x_h5(adata, tmp_path / "local" / "a.h5", ids=ids)
    table = "hgnc_id\tsymbol\talias_symbol\tprev_symbol\tensembl_gene_id\n"
    (tmp_path / "hgnc.txt").write_text(f"{table}HGNC:1\tMKI67\t\tOLDNAME\tENSG00000148773\n")
    gene = {}
    for name, more in {"without": {}, "with": {"hgnc": str(tmp_path / "hgnc.txt")}}.items():
        plan = plan_of(["local/a.h5"], "", tmp_path, **more)
        atlas.build(plan, tmp_path / "s", progress=print)
        stored = atlas.open(tmp_path / "s")["local-a.h5"].to_memory()
        gene[name] = stored[:, "ENSG00000148773"].X.toarray().ravel()
    assert gene["without"].sum() == 0
    axis = list(atlas.GeneAxis.load("human").ids)
    np.testing.assert_array_equal(gene["with"], wanted[:, axis.index("ENSG00000148773")])


def test_a_store_of_other_genes_is_not_touched(world, tmp_path):
    server, folder, _ = world
    plan = plan_of(["local/l0.h5"], server.url, folder)
    atlas.build(plan, tmp_path / "s")
    hashed = atlas.open(tmp_path / "s").content_hash()
    mouse = plan_of(["local/l0.h5"], server.url, folder, organism="mouse")
    with pytest.raises(ValueError, match="mouse"):
        atlas.build(mouse, tmp_path / "s")
    assert atlas.open(tmp_path / "s").content_hash() == hashed


def test_two_workers_build_the_same_store(world, built, tmp_path):
    server, folder, cells = world
    plan = plan_of([*cells], server.url, folder)
    report = atlas.build(plan, tmp_path / "s", workers=2, **QUICK)
    assert (report["status"] == "stored").all(), report.to_string()
    assert atlas.open(tmp_path / "s").content_hash() == atlas.open(built[0]).content_hash()
    ours, theirs = (
        [ad.io.read_zarr(p) for p in sorted((s / "train").glob("dataset_*"))]
        for s in (tmp_path / "s", built[0])
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
        assert a.obs_names.equals(b.obs_names)


def test_killed_at_any_moment_it_builds_the_same_store(tmp_path):
    script = Path(__file__).parents[1] / "atlas_killed_build.py"
    command = [sys.executable, str(script), str(tmp_path), "6", "0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split()[0] == "6"


def test_files_of_stored_datasets_can_be_let_go(world, tmp_path):
    server, folder, cells = world
    web = [n for n in cells if n.startswith("ucsc")]
    plan = plan_of([*web, "local/l1.h5"], server.url, folder)
    atlas.build(plan, tmp_path / "s", keep_downloads=False, **QUICK)
    left = [p for p in (tmp_path / "s" / "downloads").rglob("*") if p.suffix in (".gz", ".tsv")]
    assert left == []
    assert (folder / "local" / "l1.h5").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"n_cells": 1000}, "hold 80 cells; the plan says n_cells = 1000"),
        ({"qc": {"min_counts": 10**6}}, "None of 80 cells passes"),
        ({"version": "1"}, "no longer has 'l0.h5' in version '1'"),
        ({"read": {"layer": "nope"}}, "unexpected keyword argument 'layer'"),
    ],
)
def test_a_dataset_that_is_not_what_the_plan_says(world, tmp_path, more, reason):
    server, folder, _ = world
    plan = plan_of(
        ["local/l0.h5"],
        server.url,
        folder,
        dataset=[{"source": "local", "id": "l0.h5", **more}],
    )
    report = atlas.build(plan, tmp_path / "s")
    assert report["status"].item() == "set aside"
    assert reason in report["reason"].item()


def test_without_the_ontologies_nothing_is_begun(world, tmp_path, monkeypatch):
    server, folder, _ = world
    monkeypatch.setattr("scgm_scvi.atlas.curate._ontologies.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scgm_scvi\[atlas\]"):
        atlas.build(plan_of(["local/l0.h5"], server.url, folder), tmp_path / "s")
    assert not (tmp_path / "s").exists()
