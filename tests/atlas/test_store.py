"""The store keeps what it was given, and is whole whenever its writer dies."""

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from atlas_cells import AXIS, arguments, blocks_of, make_cells, make_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas.store import _csr
from scgm_scvi.atlas.store._content import ContentHash, canonical_counts, canonical_obs
from scgm_scvi.atlas.store._store import Store

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cells():
    return make_cells(unmeasured=20)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, cells):
    return make_store(tmp_path_factory.mktemp("scgdb") / "s", {"local-a": cells})


def test_what_is_read_is_what_was_written(stored, cells):
    for adata in (
        stored["local-a"].to_memory(),
        ad.io.read_zarr(stored.folder("local-a")),
        ad.experimental.read_lazy(stored.folder("local-a")).to_memory(),
    ):
        assert (adata.X != cells.X).nnz == 0
        assert list(adata.obs_names) == list(cells.obs_names)
        assert list(adata.var_names) == list(cells.var_names)
        assert list(adata.var["symbol"].astype(str)) == list(cells.var["symbol"])
        for column in ("cell_type", "tissue", "age", "percent_mito", "doublet"):
            want, got = cells.obs[column], adata.obs[column]
            assert [str(v) for v in got] == [str(v) for v in want], column
        assert adata.obs["donor"].isna().tolist() == cells.obs["donor"].isna().tolist()
        assert adata.obs["tnm_stage"].dropna().astype(str).unique().tolist() == ["T1", "2"]
        np.testing.assert_array_equal(adata.obs["library_size"], np.ravel(cells.X.sum(1)))
        measured = adata.varm["statistics"]["measured"]
        np.testing.assert_array_equal(measured, cells.varm["measured"][:, 0])


def test_rows_are_read_from_disk(stored, cells):
    adata = stored["local-a"]
    assert not sparse.issparse(adata.X)
    rows = [7, 3, 150]
    np.testing.assert_array_equal(adata[rows].X.toarray(), cells.X[rows].toarray())
    blocks = list(stored.blocks("local-a", n_values=500))
    assert len(blocks) > 5
    assert (sparse.vstack(blocks) != cells.X).nnz == 0


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dropna", [True, False])
@pytest.mark.parametrize("column", ["donor", "cell_type", "age"])
def test_values_are_counted_as_pandas_counts_them(tmp_path, column, normalize, dropna):
    datasets = {f"d{i}": make_cells(50 + i, seed=i) for i in range(2)}
    store = make_store(tmp_path / "s", datasets)
    together = pd.concat([a.obs[column] for a in datasets.values()])
    plain = together.astype(object).where(together.notna(), np.nan)
    want = plain.value_counts(normalize=normalize, dropna=dropna)
    got = store.value_counts(column, normalize=normalize, dropna=dropna)
    assert (got.name, got.index.name) == (want.name, column)
    assert got.is_monotonic_decreasing
    assert got.rename(str).to_dict() == pytest.approx(want.rename(str).to_dict())


def test_values_of_no_column(stored):
    with pytest.raises(KeyError, match="column is 'donors'; cells have .* Did you mean 'donor'"):
        stored.value_counts("donors")


def test_the_manifest_says_what_is_there(stored, cells):
    row = stored.datasets.loc["local-a"]
    assert (row["n_cells"], row["n_values"], row["n_genes"]) == (200, cells.X.nnz, 100)
    assert row["n_counts"] == cells.X.sum()
    assert (row["source"], row["licence"], row["files"]) == ("local", "CC BY 4.0", {"x.h5": "ab12"})
    files = [p for p in stored.folder("local-a").rglob("*") if p.is_file()]
    assert row["n_bytes"] == sum(p.stat().st_size for p in files)
    assert stored.axis == AXIS
    assert (list(stored), len(stored), "local-a" in stored) == (["local-a"], 1, True)


# -- content hash


def hash_of(adata):
    obs = canonical_obs(adata.obs)
    content = ContentHash(adata.var_names, adata.varm["measured"][:, 0])
    content.update(canonical_counts(adata.X, 0, obs.index, adata.var_names, "a"))
    return content.finish(obs)


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_hash_is_of_the_content_alone(tmp_path_factory, monkeypatch, stored, cells, data):
    again = cells.copy()
    again.obs = again.obs[data.draw(st.permutations(list(again.obs.columns)))]
    names = data.draw(st.permutations(["T cell", "B cell", "NK", "unused"]))
    again.obs["cell_type"] = pd.Categorical(again.obs["cell_type"].astype(str), categories=names)
    again.obs["age"] = again.obs["age"].astype(data.draw(st.sampled_from(["int16", "Int64"])))
    again.X = again.X.astype(data.draw(st.sampled_from(["float64", "int64", "uint16"])))
    monkeypatch.setattr(_csr, "SHARD", data.draw(st.sampled_from([2**16, 2**17, 2**22])))
    other = Store.create(tmp_path_factory.mktemp("again") / "s", AXIS)
    row = other.write("local-a", **arguments(again, n=data.draw(st.integers(1, 300))))
    assert row.content_hash == stored.row("local-a").content_hash
    assert other.content_hash() == stored.content_hash()
    assert other.verify() == {}


@pytest.mark.parametrize(
    "change", ["count", "place", "label", "missing", "name", "order", "measured", "gene", "number"]
)
def test_other_content_has_another_hash(cells, change):
    adata = cells.copy()
    if change == "count":
        adata.X.data[5] += 1
    elif change == "place":  # the same values and genes, split between two cells elsewhere
        x = adata.X
        first = next(i for i in range(len(x.indptr) - 2) if x.indptr[i + 1] < x.indptr[i + 2])
        row = x[first].tolil()
        row[0, [0, 1]] = row[0, [1, 0]].toarray() + [[0, 1]]
        adata.X = sparse.vstack([x[:first], row.tocsr(), x[first + 1 :]], format="csr")
    elif change == "label":
        adata.obs["cell_type"] = adata.obs["cell_type"].replace({"NK": "NK cell"})
    elif change == "missing":
        adata.obs.loc[adata.obs_names[1], "donor"] = None
    elif change == "name":
        adata.obs_names = ["x", *adata.obs_names[1:]]
    elif change == "order":
        adata = adata[::-1].copy()
    elif change == "measured":
        zero = np.flatnonzero(~adata.varm["measured"][:, 0])[0]
        adata.varm["measured"][zero] = True
    elif change == "gene":
        adata.var_names = ["ENSGX", *adata.var_names[1:]]
    elif change == "number":
        adata.obs["percent_mito"] = adata.obs["percent_mito"].fillna(0.0)
    assert hash_of(adata) != hash_of(cells)


@pytest.mark.slow
def test_the_store_s_hash_is_of_its_datasets_in_any_order(tmp_path):
    a, b = make_cells(30, seed=1), make_cells(40, seed=2)
    one = make_store(tmp_path / "1", {"a": a, "b": b})
    two = make_store(tmp_path / "2", {"b": b, "a": a})
    assert one.content_hash() == two.content_hash()
    assert one.content_hash() != make_store(tmp_path / "3", {"a": b, "b": a}).content_hash()
    two.quarantine("c", "truncated")
    assert one.content_hash() == two.content_hash()


def test_verify_finds_damage(tmp_path, cells):
    store = make_store(tmp_path / "s", {"a": cells, "b": cells})
    assert store.verify() == {}
    shard = next((store.folder("a") / "X" / "data" / "c").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 255
    shard.write_bytes(content)
    assert list(store.verify()) == ["a"]
    shard.unlink()  # zarr reads a file that isn't there as zeros
    assert store.verify() == {"a": "holds other cells than the manifest says"}
    assert store.verify("b") == {}


# -- nothing half


@pytest.mark.slow
def test_killed_at_any_moment_it_builds_the_same(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, str(TESTS / "atlas_killed.py")]
    command += [str(tmp_path / "killed"), str(tmp_path / "whole"), "8", "0"]
    seen = set()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:  # a reader, all the while
            for path in tmp_path.glob("*/atlas.json"):
                store = Store(path.parent)
                for key in store:
                    adata = store[key].to_memory()
                    assert adata.n_obs == 100
                    assert adata.X.sum() == store.row(key).n_counts
                    seen.add((path.parent.name, key))
        out = process.stdout.read().split()
    assert process.returncode == 0
    kills, rounds = map(int, out)
    assert kills == 8
    whole = Store(tmp_path / "whole")
    assert len(whole) == 3
    for i in range(rounds):
        store = Store(tmp_path / f"killed-{i}")
        assert store.content_hash() == whole.content_hash()
        assert store.verify() == {}
        assert store.recover() == []
    assert len(seen) >= 3


@pytest.mark.slow
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, cells):
    store = make_store(tmp_path / "s", {"a": make_cells(30)})
    before = store.content_hash()
    real, calls = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(real(handle)))
    store.stage("b", **arguments(cells))
    n = len(calls)  # of the shard; the folder of shards and the manifest come after
    store.recover()
    for at in (0, n // 2, n, n + 1):
        count = itertools.count()

        def full(handle, count=count, at=at):
            if next(count) >= at:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.write("b", **arguments(cells))
        monkeypatch.setattr(os, "fsync", real)
        assert store.content_hash() == before
        assert Store(store.path).keys() == ["a"]
        assert list((store.path / "tmp").iterdir()) == []
    store.write("b", **arguments(cells))
    assert store.verify() == {}


def test_recover_leaves_what_is_listed(tmp_path, cells):
    store = make_store(tmp_path / "s", {"a": cells})
    staged = store.stage("b", **arguments(cells))
    os.rename(store.path / "tmp" / staged.folder, store.path / "datasets" / "b.zarr")
    (store.path / "tmp" / "rest").touch()
    assert "b" not in store
    assert store.recover() == ["datasets/b.zarr", "tmp/rest"]
    assert (list(store), store.verify()) == (["a"], {})


# -- several processes


@pytest.mark.slow
def test_others_stage_and_one_commits(tmp_path, cells):
    store = Store.create(tmp_path / "s", AXIS)
    worker = pickle.loads(pickle.dumps(store))
    staged = pickle.loads(pickle.dumps(worker.stage("a", **arguments(cells))))
    twice = worker.stage("a", **arguments(cells))  # a task that was run again
    assert len(store) == 0
    row = store.commit(staged)
    assert store.commit(staged) == store.commit(twice) == row
    assert (store.verify(), list((store.path / "tmp").iterdir())) == ({}, [])
    assert store.content_hash() == make_store(tmp_path / "t", {"a": cells}).content_hash()
    other = Store.create(tmp_path / "u", AXIS).stage("a", **arguments(make_cells(50)))
    with pytest.raises(FileExistsError, match=r"store\.drop\('a'\)"):
        store.commit(other)


@pytest.mark.slow
def test_writers_of_different_datasets_do_not_meet(tmp_path):
    store = Store.create(tmp_path / "s", AXIS)
    data = {f"d{i}": make_cells(40, seed=i) for i in range(4)}
    together = threading.Barrier(4, timeout=60)

    def write(key):
        own = Store(store.path)
        staged = own.stage(key, **arguments(data[key]))
        together.wait()
        own.commit(staged)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, data))
    assert store.keys() == sorted(data)
    assert store.content_hash() == make_store(tmp_path / "t", data).content_hash()


@pytest.mark.slow
def test_memory_does_not_grow_with_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(_csr, "SHARD", 2**16)
    monkeypatch.setattr(_csr, "CHUNK", 2**12)
    block = make_cells(250, 400).X
    var = pd.DataFrame(index=[f"g{i}" for i in range(400)])
    measured, peaks = np.ones(400, bool), {}
    store = Store.create(tmp_path / "s", AXIS)
    for n in (2, 8, 80):
        obs = pd.DataFrame(index=[str(i) for i in range(n * 250)])
        tracemalloc.start()
        store.write(f"d{n}", (block for _ in range(n)), obs, var, measured=measured, provenance={})
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    cells = 72 * 250
    # a fixed part, and the names of the cells; the counts are 60 times as much
    assert block.nnz / 250 * 8 > 1000
    assert (peaks[80] - peaks[8]) / cells < 400


# -- failures and errors


def test_quarantine_is_a_row_and_no_cells(tmp_path, cells):
    store = make_store(tmp_path / "s", {"a": cells})
    store.quarantine("b", "sha256 differs", {"source": "hca"})
    assert store.datasets.loc["b", ["status", "reason", "source"]].tolist() == [
        "quarantined",
        "sha256 differs",
        "hca",
    ]
    assert store.keys() == ["a"]
    with pytest.raises(KeyError, match="sha256 differs"):
        store["b"]
    store.quarantine("b", "truncated")
    assert store.row("b").reason == "truncated"
    store.write("b", **arguments(cells))
    assert store.row("b").status == "ok"
    with pytest.raises(FileExistsError, match="drop"):
        store.quarantine("b", "late")


def test_dropped_is_gone(tmp_path, cells):
    store = make_store(tmp_path / "s", {"a": cells, "b": cells})
    folder = store.folder("a")
    store.drop("a")
    assert (store.keys(), folder.exists()) == (["b"], False)
    with pytest.raises(KeyError, match="'a' is no dataset"):
        store.drop("a")
    store.write("a", **arguments(cells))
    assert store.verify() == {}


def with_value(cells, value):
    adata = cells.copy()
    x = adata.X.tolil()
    x[70, 3] = value
    adata.X = x.tocsr()
    return adata


@pytest.mark.parametrize("value", [0.5, -1, np.nan, np.inf, 2.0**31])
def test_what_is_no_count_is_refused_by_name(tmp_path, value):
    store = Store.create(tmp_path / "s", AXIS)
    adata = with_value(make_cells(), value)
    with pytest.raises(ValueError, match=r"cell 70 \('s0_c70'\).*'ENSG00000000003'.*rebuild"):
        store.write("a", **arguments(adata))
    assert (len(store), list((store.path / "tmp").iterdir())) == (0, [])


@pytest.mark.slow
def test_matrices_of_any_kind_are_the_same(tmp_path, cells):
    x = cells.X.copy()
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in itertools.pairwise(x.indptr)])
    unsorted = sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), x.shape)
    half = sparse.vstack([cells.X[:100], sparse.csr_matrix(cells.X[100:].toarray())])
    zeros = half.tocoo()
    zeros = sparse.csr_matrix(
        (np.r_[zeros.data, 0.0], (np.r_[zeros.row, 5], np.r_[zeros.col, 9])), x.shape
    )
    hashes = set()
    for i, matrix in enumerate([x, unsorted, x.tocsc(), sparse.coo_array(x), zeros]):
        before = matrix.copy()
        store = Store.create(tmp_path / str(i), AXIS)
        options = {**arguments(cells), "blocks": iter([matrix])}
        hashes.add(store.write("a", **options).content_hash)
        assert (before != matrix).nnz == 0
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": []}, "no cells"),
        ({"obs": 199}, "200 cells, obs 199"),
        ({"measured": np.ones(119, bool)}, r"shape \(119,\).*120 genes"),
        ({"measured": np.ones(120)}, "float64"),
        ({"measured": np.arange(120) > 100}, "said not to be measured"),
        ({"provenance": {"when": object()}}, "plain values"),
        ({"var": "twice"}, "twice: sum"),
        ({"obs": "library_size"}, "rename"),
        ({"blocks": [sparse.csr_matrix((3, 7))]}, "7 genes, the axis 120"),
    ],
)
def test_errors_name_the_place(tmp_path, cells, change, message):
    store = Store.create(tmp_path / "s", AXIS)
    options = {**arguments(cells), **change}
    if isinstance(options["obs"], int):
        options["obs"] = cells.obs[: options["obs"]]
    elif isinstance(options["obs"], str):
        options["obs"] = cells.obs.assign(**{options["obs"]: 1.0})
    if isinstance(options["var"], str):
        options["var"] = cells.var.set_axis([*cells.var_names[1:], cells.var_names[1]])
    with pytest.raises((ValueError, TypeError), match=message):
        store.write("a", **options)
    assert (len(store), list((store.path / "tmp").iterdir())) == (0, [])


@pytest.mark.parametrize("key", ["", "..", "a/b", ".hidden", "a\nb", "../x"])
def test_keys_are_safe_names(tmp_path, cells, key):
    store = Store.create(tmp_path / "s", AXIS)
    with pytest.raises(ValueError, match="key is"):
        store.write(key, **arguments(cells))
    with pytest.raises(ValueError, match="key is"):
        store.quarantine(key, "x")


def test_one_axis_a_store(tmp_path, cells):
    store = make_store(tmp_path / "s", {"a": cells})
    other = make_cells(n_genes=60)
    with pytest.raises(ValueError, match="not those of 'a'.*'toy' version '1'"):
        store.write("b", **arguments(other))
    with pytest.raises(FileExistsError, match=r"store\.drop\('a'\)"):
        store.write("a", **arguments(cells))
    with pytest.raises(KeyError, match="Did you mean 'a'"):
        store["A"]


def test_a_store_is_opened_where_there_is_one(tmp_path, cells):
    with pytest.raises(FileNotFoundError, match="no store"):
        Store(tmp_path)
    store = make_store(tmp_path / "s", {"a": cells})
    with pytest.raises(FileExistsError, match="open it by Store"):
        Store.create(store.path, AXIS)
    about = json.loads((store.path / "atlas.json").read_text())
    (store.path / "atlas.json").write_text(json.dumps({**about, "format_version": 2}))
    with pytest.raises(ValueError, match="update scgm-scvi"):
        Store(store.path)


def test_columns_that_files_bring():
    obs = pd.DataFrame(
        {
            "a/b": ["x", None],
            "a_b": pd.array([True, None], dtype="boolean"),
            "when": pd.to_datetime(["2020-01-01", None]),
            "mixed": [1, "one"],
            "n": pd.array([1, None], dtype="Int64"),
            "": [0.5, 1],
            "cluster": pd.Categorical([3, 1]),
            "truth": [True, None],
        },
        index=["same", "same"],
    )
    out = canonical_obs(obs)
    assert list(out) == ["a_b", "a_b_", "when", "mixed", "n", "column", "cluster", "truth"]
    assert list(out.index) == ["same", "same-1"]
    assert out["mixed"].tolist() == ["1", "one"]
    assert out["cluster"].tolist() == ["3", "1"]
    assert out["a_b"].isna().tolist() == [False, True]
    assert out["n"].dtype == float
    assert out["truth"].dtype == "boolean"
    assert out["when"].tolist()[0].startswith("2020-01-01")
    pd.testing.assert_frame_equal(canonical_obs(out), out)


def test_blocks_of_helper_is_whole(cells):
    assert sum(b.shape[0] for b in blocks_of(cells, 33)) == cells.n_obs
