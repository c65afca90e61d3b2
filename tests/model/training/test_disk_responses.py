"""Responses to perturbations, learnt from a store on disk, against the same cells in memory."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from atlas_processes import run_processes
from atlas_training_store import write_store
from helpers import QUIET, SILENT, SMALL
from scipy import sparse
from small_screens import controls_of, make_screen
from small_screens import train as train_in_memory

from scgm_scvi import SCGM
from scgm_scvi.atlas.stream._datamodule import AtlasDataModule
from scgm_scvi.model.prior._measured_responses import measure_responses

NAMES = {"labels_key": "line", "perturbation_key": "target", "control": "control"}
KEYS = {**NAMES, "batch_key": "batch", "dose_key": "dose", "validation_size": 0}
BRIEF = {"max_steps": 6, "diffusion_kwargs": {"max_steps": 5}, **QUIET}


@pytest.fixture(scope="module")
def screen():
    """Cells that stores can hold, some of them with nothing said of their perturbation."""
    adata, vectors, _ = make_screen()
    seen = ~adata.obs["target"].isin(["P10", "P11"])
    adata = adata[seen.to_numpy()].copy()
    adata.obs.loc[adata.obs_names[::50], "target"] = None
    for key in ("target", "line", "batch"):
        adata.obs[key] = adata.obs[key].astype("category")
    return adata, vectors


@pytest.fixture(scope="module")
def in_memory(screen):
    return train_in_memory(screen[0].copy(), screen[1])


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def store(request, screen, tmp_path_factory):
    path = tmp_path_factory.mktemp("screens") / "train"
    write_store(path, screen[0], seed=None if request.param == "in order" else 3)
    return path


@pytest.fixture(scope="module")
def on_disk(store, screen):
    return train(store, screen[1])


def train(path, vectors, **kwargs):
    scvi.settings.seed = 0
    dm = data_of(path, vectors, **kwargs)
    model = SCGM(registry=dm.registry, **SMALL)
    model.train(datamodule=dm, **BRIEF)
    return model


def data_of(path, vectors, **kwargs):
    return AtlasDataModule(path, **{**KEYS, "condition_embeddings": {"target": vectors}, **kwargs})


def measured(model, minibatches):
    return measure_responses(model.module, model.condition_spec, minibatches)


def test_the_same_is_measured_as_in_memory(in_memory, on_disk, store, screen):
    loader = data_of(store, screen[1]).inference_dataloader("train")
    a = measured(in_memory, in_memory._minibatches(None))
    b = measured(on_disk, loader)
    assert a.observed == b.observed and len(a.observed) == 40 and a.contexts == b.contexts
    for name in ("n_cells", "change", "noise", "baselines", "covariance"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)
    assert np.abs(a.change).max() > 0.3


def test_cells_are_predicted_and_edited_as_in_memory(in_memory, on_disk, screen):
    controls = controls_of(screen[0])
    asked = ["P1", "P10", "P1+P3"]
    known = []
    for model in (in_memory, on_disk):
        with pytest.warns(UserWarning, match="Fewer than 3 combinations"):
            cells = model.predict(controls, asked, seed=0, **SILENT)
        expected = pd.DataFrame(cells.uns["scgm"]["expected"])
        known.append((cells, expected))
        edited = controls.copy()
        model.edit(edited, {"target": "P10"}, seed=0, **SILENT)
        change = np.log1p(edited.layers["scgm_edited"].mean(0)) - np.log1p(controls.X.mean(0))
        assert np.abs(change).max() > 0.1
    (a, ea), (b, eb) = known
    assert list(ea["basis"]) == list(eb["basis"]) and list(ea["context"]) == list(eb["context"])
    np.testing.assert_allclose(ea["r2"], eb["r2"], atol=0.1)
    np.testing.assert_allclose(ea["response"], eb["response"], atol=0.1)
    for name in asked:
        means = [
            np.log1p(np.asarray(x[(x.obs["target"] == name).to_numpy()].X.mean(axis=0))).ravel()
            - np.log1p(np.asarray(controls.X.mean(axis=0))).ravel()
            for x in (a, b)
        ]
        assert np.corrcoef(*means)[0, 1] > 0.97


def test_it_is_saved_and_is_the_reference_of_a_query(on_disk, screen, tmp_path):
    on_disk.save(tmp_path / "model")
    controls = controls_of(screen[0])
    loaded = SCGM.load(tmp_path / "model", adata=False)
    a, b = (m.predict(controls, ["P10"], seed=0, **SILENT) for m in (on_disk, loaded))
    assert (a.X != b.X).nnz == 0
    own = screen[0].copy()
    with_cells = SCGM.load(tmp_path / "model", own)
    assert with_cells.predict(controls, ["P10"], n_cells=4, seed=0, **SILENT).n_obs == 4
    with_cells._learn_responses()  # of the cells in memory: the same
    for name in ("n_cells", "noise", "baselines"):
        known = (m.fitted_["responses"][name] for m in (with_cells, on_disk))
        np.testing.assert_allclose(*known, rtol=1e-5, atol=1e-6)
    query = AnnData(controls.X.copy(), obs=controls.obs[["line"]].copy(), var=controls.var)
    query.obs["batch"] = "of the query"
    query.obs["target"], query.obs["dose"] = "control", 0.0
    tuned = SCGM.load_query_data(query, str(tmp_path / "model"))
    tuned.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    assert tuned.predict(controls, ["P10"], n_cells=4, seed=0, **SILENT).n_obs == 4


def test_held_out_cells_teach_nothing(store, screen):
    dm = data_of(store, screen[1], validation_size=0.3)
    scvi.settings.seed = 0
    model = SCGM(registry=dm.registry, **SMALL)
    model.train(datamodule=dm, diffusion=False, max_steps=2, **QUIET)
    n = sum(model.fitted_["responses"]["n_cells"])
    codes = dm.attributes._conditions["target"]
    treated = (codes.codes >= 0) & (codes.categories[codes.codes] != "control")
    assert n == treated[dm.train_rows.astype(int)].sum() < 0.8 * treated.sum()


def test_nothing_else_is_read_where_there_are_no_perturbations(store):
    dm = AtlasDataModule(store, labels_key="line", batch_key="batch", condition_keys=["target"])
    model = SCGM(registry=dm.registry, **SMALL)
    model.train(datamodule=dm, diffusion=False, max_steps=2, **QUIET)
    assert model.condition_spec.perturbations is None and "responses" not in model.fitted_


def test_where_no_response_was_seen_it_says_so(screen, tmp_path):
    controls = controls_of(screen[0])
    write_store(tmp_path / "train", controls)
    dm = data_of(tmp_path / "train", screen[1], condition_embeddings=None)
    model = SCGM(registry=dm.registry, **SMALL)
    model.train(datamodule=dm, **BRIEF)
    with pytest.raises(ValueError, match="No response to a perturbation was seen"):
        model.predict(controls, ["P1"], **SILENT)


def test_training_goes_on_with_the_same_perturbations_alone(on_disk, store, screen):
    vectors = screen[1]
    for other in (
        {"condition_embeddings": None},
        {"condition_embeddings": {"target": vectors + 1}},
        {"perturbation_separator": "|"},
    ):
        with pytest.raises(ValueError, match="differ .* in their perturbations"):
            on_disk.train(datamodule=data_of(store, vectors, **other))
    plain = AtlasDataModule(
        store,
        labels_key="line",
        batch_key="batch",
        condition_keys=["target"],
        continuous_condition_keys=["dose"],
    )
    with pytest.raises(ValueError, match="differ .* in their perturbations"):
        on_disk.train(datamodule=plain)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"control": None}, ValueError, "no control: name the value"),
        ({"control": "Control"}, ValueError, r"store.obs\['target'\].* Did you mean 'control'"),
        ({"control": "unknown"}, ValueError, "unlabeled_category are both 'unknown'"),
        ({"perturbation_key": None}, ValueError, "name perturbation_key too"),
        ({"perturbation_key": "tagret"}, KeyError, "Did you mean 'target'"),
        ({"perturbation_key": ["target"]}, TypeError, "pass one string"),
        ({"perturbation_key": "dose"}, TypeError, "make it categorical"),
        ({"perturbation_separator": ""}, ValueError, "separator is empty"),
        ({"dose_key": "target"}, TypeError, "make it numeric"),
        ({"condition_embeddings": [1]}, TypeError, "pass a dict"),
        ({"condition_embeddings": {"batch": pd.DataFrame([[1.0]])}}, KeyError, "no categorical"),
        ({"condition_embeddings": {"target": pd.DataFrame([[1.0]])}}, ValueError, "none of the"),
    ],
)
def test_what_makes_no_sense_is_refused(store, screen, kwargs, error, match):
    with pytest.raises(error, match=match):
        data_of(store, screen[1], **kwargs)


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("target", ["control", "A+B", "B+A"], "for the same perturbation"),
        ("target", ["control", "A", " "], "names nothing"),
        ("dose", [0.0, np.nan, 1.0], "1 perturbed cells have no dose in store.obs"),
        ("dose", [0.0, -1.0, 1.0], "holds -1; doses are not negative"),
    ],
)
def test_cells_of_a_store_are_checked_as_those_in_memory(tmp_path, column, values, match):
    obs = pd.DataFrame({"target": ["control", "A", "B"], "dose": [0.0, 1.0, 1.0]})
    obs[column] = values
    obs["target"] = obs["target"].astype("category")
    obs.index = [f"c{i}" for i in range(3)]
    write_store(tmp_path / "train", AnnData(sparse.csr_matrix(np.ones((3, 4))), obs), 1)
    with pytest.raises(ValueError, match=match):
        AtlasDataModule(
            tmp_path / "train",
            batch_key=None,
            perturbation_key="target",
            control="control",
            dose_key="dose",
        )


_RANK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, scvi, torch.distributed as dist
from anndata import read_h5ad
from helpers import SMALL
from scgm_scvi import SCGM
from scgm_scvi.atlas.stream._datamodule import AtlasDataModule
from scgm_scvi.model.prior._measured_responses import measure_responses

path, file, vectors = sys.argv[1:4]
keys, brief = json.loads(sys.argv[4]), json.loads(sys.argv[5])
keys["condition_embeddings"] = {"target": pd.read_csv(vectors, index_col=0)}
n = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}

def learnt(model):
    kept = model.fitted_["responses"]
    names = ("n_cells", "noise", "scores", "half_scores", "axes", "baselines")
    return {**{k: np.asarray(kept[k]).tolist() for k in names}, "left_out": kept["left_out"]}

scvi.settings.seed = 0
dm = AtlasDataModule(path, batch_size=64, **keys)
on_disk = SCGM(registry=dm.registry, **SMALL)
on_disk.train(datamodule=dm, **brief, **n)
share = dm.inference_dataloader("train")
seen = measure_responses(on_disk.module, on_disk.condition_spec, share, shared=True)
adata = read_h5ad(file)
keys.pop("validation_size")
SCGM.setup_anndata(adata, **keys)
in_memory = SCGM(adata, **SMALL)
in_memory.train(max_epochs=1, batch_size=64, diffusion=False, enable_progress_bar=False, **n)
own = [share.n_obs, learnt(on_disk), learnt(in_memory), seen.change.tolist()]
dist.barrier()
dist.destroy_process_group()
print(json.dumps(own))
"""


def test_two_processes_learn_the_same_of_all_cells(screen, in_memory, tmp_path):
    adata, vectors = screen
    write_store(tmp_path / "train", adata, seed=3)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    vectors.to_csv(tmp_path / "vectors.csv")
    arguments = [str(tmp_path / name) for name in ("train", "screen.h5ad", "vectors.csv")]
    arguments += [json.dumps(KEYS), json.dumps(BRIEF)]
    out = [json.loads(line) for line in run_processes(_RANK, arguments, tmp_path)]
    (n_a, *a), (n_b, *b) = out
    assert a == b and n_a + n_b == adata.n_obs
    streamed, held, change = a
    of_one = measured(in_memory, in_memory._minibatches(None))
    assert streamed["n_cells"] == held["n_cells"] == of_one.n_cells.tolist()
    np.testing.assert_allclose(change, of_one.change, rtol=1e-5, atol=1e-6)
    for known in (streamed, held):
        np.testing.assert_allclose(known["noise"], of_one.noise, rtol=1e-5)
        np.testing.assert_allclose(known["baselines"], of_one.baselines, rtol=1e-5)
