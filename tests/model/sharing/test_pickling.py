"""Models that are pickled, dumped and copied with their cells."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import scvi
from helpers import BRIEF, QUIET, SMALL, make_adata, make_mdata
from mudata import MuData

from scgm_scvi import ATACSCGM, SCGM, MultiSCGM
from scgm_scvi.train import adamw_with_cosine

SCORED = {"indices": range(5), "n_probes": 1, "progress_bar": False}


def make(name: str):
    """A trained model; quality is not asked for."""
    if name == "SCGM":
        adata = make_adata()[:, :200].copy()
        adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
        SCGM.setup_anndata(adata, labels_key="cell_type", batch_key="donor")
        model = SCGM(adata, **SMALL)
    elif name == "ATACSCGM":
        adata = make_mdata()["atac"]
        ATACSCGM.setup_anndata(adata, labels_key="cell_type")
        model = ATACSCGM(adata, **SMALL)
    elif name == "MultiSCGM":
        mdata = make_mdata()
        MultiSCGM.setup_mudata(mdata, labels_key="cell_type")
        model = MultiSCGM(mdata, **SMALL)
    else:
        return _pretrained(name)
    model.train(**BRIEF)
    return model


def _pretrained(name: str):
    options = {"max_epochs": 1, "enable_progress_bar": False}
    if name == "MULTIVI":
        mdata = make_mdata()
        scvi.model.MULTIVI.setup_mudata(
            mdata, modalities={"rna_layer": "rna", "atac_layer": "atac"}
        )
        theirs = scvi.model.MULTIVI(mdata, n_genes=120, n_regions=200, n_hidden=16, n_latent=4)
    else:
        kind = getattr(scvi.model, name, None) or getattr(scvi.external, name)
        adata = make_mdata()["atac"] if name in ("PEAKVI", "POISSONVI") else make_adata()
        if name == "SCANVI":
            kind.setup_anndata(adata, labels_key="cell_type", unlabeled_category="Unknown")
        else:
            kind.setup_anndata(adata, labels_key="cell_type")
        theirs = kind(adata, n_hidden=16, n_latent=4)
    theirs.train(**options)
    model = SCGM.from_scvi_model(theirs, denoiser_kwargs=SMALL["denoiser_kwargs"])
    model.train_diffusion(max_steps=2, **QUIET)
    return model


def features(cells) -> np.ndarray:
    parts = cells.mod.values() if isinstance(cells, MuData) else [cells]
    return np.hstack([part.X.toarray() for part in parts])


def alike(a, b) -> None:
    made = [features(m.generate(6, seed=3, progress_bar=False)) for m in (a, b)]
    assert np.array_equal(*made)
    assert np.array_equal(a.log_likelihood(**SCORED), b.log_likelihood(**SCORED))


ways = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "copy": lambda model, path: copy.copy(model),
    "joblib": lambda model, path: joblib.load(joblib.dump(model, path / "model.joblib")[0]),
}


@pytest.mark.filterwarnings("ignore")  # scvi-tools' and Lightning's, of so little training
@pytest.mark.parametrize(
    "name",
    [
        *("SCGM", "ATACSCGM", "MultiSCGM"),
        *("SCVI", "SCANVI", "PEAKVI", "POISSONVI", "MULTIVI"),
    ],
)
def test_every_model_and_way(name, tmp_path):
    model = make(name)
    obs = model._cells.obs(model.adata).copy()
    for way in ways.values():
        again = way(model, tmp_path)
        assert type(again) is type(model) and again.id != model.id
        assert again.history.keys() == model.history.keys()
        alike(model, again)
        assert (again.adata is model.adata) == (way is ways["copy"])
    assert model._cells.obs(model.adata).equals(obs)
    assert model.get_anndata_manager(model.adata, required=True).adata is model.adata


@pytest.mark.parametrize("name", ["SCGM", "MultiSCGM"])
def test_a_copy_and_its_original_go_their_ways(name):
    model = make(name)
    again = copy.deepcopy(model)
    before = features(model.generate(5, seed=0, progress_bar=False))
    again.train(**BRIEF)
    assert np.array_equal(features(model.generate(5, seed=0, progress_bar=False)), before)
    for each in (model, again):  # each AnnData is known by the set-up of its own
        assert type(each)(each.adata, **SMALL).adata is each.adata
        assert each._get_most_recent_anndata_manager(each.adata).adata is each.adata


def test_in_another_process(tmp_path):
    """Where no AnnData was ever set up."""
    models = [make("SCGM"), make("MultiSCGM")]
    (tmp_path / "models.pkl").write_bytes(pickle.dumps(models))
    code = """
import pickle, numpy as np
from helpers import BRIEF
from test_pickling import SCORED, features
for i, model in enumerate(pickle.load(open("models.pkl", "rb"))):
    np.save(f"cells {i}.npy", features(model.generate(6, seed=3, progress_bar=False)))
    np.save(f"scores {i}.npy", model.log_likelihood(model.adata, **SCORED))
    model.train(**BRIEF)
"""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), *sys.path]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    for i, model in enumerate(models):
        made = features(model.generate(6, seed=3, progress_bar=False))
        assert np.array_equal(np.load(tmp_path / f"cells {i}.npy"), made)
        scores = np.load(tmp_path / f"scores {i}.npy")
        np.testing.assert_allclose(scores, model.log_likelihood(**SCORED), rtol=1e-5)


def test_without_cells(tmp_path):
    model = make("SCGM")
    model.save(tmp_path / "model")
    alone = SCGM.load(tmp_path / "model", adata=False)
    again = pickle.loads(pickle.dumps(alone))
    assert again.adata is None
    made = [features(m.generate(4, seed=0, progress_bar=False)) for m in (alone, again)]
    assert np.array_equal(*made)


def test_the_trainer_stays_behind():
    """It holds loaders, with the cells in them, and the optimiser; but nothing that can't go."""
    model = make("SCGM")
    assert model.trainer is not None
    assert not hasattr(copy.deepcopy(model), "trainer")
    schedule = adamw_with_cosine(
        [{"params": list(model.module.parameters())}],
        **{"lr": 1.0, "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 2, "n_steps": 8},
    )["lr_scheduler"]["scheduler"]
    factor = pickle.loads(pickle.dumps(schedule)).lr_lambdas[0]
    assert [factor(i) for i in (0, 1, 2, 5, 8)] == pytest.approx([0.5, 1, 1, 0.5, 0])


def test_cells_that_were_changed():
    """What was learnt is not lost for it."""
    model = make("SCGM")
    model.adata.X = model.adata.X * 0.5
    with pytest.warns(UserWarning, match=r"no longer those.*without them: adata\.X holds values"):
        again = pickle.loads(pickle.dumps(model))
    assert again.adata is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [features(m.generate(4, seed=0, progress_bar=False)) for m in (model, again)]
    assert np.array_equal(*made)
