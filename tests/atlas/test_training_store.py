"""The training store holds each cell once, in an order that only the seed decides."""

import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from atlas_cells import AXIS, arguments, make_cells, make_store
from scipy import sparse

from scgm_scvi.atlas.store._store import Store
from scgm_scvi.atlas.store._training_store import extend_training_store, make_training_store

pytestmark = pytest.mark.slow  # makes whole stores

COLUMNS = ["cell_type", "donor", "age", "tnm_stage", "doublet"]


@pytest.fixture(scope="module")
def data():
    data = {f"s{i % 2}-d{i}": make_cells(200 + 50 * i, seed=i, unmeasured=15) for i in range(3)}
    data["s1-d1"].obs["cell_type"] = data["s1-d1"].obs["cell_type"].replace({"NK": "Mono"})
    del data["s0-d2"].obs["donor"]
    return data


@pytest.fixture(scope="module")
def store(tmp_path_factory, data):
    return make_store(tmp_path_factory.mktemp("scgdb") / "s", data)


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "train"
    return make_training_store(store, genes=40, cells_per_part=200, obs_columns=COLUMNS, out=out)


def parts_of(path):
    group = zarr.open_group(path, mode="r")
    return [ad.io.read_elem(group[f"dataset_{i}"]) for i in range(group.attrs["scgdb"]["n_parts"])]


def same(one, two):
    a, b = parts_of(one), parts_of(two)
    return len(a) == len(b) and all(
        x.obs.equals(y.obs) and x.var.equals(y.var) and (x.X != y.X).nnz == 0
        for x, y in zip(a, b, strict=True)
    )


def test_each_cell_is_there_once_with_its_counts(made, store, data):
    parts = parts_of(made)
    assert len(parts) >= 4
    assert sum(p.n_obs for p in parts) == sum(a.n_obs for a in data.values())
    names = list(store.highly_variable(40, by_dataset=True))
    for part in parts:
        assert list(part.var_names) == names
        assert part.X.dtype == np.float32
        for key, cells in part.obs.groupby("dataset", observed=True):
            rows, whole = cells["row"].to_numpy(), data[key]
            own = part[cells.index].X.toarray()
            np.testing.assert_array_equal(own, whole[rows, names].X.toarray())
            np.testing.assert_array_equal(
                cells["library_size"], np.ravel(whole.X[rows].sum(1)).astype(np.float32)
            )
            assert (cells["source"] == key.split("-")[0]).all()
            assert list(cells.index) == [f"{key}/{r}" for r in rows]
            for column in ("cell_type", "age", "doublet"):
                want = whole.obs[column].iloc[rows].astype(str)
                got = cells[column].map("{:.0f}".format) if column == "age" else cells[column]
                assert list(got.astype(str)) == list(want), column
            donor = whole.obs.get("donor", pd.Series(None, whole.obs_names)).iloc[rows]
            assert cells["donor"].isna().tolist() == donor.isna().tolist()
    everything = pd.concat([p.obs[["dataset", "row"]] for p in parts])
    assert not everything.duplicated().any()


def test_categories_are_the_same_in_all_parts(made, store):
    parts = parts_of(made)
    for column in ("dataset", "source", "cell_type", "donor", "tnm_stage", "doublet"):
        each = {tuple(p.obs[column].cat.categories) for p in parts}
        assert len(each) == 1, column
    assert list(parts[0].obs["cell_type"].cat.categories) == ["B cell", "Mono", "NK", "T cell"]
    assert parts[0].obs["age"].dtype == np.float32


def test_the_order_is_that_of_chance(made, data):
    parts = parts_of(made)
    obs = pd.concat([p.obs for p in parts])
    share = pd.Series({k: a.n_obs for k, a in data.items()}) / len(obs)
    for part in parts:  # each part a sample of all, and so is its first half
        for some in (part.obs, part.obs[: part.n_obs // 2]):
            found = some["dataset"].value_counts(normalize=True)
            spread = np.sqrt(share * (1 - share) / len(some))
            assert (abs(found[share.index] - share) < 4 * spread).all()
    # no trace of where a cell came from
    place = np.arange(len(obs))
    assert abs(np.corrcoef(place, obs["row"])[0, 1]) < 4 / np.sqrt(len(obs))
    sizes = [p.n_obs for p in parts]
    assert max(sizes) - min(sizes) < 8 * np.sqrt(len(obs) / len(sizes))


def test_the_seed_alone_decides(made, store, data, tmp_path):
    options = {"genes": 40, "cells_per_part": 200, "obs_columns": COLUMNS}
    other = Store.create(tmp_path / "s", AXIS)
    for key in reversed(data):  # another order on disk, other blocks
        other.write(key, **arguments(data[key], n=17, source=key.split("-")[0]))
    again = make_training_store(other, **options)
    assert again == other.path / "train"
    assert same(made, again)
    # a bucket's cells come a few at a time when memory is small; the parts are then others
    moved = make_training_store(other, **options, seed=1, overwrite=True)
    assert not same(made, moved)
    assert list((other.path / "tmp").iterdir()) == []


def test_small_memory_makes_more_parts(store, tmp_path):
    names = ["ENSG00000000005", "ENSG00000000001"]
    path = make_training_store(store, genes=names, memory="20KB", out=tmp_path / "t")
    parts = parts_of(path)
    assert len(parts) > 3
    assert min(p.n_obs for p in parts) > 0
    assert list(parts[0].var_names) == names
    assert sum(p.n_obs for p in parts) == 750
    # a few of the known columns, as they occur
    assert list(parts[0].obs)[2:-2] == ["cell_type", "tissue", "donor"]


def test_measured_genes_go_along(made, data):
    about = ad.io.read_elem(zarr.open_group(made, mode="r")["measured"])
    assert list(about["datasets"]) == sorted(data)
    for key, mask in zip(about["datasets"], about["measured"], strict=True):
        whole = pd.Series(data[key].varm["measured"][:, 0], data[key].var_names)
        np.testing.assert_array_equal(mask, whole[about["genes"]])


def test_blocks_can_be_read_from_disk(made):
    group = zarr.open_group(made, mode="r")
    assert group.attrs["encoding-type"] == "annbatch-preshuffled"
    assert set(group) == {"measured", *(f"dataset_{i}" for i in range(len(parts_of(made))))}
    backed = ad.io.sparse_dataset(group["dataset_0/X"])
    whole = parts_of(made)[0]
    assert (backed[10:74] != whole.X[10:74]).nnz == 0
    assert (ad.experimental.read_lazy(made / "dataset_0").to_memory().X != whole.X).nnz == 0


def test_datasets_can_be_held_out_and_added(store, data, tmp_path):
    keys = ["s0-d0", "s1-d1"]
    options = {"genes": 30, "cells_per_part": 150, "obs_columns": COLUMNS, "out": tmp_path / "t"}
    path = make_training_store(store, datasets=keys, **options)
    before = parts_of(path)
    assert set(pd.concat([p.obs for p in before])["dataset"]) == set(keys)
    files = {p: p.stat().st_ino for p in path.rglob("X/*/c/*")}
    extend_training_store(store, out=path, cells_per_part=150)
    after = parts_of(path)
    assert {p: p.stat().st_ino for p in path.rglob("X/*/c/*") if p in files} == files
    for old, new in zip(before, after, strict=False):
        assert (old.X != new.X).nnz == 0
        assert old.obs.astype(str).equals(new.obs.astype(str))
    added = pd.concat([p.obs for p in after[len(before) :]])
    assert set(added["dataset"].astype(str)) == {"s0-d2"}
    assert len(added) == data["s0-d2"].n_obs
    for column in ("dataset", "cell_type"):
        assert len({tuple(p.obs[column].cat.categories) for p in after}) == 1
    assert list(zarr.open_group(path).attrs["scgdb"]["datasets"]) == [*keys, "s0-d2"]
    assert ad.io.read_elem(zarr.open_group(path)["measured"])["measured"].shape == (3, 30)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    with pytest.raises(ValueError, match="already"):
        extend_training_store(store, out=path)


def test_it_appears_whole(store, tmp_path, monkeypatch):
    out = tmp_path / "t"

    def stop(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scgm_scvi._whole.sync_folder", stop)
    with pytest.raises(OSError, match="No space"):
        make_training_store(store, genes=10, out=out)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    make_training_store(store, genes=10, out=out)
    first = os.stat(out).st_ino
    with pytest.raises(FileExistsError, match="overwrite"):
        make_training_store(store, genes=10, out=out)
    make_training_store(store, genes=10, out=out, overwrite=True)
    assert os.stat(out).st_ino != first
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_changed_dataset_is_noticed(tmp_path):
    store = make_store(tmp_path / "s", {"a": make_cells(30), "b": make_cells(30, seed=1)})
    with pytest.raises(FileNotFoundError, match="make_training_store"):
        extend_training_store(store)
    make_training_store(store, genes=10)
    store.drop("a")
    store.write("a", **arguments(make_cells(30, seed=3)))
    with pytest.raises(ValueError, match="'a'.*dropped or changed"):
        extend_training_store(store)


def test_empty_cells_and_silent_genes_are_kept(tmp_path):
    store = Store.create(tmp_path / "s", AXIS)
    adata = make_cells(20, 8)
    options = {**arguments(adata), "blocks": [sparse.csr_matrix((20, 8))]}
    store.write("a", **options)
    path = make_training_store(store, genes=list(adata.var_names[:2]))
    (part,) = parts_of(path)
    assert part.X.nnz == 0
    assert sorted(part.obs["row"]) == list(range(20))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": ["ENSG00000000001", "ENSG9"]}, KeyError, "genes: 'ENSG9'"),
        ({"genes": "ENSG00000000001"}, ValueError, "list of names"),
        ({"genes": 0}, ValueError, "genes is 0"),
        ({"obs_columns": ["cell_typ"]}, KeyError, "Did you mean 'cell_type'"),
        ({"obs_columns": "cell_type"}, ValueError, "list of names"),
        ({"datasets": ["s0-d9"]}, KeyError, "datasets: 's0-d9'"),
        ({"datasets": []}, ValueError, "no datasets"),
        ({"memory": "much"}, ValueError, "memory is 'much'"),
        ({"memory": 0}, ValueError, "memory is 0"),
        ({"cells_per_part": 0}, ValueError, "cells_per_part"),
    ],
)
def test_errors_name_the_value(store, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make_training_store(store, out=tmp_path / "t", **options)
    assert list(tmp_path.iterdir()) == []
