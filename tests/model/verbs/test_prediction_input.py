"""What predict is asked for, and of which control cells: what it refuses, and what it keeps."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from helpers import QUIET, SILENT, SMALL
from scipy import sparse

from scgm_scvi import SCGM

pytestmark = pytest.mark.filterwarnings("ignore:Fewer than 3", "ignore:Left out in turn")
NAMES = [f"P{i}" for i in range(5)]
VECTORS = pd.DataFrame(np.eye(7, 3), index=[f"P{i}" for i in range(7)])


def make_screen():
    """Five perturbations at two doses, in cells of two lines, batches, sexes and of an age."""
    rng = np.random.default_rng(0)
    rows = [(n, d) for n in NAMES for d in (0.1, 1.0) for _ in range(10)]
    rows += [("control", 0.0)] * 60
    counts = rng.poisson(3.0, size=(len(rows), 20))
    for i, name in enumerate(NAMES):
        counts[[r[0] == name for r in rows], i] *= 3
    obs = pd.DataFrame(rows, columns=["target", "dose"], index=[f"c{i}" for i in range(len(rows))])
    obs["line"] = np.resize([1, 2], len(obs))
    obs["batch"], obs["sex"] = (
        np.resize(["b0", "b0", "b1"], len(obs)),
        np.resize(list("mf"), len(obs)),
    )
    obs["age"] = rng.integers(20, 60, size=len(obs)).astype(float)
    var = pd.DataFrame(index=[f"g{i}" for i in range(20)])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs, var)


def train(adata, **kwargs):
    scvi.settings.seed = 0
    named = {
        "labels_key": "line",
        "batch_key": "batch",
        "categorical_covariate_keys": ["sex"],
        "continuous_covariate_keys": ["age"],
        "perturbation_key": "target",
        "control": "control",
        "dose_key": "dose",
        "condition_embeddings": {"target": VECTORS},
    }
    SCGM.setup_anndata(adata, **{**named, **kwargs})
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    return model


@pytest.fixture(scope="module")
def model():
    return train(make_screen())


@pytest.fixture(scope="module")
def controls():
    adata = make_screen()
    return adata[(adata.obs["target"] == "control").to_numpy()].copy()


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        (["", "P0"], ValueError, "is '', with nothing in it"),
        (["+"], ValueError, r"is '\+', with nothing in it.*'control'"),
        ([None], ValueError, "A name of perturbations is missing"),
        (["P0", np.nan], ValueError, "A name of perturbations is missing"),
        ([["P0", "P1"]], TypeError, r"write a set as one name, 'A\+B'"),
    ],
)
def test_a_name_without_anything_in_it_is_no_control(model, controls, asked, error, match):
    with pytest.raises(error, match=match):
        model.predict(controls, asked, seed=0, **SILENT)


def table(**columns):
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("asked", "kwargs", "error", "match"),
    [
        (None, {}, TypeError, "perturbations is None; pass a name"),
        (5, {}, TypeError, "perturbations is 5; pass a name"),
        (np.array(5), {}, TypeError, "perturbations is 5; pass a name"),
        ({"P0": 1.0}, {}, TypeError, "pass a name, a list of names, or a DataFrame"),
        (["P0"], {"dose": "1"}, TypeError, "dose is '1', a str; a dose is a number"),
        (["P0"], {"dose": [1, 2]}, TypeError, r"dose is \[1, 2\], a list"),
        (["P0"], {"dose": np.inf}, ValueError, "dose is inf; it must be a finite number"),
        (["P0"], {"dose": True}, TypeError, "dose is True"),
        (table(target=["P0"], dose=["1"]), {}, TypeError, r"perturbations\['dose'\] is '1'"),
        (table(target=["P0"], dose=[-1]), {}, ValueError, r"perturbations\['dose'\] is -1"),
        (table(target=["P0"], dose=[1.0]), {"dose": 1.0}, ValueError, "leave out one of them"),
        (
            pd.DataFrame([["P0", "P1"]], columns=["target", "target"]),
            {},
            ValueError,
            "more than one column 'target'",
        ),
        (
            table(target=["P0", "P1"], line=[1, 2]),
            {},
            ValueError,
            r"columns 'line', which are not read.*obs\['line'\] == .*\['target', 'dose'\]",
        ),
        (["P0"], {"seed": -1}, ValueError, "seed is -1; it must be at least 0"),
        (["P0"], {"seed": "x"}, ValueError, "seed is 'x'; it must be a whole number"),
        (table(target=["control"] * 2, dose=[0, 1]), {}, ValueError, "more than once"),
    ],
)
def test_what_makes_no_sense_is_refused(model, controls, asked, kwargs, error, match):
    with pytest.raises(error, match=match):
        model.predict(controls, asked, **{"seed": 0, **kwargs}, **SILENT)


def test_the_cells_of_a_perturbation_go_by_its_name_and_the_seed(model, controls):
    alone = model.predict(controls, ["P1+P0"], n_cells=7, seed=3, **SILENT)
    asked = table(target=["P2", "P0+P1", "P0+P1"], dose=[1.0, 1.0, 0.5])
    among = model.predict(controls, asked, n_cells=7, seed=3, **SILENT)
    assert (among.X[7:14] != alone.X).nnz == 0
    other = [list(among.obs["control_cell"][a : a + 7]) for a in (0, 7, 14)]
    assert other[1] == list(alone.obs["control_cell"])
    assert other[0] != other[1] and other[2] != other[1]


def test_what_is_expected_has_the_names_as_they_were_asked_for(model, controls):
    cells = model.predict(controls, ["P1+P0", "control"], n_cells=4, seed=0, **SILENT)
    expected = pd.DataFrame(cells.uns["scgm"]["expected"]).drop_duplicates(["perturbation", "dose"])
    keys = {"left_on": ["target", "dose"], "right_on": ["perturbation", "dose"]}
    assert len(cells.obs.astype({"target": str}).merge(expected, **keys)) == cells.n_obs


def test_of_one_cell_no_response_is_learnt_and_it_is_not_said_that_no_cell_had_it(controls):
    adata = make_screen()
    adata.obs.loc[adata.obs_names[0], "target"] = "RARE"
    model = train(adata)
    with pytest.raises(ValueError, match="'RARE' is .* of which no response could be learnt"):
        model.predict(controls, ["RARE"], seed=0, **SILENT)


@pytest.mark.parametrize("dtype", [str, float, "category"])
def test_values_mean_the_same_however_they_are_stored(model, controls, dtype):
    other = controls.copy()
    other.obs["line"] = other.obs["line"].astype(dtype)
    asked = {"perturbations": ["P0"], "seed": 0, **SILENT}
    cells, same = model.predict(other, **asked), model.predict(controls, **asked)
    assert (cells.X != same.X).nnz == 0
    assert list(cells.obs["line"]) == list(controls.obs["line"])
    expected, of = cells.uns["scgm"]["expected"], same.uns["scgm"]["expected"]
    assert expected["basis"] == ["seen"] * 2 and expected["r2"] == of["r2"]
    assert expected["context"] == ["1", "2"]


def test_attributes_of_predicted_cells_are_those_of_the_controls(model, controls, tmp_path):
    new = controls.copy()
    new.obs["batch"] = np.resize(["newb", "b1", None], new.n_obs)
    new.obs["age"] = 1000.0 + np.arange(new.n_obs)
    new.obs = new.obs.drop(columns="sex")
    cells = model.predict(new, ["P0", "P1"], seed=0, **SILENT)
    assert list(cells.obs) == ["line", "target", "dose", "batch", "age", "control_cell"]
    own = new.obs.loc[cells.obs["control_cell"]]
    assert cells.obs["batch"].astype(object).fillna("").tolist() == own["batch"].fillna("").tolist()
    assert cells.obs["age"].tolist() == own["age"].tolist()
    path = model.predict(new, ["P0", "P1"], seed=0, out=tmp_path / "o.h5ad", **SILENT)
    assert ad.read_h5ad(path).obs["batch"].isna().sum() == 40
    bare = AnnData(new.X, var=new.var)
    assert list(model.predict(bare, ["P0"], seed=0, **SILENT).obs) == [
        "target",
        "dose",
        "control_cell",
    ]


def test_a_column_of_the_name_that_predict_writes_is_refused(controls):
    adata = make_screen()
    adata.obs["control_cell"] = adata.obs["line"]
    model = train(adata, labels_key="control_cell")
    with pytest.raises(ValueError, match="set up with a column 'control_cell'.*Rename it"):
        model.predict(adata[adata.obs["target"] == "control"], ["P0"], seed=0, **SILENT)


def test_few_cells_of_many_are_those_of_each_alone(model, controls):
    """They are loaded together, a few perturbations at a time."""
    asked = {"n_cells": 3, "seed": 0, "batch_size": 7, **SILENT}
    every = model.predict(controls, [*NAMES, "P5"], **asked)
    for i, name in enumerate([*NAMES, "P5"]):
        alone = model.predict(controls, [name], **asked)
        own = every[3 * i : 3 * i + 3]
        assert set(own.obs["target"]) == {name} and (own.X != alone.X).nnz == 0
        assert list(own.obs["control_cell"]) == list(alone.obs["control_cell"])
