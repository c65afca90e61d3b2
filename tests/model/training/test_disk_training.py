"""Training from a store on disk, against training on the same cells in memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from atlas_processes import run_processes
from atlas_training_store import real_cells, write_store
from helpers import QUIET, SMALL

from scgm_scvi import SCGM
from scgm_scvi.atlas.stream._datamodule import AtlasDataModule
from scgm_scvi.train import CachedLatents, LatentCache, units_of

KEYS = {
    "labels_key": "cell_type",
    "condition_keys": ["stimulation"],
    "continuous_condition_keys": ["dose"],
    "categorical_covariate_keys": ["plate"],
    "continuous_covariate_keys": ["mito"],
}
STEPS = {"max_steps": 60, "diffusion_kwargs": {"max_steps": 120}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "training"
    return path, write_store(path, real_cells())


@pytest.fixture(scope="module")
def trained(store):
    return train(store[0])


def make(path, **kwargs):
    return AtlasDataModule(path, **{**KEYS, "weights": None, "batch_size": 64, **kwargs})


def train(path, **kwargs):
    scvi.settings.seed = 0
    dm = make(path)
    model = SCGM(registry=dm.registry, **SMALL)
    model.train(datamodule=dm, **{**STEPS, **QUIET, **kwargs})
    return model


def test_both_stages_train_and_generate_by_any_attribute(trained, store):
    assert trained.is_trained_
    assert trained.is_diffusion_trained
    history = trained.history
    assert history["elbo_validation"].iloc[-1, 0] < history["elbo_validation"].iloc[0, 0]
    assert {"diffusion_loss_train", "elbo_train"} <= history.keys()
    cells = trained.generate(
        40,
        {"cell_type": "CD19+ B", "stimulation": "IFNb", "dose": 3.0, "dataset": "lung"},
        seed=0,
        progress_bar=False,
    )
    assert (cells.obs["cell_type"] == "CD19+ B").all()
    assert (cells.obs["dataset"] == "lung").all()
    assert list(cells.var_names) == list(store[1].var_names)
    assert list(cells.var.columns) == list(store[1].var.columns)
    assert cells.X.sum() > 0


def test_it_learns_as_it_does_in_memory(store):
    """The same cells to train on and to validate on, the same number of steps."""
    path, adata = store
    dm = make(path)
    train, validation = dm.train_rows.astype(np.int64), dm.validation_rows.astype(np.int64)
    scvi.settings.seed = 0
    on_disk = SCGM(registry=dm.registry, **SMALL)
    on_disk.train(datamodule=dm, max_epochs=16, diffusion=False, **QUIET)
    scvi.settings.seed = 0
    cells = AnnData(adata.X.astype(np.float32), obs=adata.obs, var=adata.var)
    SCGM.setup_anndata(cells, batch_key="dataset", **KEYS)
    in_memory = SCGM(cells, **SMALL)
    in_memory._data_splitter_cls = splitter(train, validation)
    in_memory.train(max_epochs=16, batch_size=64, diffusion=False, **QUIET)
    losses = [m.history["elbo_validation"].to_numpy(float) for m in (on_disk, in_memory)]
    np.testing.assert_allclose(*losses, rtol=0.01)
    assert losses[1][0] > 1.05 * losses[1][-1]


def splitter(train, validation):
    """scvi-tools' own, of given cells."""
    from scvi.dataloaders import DataSplitter

    class Given(DataSplitter):
        def __init__(self, manager, **kwargs):
            kwargs = {k: v for k, v in kwargs.items() if k not in ("train_size", "validation_size")}
            super().__init__(manager, external_indexing=[train, validation], **kwargs)

    return Given


def test_a_fresh_process_loads_and_generates(trained, store, tmp_path):
    trained.save(tmp_path / "model")
    here = trained.generate(30, {"cell_type": "Dendritic"}, seed=1, progress_bar=False)
    code = """
import sys, warnings
from scgm_scvi import SCGM
model = SCGM.load(sys.argv[1], adata=False)
cells = model.generate(30, {"cell_type": "Dendritic"}, seed=1, progress_bar=False)
print(int(cells.X.sum()), list(cells.var_names)[:3])
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{int(here.X.sum())} {list(store[1].var_names)[:3]}" in out.stdout


def test_it_is_a_model_like_any_other_when_given_cells(trained, store, tmp_path):
    """Loaded with an AnnData, edited, queried: nothing remembers the data module."""
    adata = AnnData(store[1].X.astype(np.float32), obs=store[1].obs, var=store[1].var)[:200].copy()
    edited = trained.edit(adata, {"stimulation": "IFNb"}, copy=True, seed=0, n_steps=4)
    assert "scgm_edited" in edited.layers
    trained.save(tmp_path / "model")
    loaded = SCGM.load(tmp_path / "model", adata)
    assert loaded.get_latent_representation().shape == (200, 12)
    assert loaded.is_diffusion_trained
    loader = make(store[0]).inference_dataloader()
    latents = trained.get_latent_representation(dataloader=loader)
    np.testing.assert_allclose(latents[:200], loaded.get_latent_representation(), atol=1e-4)


def test_training_goes_on_after_loading(trained, store, tmp_path):
    trained.save(tmp_path / "model")
    model = SCGM.load(tmp_path / "model", adata=False)
    before = model.history["elbo_train"].shape[0]
    model.train(datamodule=make(store[0]), max_epochs=2, diffusion=False, **QUIET)
    assert model.history["elbo_train"].shape[0] == before + 2
    with pytest.raises(RuntimeError, match="stale"):
        model.generate(3)
    model.train_diffusion(20, datamodule=make(store[0]), **QUIET)
    assert model.generate(3, progress_bar=False).n_obs == 3


def test_the_seed_decides(store):
    a, b = (train(store[0], max_steps=12, diffusion_kwargs={"max_steps": 20}) for _ in range(2))
    for key, value in a.module.state_dict().items():
        assert torch.equal(value, b.module.state_dict()[key]), key


def test_latents_are_on_disk_in_half_precision_and_removed(trained, store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dm = make(store[0])
    with trained._latent_table(0, dm, progress_bar=False) as table:
        (folder,) = tmp_path.iterdir()
        moments = np.load(folder / "latents-0-moments.npy", mmap_mode="r")
        assert moments.dtype == np.float16
        assert moments.shape == (700, 2, 13)
        assert table.n_cells == dm.n_train
        denoiser = trained.module.denoiser
        shift, scale = denoiser.shift.clone(), denoiser.scale.clone()
        data = table.data(batch_size=64, steps_per_epoch=10, seed=0)
        mean, std, tokens, _ = data.cells([slice(0, 300), slice(300, 700)])
        assert len(list(data.val_dataloader())) == 2
    assert list(tmp_path.iterdir()) == []
    # against the same cells in memory
    own = [
        trained.module.encode_state(t)
        for s in ("train", "validation")
        for t in dm.inference_dataloader(s)
    ]
    m, v = (torch.cat(part) for part in zip(*own, strict=True))
    n = dm.n_train
    torch.testing.assert_close(shift, m[:n].mean(dim=0), rtol=1e-4, atol=1e-4)
    total = m[:n].var(dim=0, correction=0) + v[:n].mean(dim=0)
    torch.testing.assert_close(scale, total.sqrt(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, (m - shift) / scale, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(std, v.sqrt() / scale, rtol=2e-3, atol=1e-4)
    order = np.concatenate([dm.train_rows, dm.validation_rows])
    codes = np.stack(
        [store[1].obs[k].cat.codes for k in ("cell_type", "stimulation", "dataset", "plate")]
    )
    np.testing.assert_array_equal(tokens, codes.T[order] + 1)


def test_a_named_cache_stays(trained, store, tmp_path):
    trained.train_diffusion(20, datamodule=make(store[0]), latent_cache=tmp_path / "c", **QUIET)
    names = {p.name for p in (tmp_path / "c").iterdir()}
    assert names == {f"latents-0-{k}.npy" for k in ("moments", "tokens", "values", "numeric")}


def test_a_cache_that_does_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    cache = LatentCache(tmp_path, 100, 100)
    with pytest.raises(OSError, match="latent_cache="):
        cache.append(torch.zeros(4, 8), torch.ones(4, 8), {})
    assert list(tmp_path.iterdir()) == []


def test_statistics_are_those_of_all_cells_however_they_come(tmp_path):
    g = torch.Generator().manual_seed(0)
    mean = 1e4 + torch.randn(999, 3, generator=g) * torch.tensor([1e-1, 1.0, 30.0])
    variance = torch.rand(999, 3, generator=g)
    weights = torch.rand(800, generator=g)
    with LatentCache(tmp_path, 999, 800) as cache:
        for rows in torch.arange(999).split(100):
            cache.append(mean[rows], variance[rows], {}, weights[rows[rows < 800]])
    shift, scale = units_of(cache.sums)
    p = (weights / weights.sum())[:, None].double()
    want = (p * mean[:800].double()).sum(dim=0)
    spread = (p * ((mean[:800].double() - want) ** 2 + variance[:800].double())).sum(dim=0)
    torch.testing.assert_close(shift.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(scale.double(), spread.sqrt(), rtol=1e-5, atol=0)


def cache_of(folder, n_train=300, n=340):
    """Every cell carries its row number as its token, a hundredth of that as its mean."""
    rows = torch.arange(n)[:, None]
    cache = LatentCache(folder, n, n_train)
    std = torch.tensor([1.0, 2.0, 0.0])
    cache.append(
        0.01 * rows + torch.zeros(n, 3),
        (std**2).expand(n, 3),
        {"tokens": rows, "values": rows.float()},
    )
    return cache


def data_of(cache, **kwargs):
    return CachedLatents(
        cache, torch.zeros(3), torch.ones(3), **{"batch_size": 50, "steps_per_epoch": 12, **kwargs}
    )


def test_stage_two_draws_fresh_samples_of_each_cell_once_a_pass(tmp_path):
    with cache_of(tmp_path) as cache:
        loader = data_of(cache).train_dataloader()
        epochs = [list(loader) for _ in range(100)]
        validation = [list(data_of(cache).val_dataloader()) for _ in range(2)]
    rows = torch.cat([t for epoch in epochs for _, t, _ in epoch])[:, 0]
    for one in rows.split(300):
        assert sorted(one.tolist()) == list(range(300))
    assert rows[:300].tolist() != rows[300:600].tolist()
    noise = torch.cat([s for epoch in epochs for s, _, _ in epoch]) - 0.01 * rows[:, None]
    torch.testing.assert_close(noise.std(0), torch.tensor([1.0, 2.0, 0.0]), atol=0.02, rtol=0)
    of_one = noise[rows == 7, 0]
    assert len(of_one) == len(of_one.unique()) == 200
    for a, b in zip(*validation, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.cat([t for _, t, _ in validation[0]])[:, 0].tolist() == list(range(300, 340))


def test_stage_two_draws_by_weights(tmp_path):
    weights = np.linspace(1, 30, 300, dtype=np.float32)
    with cache_of(tmp_path) as cache:
        loader = data_of(cache, weights=weights, steps_per_epoch=2_400).train_dataloader()
        drawn = torch.cat([t for _, t, _ in loader])[:, 0]
    share = torch.bincount(drawn, minlength=300).double() / len(drawn)
    want = weights / weights.sum()
    np.testing.assert_allclose(share.view(30, 10).sum(1), want.reshape(30, 10).sum(1), rtol=0.1)


_RANK = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
import scvi, torch, torch.distributed as dist
from scgm_scvi.model.training._fingerprint import stage_one_fingerprint
from helpers import SMALL
from scgm_scvi import SCGM
from scgm_scvi.atlas.stream._datamodule import AtlasDataModule

path, keys = sys.argv[1], json.loads(sys.argv[2])
scvi.settings.seed = 0
dm = AtlasDataModule(path, weights=None, batch_size=32, **keys)
seen = {"one": [], "two": []}
tensors = dm.attributes.tensors
dm.attributes.tensors = lambda rows: seen["one"].extend(rows.tolist()) or tensors(rows)
model = SCGM(registry=dm.registry, **SMALL)
n = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
model.train(datamodule=dm, max_epochs=4, diffusion=False, **n)
own = set(dm.order.of_pass(0, dist.get_rank(), 2).tolist())
with model._latent_table(0, dm, progress_bar=False) as table:
    data = table.data(batch_size=32, steps_per_epoch=10, seed=0)
    share = [table.n_cells, data.n_validated]
    shift = model.module.denoiser.shift.tolist()
model.train_diffusion(60, datamodule=dm, **n)
loss = model.history.get("elbo_validation")
digest = stage_one_fingerprint(model.module)
whole = float(sum(p.double().sum() for p in model.module.parameters()))
design = model.fitted_["design"]["tokens"].tolist()
if dist.get_rank() == 0:
    assert model.generate(5, progress_bar=False).n_obs == 5
    model.save(sys.argv[3])
dist.barrier()
loss = None if loss is None else float(loss.iloc[-1, 0])
dist.destroy_process_group()
print(json.dumps([sorted(own), share, shift, loss, digest, whole, design]))
"""


def test_two_processes_train_both_stages(store, tmp_path):
    arguments = [str(store[0]), json.dumps(KEYS), str(tmp_path / "model")]
    out = [json.loads(line) for line in run_processes(_RANK, arguments, tmp_path)]
    (own_a, share_a, shift_a, loss, *same_a), (own_b, share_b, shift_b, _, *same_b) = out
    assert not set(own_a) & set(own_b)
    assert share_a[1] == share_b[1] == 35
    assert share_a[0] + share_b[0] == 630
    assert shift_a == shift_b
    assert same_a == same_b
    assert len(same_a[-1]) == 630
    scvi.settings.seed = 0
    dm = make(store[0])  # minibatches as large as those of the two together
    alone = SCGM(registry=dm.registry, **SMALL)
    alone.train(datamodule=dm, max_epochs=4, diffusion=False, **QUIET)
    assert loss == pytest.approx(alone.history["elbo_validation"].iloc[-1, 0], rel=0.03)
    model = SCGM.load(tmp_path / "model", adata=False)
    assert model.generate(3, progress_bar=False).n_obs == 3


class TestErrors:
    def test_what_can_not_work_without_cells_says_so(self, trained):
        with pytest.raises(ValueError, match=r"train\(datamodule="):
            trained.train()
        with pytest.raises(ValueError, match="datamodule=..."):
            trained.train_diffusion()
        with pytest.raises(ValueError, match="adata has to be given"):
            trained.log_likelihood()

    def test_a_model_with_cells_takes_no_data_module(self, store):
        adata = AnnData(store[1].X.astype(np.float32), obs=store[1].obs, var=store[1].var)
        SCGM.setup_anndata(adata, batch_key="dataset", **KEYS)
        model = SCGM(adata, **SMALL)
        with pytest.raises(ValueError, match="AnnData in memory"):
            model.train(datamodule=make(store[0]))

    def test_another_data_module_is_refused(self, trained, store):
        other = make(store[0], labels_key="stimulation", condition_keys=[])
        with pytest.raises(ValueError, match="differ .* in their categorical"):
            trained.train(datamodule=other)

    def test_a_split_is_the_data_modules(self, trained, store):
        with pytest.raises(ValueError, match="train_size: the data module"):
            trained.train(datamodule=make(store[0]), train_size=0.8)

    def test_what_is_no_data_module_is_refused(self, trained, tmp_path):
        with pytest.raises(TypeError, match="AtlasDataModule"):
            SCGM.setup_datamodule(object())
        with pytest.raises(ValueError, match=r"train\(datamodule="):
            SCGM.load(tmp_path, datamodule=object())
