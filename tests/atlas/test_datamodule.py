import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from atlas_training_store import known_cells, numbers, write_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from scgm_scvi import SCGM
from scgm_scvi.atlas.stream import _datamodule, _minibatches
from scgm_scvi.atlas.stream._datamodule import AtlasDataModule
from scgm_scvi.atlas.stream._row_order import RowOrder, row_weights
from scgm_scvi.atlas.stream._training_cells import TrainingCells, spans
from scgm_scvi.module import SCGM_KEYS

KEYS = {"labels_key": "cell_type", "condition_keys": ["tissue"]}
ALL_KEYS = {
    **KEYS,
    "continuous_condition_keys": ["age"],
    "categorical_covariate_keys": ["assay"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store, and its cells in its order; their numbers are those before they were shuffled."""
    path = tmp_path_factory.mktemp("atlas") / "training"
    return path, write_store(path, known_cells())


def drawn(batches):
    return np.concatenate([numbers(b["X"].numpy()) for b in batches])


def numbers_of(adata, rows):
    return set(numbers(adata.X[rows].toarray()).tolist())


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


class TestReading:
    @pytest.mark.slow
    @given(st.lists(st.integers(0, 1199), min_size=1, max_size=200), st.integers(0, 100))
    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_rows_are_read_as_they_were_written(self, store, rows, gap):
        path, adata = store
        rows = np.sort(rows)
        block = TrainingCells(path).read(rows)
        np.testing.assert_array_equal(block.dense(np.arange(len(rows))), adata.X[rows].toarray())
        begins, ends, positions = spans(rows, gap)
        covered = np.concatenate([np.arange(*run) for run in zip(begins, ends, strict=True)])
        np.testing.assert_array_equal(covered[positions], rows)
        assert (np.diff(covered) > 0).all()

    def test_minibatches_carry_counts_and_attributes_of_the_same_cells(self, store):
        dm = AtlasDataModule(store[0], batch_size=100, **ALL_KEYS)
        original = known_cells()

        def assert_column(found, key):
            want = original.obs[key].astype(object).iloc[cells]
            np.testing.assert_array_equal(found, want.where(want.notna(), None))

        for batch in (*dm.train_dataloader(), *dm.val_dataloader()):
            cells = numbers(batch["X"].numpy())
            assert batch["X"].dtype == torch.float32
            np.testing.assert_array_equal(batch["X"].numpy(), original.X[cells].toarray())
            assert_column(dm.batch_labels[batch["batch"][:, 0]], "dataset")
            assert_column(np.array(["v2", "v3"])[batch["extra_categorical_covs"][:, 0]], "assay")
            tokens = batch[SCGM_KEYS.CONDITIONS_KEY].numpy()
            assert_column(np.array([None, "blood", "lung"])[tokens[:, 1]], "tissue")
            types = original.obs["cell_type"].astype(object).iloc[cells].fillna("unknown")
            names = np.array(["unknown", "B", "NK", "T"])
            np.testing.assert_array_equal(names[tokens[:, 0]], types)
            np.testing.assert_array_equal(dm.label_keys[batch["labels"][:, 0]], types)
            ages = batch[SCGM_KEYS.CONDITION_VALUES_KEY].numpy()[:, 0]
            np.testing.assert_array_equal(ages, original.obs["age"].iloc[cells].astype(np.float32))

    def test_the_registry_is_that_of_the_same_cells_in_memory(self, store):
        path, adata = store
        dm = AtlasDataModule(path, **ALL_KEYS)
        assert dm.registry["setup_method_name"] == "setup_datamodule"
        adata = AnnData(adata.X.astype(np.float32), obs=adata.obs, var=adata.var)
        SCGM.setup_anndata(adata, batch_key="dataset", unlabeled_category="unknown", **ALL_KEYS)
        want = SCGM(adata, n_latent=2, n_hidden=4).registry_
        known = want["field_registries"]["X"]["state_registry"]
        assert known.pop("fingerprint")["sum"] == adata.X.sum()  # cells on disk have none
        got = SCGM.setup_datamodule(dm)
        assert got.keys() == want.keys() - {"_scvi_uuid"}
        assert_same(got, {key: want[key] for key in got})

    def test_a_category_that_only_a_later_member_has_comes_last(self, tmp_path):
        a, b = known_cells(200), known_cells(100, seed=1)
        b.obs["tissue"] = pd.Categorical(["alps"] * 100)
        write_store(tmp_path / "s", a, 1, seed=None)
        write_store(tmp_path / "t", b, 1, seed=None)
        (tmp_path / "t" / "dataset_0").rename(tmp_path / "s" / "dataset_1")
        dm = AtlasDataModule(tmp_path / "s", **KEYS)
        state = dm.registry["field_registries"][SCGM_KEYS.CONDITIONS_KEY]["state_registry"]
        assert state["mappings"]["tissue"].tolist() == ["blood", "lung", "alps"]
        tokens = [b[SCGM_KEYS.CONDITIONS_KEY] for b in dm.inference_dataloader()]
        assert (torch.cat(tokens)[200:, 1] == 3).all()


class TestPasses:
    def test_each_training_cell_comes_once_a_pass(self, store):
        path, adata = store
        dm = AtlasDataModule(path, weights=None, batch_size=70, block_size=16, fetch_factor=3)
        loader = dm.train_dataloader()
        passes = [drawn(loader) for _ in range(3)]
        assert len(loader) == -(-dm.n_train // 70)
        want = sorted(numbers_of(adata, dm.train_rows))
        for one in passes:
            assert sorted(one) == want
        assert not np.array_equal(passes[0], passes[1])
        validation = drawn(dm.val_dataloader())
        assert len(validation) == 120
        assert not set(validation) & set(want)
        assert set(validation) | set(want) == set(range(1200))

    def test_the_seed_decides(self, store):
        def first(seed, **kwargs):
            dm = AtlasDataModule(store[0], seed=seed, batch_size=70, **kwargs)
            loader = dm.train_dataloader()
            return np.concatenate([drawn(loader), drawn(loader)])

        for kwargs in ({}, {"weights": None}):
            np.testing.assert_array_equal(first(1, **kwargs), first(1, **kwargs))
            assert not np.array_equal(first(1, **kwargs), first(2, **kwargs))

    def test_short_epochs_go_on_where_the_last_one_ended(self, store):
        path, adata = store
        dm = AtlasDataModule(path, weights=None, batch_size=100, steps_per_epoch=4)
        loader = dm.train_dataloader()
        assert len(loader) == dm.n_steps == 4
        one_pass = np.concatenate([drawn(loader) for _ in range(3)])[: dm.n_train]
        assert sorted(one_pass) == sorted(numbers_of(adata, dm.train_rows))

    @pytest.mark.parametrize(("kind", "power"), [("sqrt", 0.5), ("uniform", 0.0)])
    def test_data_sets_are_drawn_by_their_weights(self, store, kind, power):
        path, adata = store
        dm = AtlasDataModule(path, weights=kind, batch_size=128)
        loader = dm.train_dataloader()
        batches = [b["batch"][:, 0] for _ in range(20) for b in loader]
        share = np.bincount(torch.cat(batches), minlength=4) / (20 * dm.n_train)
        sizes = np.bincount(adata.obs["dataset"].cat.codes.to_numpy()[dm.train_rows])
        assert sizes.max() > 10 * sizes.min()
        np.testing.assert_allclose(share, sizes**power / (sizes**power).sum(), rtol=0.02)

    def test_labels_are_drawn_by_their_weights(self, store):
        dm = AtlasDataModule(store[0], weights=None, class_weights="uniform", **KEYS)
        loader = dm.train_dataloader()
        tokens = [b[SCGM_KEYS.CONDITIONS_KEY][:, 0] for _ in range(20) for b in loader]
        share = np.bincount(torch.cat(tokens)) / (20 * dm.n_train)
        np.testing.assert_allclose(share, 0.25, rtol=0.03)

    @pytest.mark.parametrize("weights", [None, "sqrt"])
    def test_a_held_out_data_set_is_validated_and_never_drawn(self, store, weights):
        path, adata = store
        dm = AtlasDataModule(path, weights=weights, holdout=["b", "d"], batch_size=64)
        held = adata.obs["dataset"].isin(["b", "d"]).to_numpy()
        loader = dm.train_dataloader()
        seen = {int(i) for _ in range(3) for i in drawn(loader)}
        assert not seen & numbers_of(adata, held)
        assert set(drawn(dm.val_dataloader())) == numbers_of(adata, held)
        assert set(drawn(dm.inference_dataloader("train"))) == numbers_of(adata, ~held)
        few = AtlasDataModule(path, holdout=["b"], validation_size=50)
        assert few.n_val == 50
        assert {few.batch_labels[b["batch"][0, 0]] for b in few.val_dataloader()} == {"b"}

    def test_a_minibatch_mixes_data_sets_as_independent_draws_would(self, tmp_path):
        adata = known_cells(4096)
        adata.obs["dataset"] = pd.Categorical([f"d{i // 128}" for i in range(4096)])  # in order
        write_store(tmp_path / "s", adata, 2)
        dm = AtlasDataModule(tmp_path / "s", weights=None, validation_size=0, batch_size=256)
        found = [entropy(np.bincount(b["batch"][:, 0])) for b in dm.train_dataloader()]
        rng = np.random.default_rng(0)
        iid = [entropy(np.bincount(rng.integers(0, 32, 256))) for _ in range(200)]
        assert np.mean(found) > 0.95 * np.mean(iid)

    def test_inference_gives_each_cell_once_and_in_order(self, store):
        path, adata = store
        dm = AtlasDataModule(path)
        loader = dm.inference_dataloader(batch_size=100)
        assert loader.n_obs == 1200
        assert len(loader) == 12
        np.testing.assert_array_equal(drawn(loader), numbers(adata.X.toarray()))
        part = dm.inference_dataloader("train")
        assert part.n_obs == len(part.weights) == dm.n_train

    def test_cells_without_counts_are_left_out(self, tmp_path):
        adata = known_cells(300)
        adata.X = adata.X.multiply((np.arange(300) % 10 != 3)[:, None]).tocsr()
        adata.X.eliminate_zeros()
        write_store(tmp_path / "s", adata, 2)
        dm = AtlasDataModule(tmp_path / "s", weights=None, validation_size=0.2)
        seen = [*drawn(dm.train_dataloader()), *drawn(dm.val_dataloader())]
        assert sorted(seen) == [i for i in range(300) if i % 10 != 3]

    @pytest.mark.slow
    def test_what_is_held_in_memory_does_not_grow_with_the_counts(self, tmp_path):
        """Numpy tells tracemalloc of its arrays."""
        peaks = []
        for n in (2_000, 20_000):
            adata = known_cells(n, 300)
            write_store(tmp_path / f"{n}", adata, 2)
            tracemalloc.start()
            dm = AtlasDataModule(tmp_path / f"{n}", batch_size=64, fetch_factor=2, **KEYS)
            for _ in dm.train_dataloader():
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        growth, counts = (peaks[1] - peaks[0]) / 18_000, 6 * adata.X.nnz / 20_000  # bytes a cell
        assert growth < 50 < 0.1 * counts


class TestProcesses:
    @given(
        n=st.integers(20, 400),
        world_size=st.integers(2, 4),
        batch_size=st.integers(1, 8),
        block_size=st.integers(1, 64),
        weighted=st.booleans(),
        number=st.integers(0, 3),
    )
    @settings(max_examples=100, deadline=None)
    def test_shares_are_disjoint_and_equal(
        self, n, world_size, batch_size, block_size, weighted, number
    ):
        weights = row_weights(np.arange(n) % 3, "sqrt") if weighted else None
        rows = np.arange(n, dtype=np.uint32) * 2
        order = RowOrder(rows, weights, batch_size, block_size, seed=5)
        shares = [order.of_pass(number, rank, world_size) for rank in range(world_size)]
        assert {len(s) for s in shares} == {order.n_batches(world_size) * batch_size}
        seen = [set(s.tolist()) for s in shares]
        assert sum(map(len, seen)) == len(set.union(*seen))
        assert set.union(*seen) <= set(rows.tolist())
        if not weighted:
            left = n - sum(map(len, shares))
            assert sum(map(len, shares)) == sum(map(len, seen))
            assert left < world_size * (batch_size + 2 * order.block(world_size))

    def test_two_processes_share_the_cells(self, store, monkeypatch):
        """Real ones are in tests/model/training/test_disk_training.py."""
        ranks = []
        for rank in range(2):
            for module in (_datamodule, _minibatches):
                monkeypatch.setattr(module, "process", lambda rank=rank: (rank, 2))
            dm = AtlasDataModule(store[0], weights=None, batch_size=50)
            loader = dm.train_dataloader()
            passes = [drawn(loader), drawn(loader)]
            assert len(loader) == len(passes[0]) // 50
            whole, some = dm.inference_dataloader(), dm.val_dataloader()
            ranks.append([*passes, drawn(whole), drawn(some)])
        for a, b in zip(*ranks, strict=True):
            assert len(a) == len(b)
            assert not set(a) & set(b)
        assert not np.array_equal(ranks[0][0], ranks[0][1])
        assert sorted(np.concatenate([r[2] for r in ranks])) == list(range(1200))

    def test_too_few_cells_for_the_processes(self, store, monkeypatch):
        for module in (_datamodule, _minibatches):
            monkeypatch.setattr(module, "process", lambda: (0, 3))
        dm = AtlasDataModule(store[0], batch_size=500)
        with pytest.raises(ValueError, match="1080 training cells are too few for 3 processes"):
            dm.train_dataloader()


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"labels_key": "celltype"}, KeyError, "Did you mean 'cell_type'"),
            ({"labels_key": "age"}, TypeError, "numeric"),
            ({"continuous_condition_keys": ["tissue"]}, TypeError, "categorical"),
            ({"condition_keys": "tissue"}, TypeError, r"\['tissue'\]"),
            ({"batch_key": "tissue"}, ValueError, "missing for"),
            ({"continuous_covariate_keys": ["age"]}, ValueError, "missing for"),
            ({"weights": "square"}, ValueError, "'square'"),
            ({"class_weights": "sqrt"}, ValueError, "labels_key"),
            ({"holdout": ["e"]}, ValueError, "no data set 'e'"),
            ({"holdout": "a"}, TypeError, r"\['a'\]"),
            ({"holdout": ["a"], "batch_key": None}, ValueError, "dataset_key"),
            ({"holdout": ["a", "b", "c", "d"]}, ValueError, "nothing to train on"),
            ({"validation_size": 1.5}, ValueError, "1.5"),
            ({"validation_size": 1200}, ValueError, "none is left"),
            ({"batch_size": 0}, ValueError, "batch_size"),
            ({"steps_per_epoch": 0.5}, ValueError, "steps_per_epoch"),
        ],
    )
    def test_bad_arguments_are_named(self, store, arguments, error, message):
        with pytest.raises(error, match=message):
            AtlasDataModule(store[0], **arguments)

    def test_what_is_no_store_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            AtlasDataModule(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="no members dataset_0"):
            AtlasDataModule(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x.astype(np.float32) * 0.5, "0.5"),
            (lambda x: x.tocsc(), "no CSR matrix"),
        ],
    )
    def test_what_are_no_counts_are_refused(self, tmp_path, change, message):
        adata = known_cells(300)
        adata.X = change(adata.X)
        write_store(tmp_path / "s", adata, 1, seed=None)
        with pytest.raises(ValueError, match=message):
            AtlasDataModule(tmp_path / "s")

    def test_members_need_the_same_genes(self, tmp_path):
        adata = known_cells(300)
        write_store(tmp_path / "s", adata, 1)
        adata.var_names = adata.var_names[::-1]
        write_store(tmp_path / "t", adata, 1)
        (tmp_path / "t" / "dataset_0").rename(tmp_path / "s" / "dataset_1")
        with pytest.raises(ValueError, match="dataset_1 .* other genes"):
            AtlasDataModule(tmp_path / "s")


def test_without_its_engine_it_says_what_to_install(store, monkeypatch):
    for name in ("scdataset", "annbatch"):
        monkeypatch.setitem(sys.modules, name, None)
    data = AtlasDataModule(store[0], **KEYS, batch_size=16)
    with pytest.raises(ImportError, match=r"pip install .scgm_scvi\[atlas\]"):
        next(iter(data.train_dataloader()))
