"""Predicted cells, of a small screen whose law is known."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import QUIET, SILENT
from scipy import sparse
from small_screens import NAMES, controls_of, log_change, make_screen, train, train_on_seen

from scgm_scvi import SCGM


@pytest.fixture(scope="module")
def screen():
    return make_screen()


@pytest.fixture(scope="module")
def model(screen):
    return train_on_seen(*screen[:2])


@pytest.fixture(scope="module")
def controls(screen):
    return controls_of(screen[0])


def test_a_name_that_no_cell_had(model, screen, controls):
    _, vectors, law = screen
    cells = model.predict(controls, ["P10", "P11"], seed=0, **SILENT)
    assert cells.n_obs == 2 * controls.n_obs and cells.var_names.equals(controls.var_names)
    assert list(cells.obs.columns) == ["line", "target", "dose", "batch", "control_cell"]
    assert set(cells.obs["dose"]) == {1.0}
    for name in ("P10", "P11"):
        own = cells[(cells.obs["target"] == name).to_numpy()]
        true = vectors.loc[name].to_numpy() @ law
        assert np.corrcoef(log_change(own, controls), true)[0, 1] > 0.8  # of P11 0.82 to 0.86
        assert (
            own.obs["line"].to_numpy() == controls.obs.loc[own.obs["control_cell"], "line"]
        ).all()
    expected = pd.DataFrame(cells.uns["scgm"]["expected"])
    assert list(expected["perturbation"]) == ["P10", "P10", "P11", "P11"]
    assert set(expected["basis"]) == {"perturbation"} and set(expected["context"]) == {"a", "b"}
    assert (expected["response"] > expected["mean_response"]).all()


@pytest.mark.filterwarnings("ignore:Fewer than 3")
def test_sets_doses_and_the_control(model, screen, controls):
    _, vectors, law = screen
    asked = pd.DataFrame(
        {"target": ["P1+P3", "P3", "P3", "control"], "dose": [1.0, 0.0, 0.3, np.nan]}
    )
    cells = model.predict(controls, asked, seed=0, **SILENT)
    of = {
        key: cells[rows]
        for key, rows in cells.obs.groupby(["target", "dose"], observed=True).indices.items()
    }
    true = vectors.loc[["P1", "P3"]].to_numpy().sum(axis=0) @ law
    assert np.corrcoef(log_change(of["P1+P3", 1.0], controls), true)[0, 1] > 0.85
    assert (of["P3", 0.0].X != controls.X).nnz == 0  # at no dose, the very cells
    assert (of["control", 0.0].X != controls.X).nnz == 0
    half = 0.3**0.3 * vectors.loc["P3"].to_numpy() @ law
    assert np.corrcoef(log_change(of["P3", 0.3], controls), half)[0, 1] > 0.85
    again = model.predict(controls, "P3+P1", seed=0, **SILENT)
    first = model.predict(controls, ["P1+P3"], seed=0, **SILENT)
    assert (again.X != first.X).nnz == 0 and set(again.obs["target"]) == {"P3+P1"}


def test_so_many_cells_each_control_as_often(model, controls, tmp_path):
    cells = model.predict(controls, ["P0"], n_cells=400, seed=0, **SILENT)
    counts = cells.obs["control_cell"].value_counts()
    assert len(cells) == 400 and counts.max() - counts.min() == 1
    path = model.predict(
        controls,
        ["P0", "P10"],
        n_cells=50,
        batch_size=30,
        seed=1,
        out=tmp_path / "p.h5ad",
        **SILENT,
    )
    written = ad.read_h5ad(path)
    held = model.predict(controls, ["P0", "P10"], n_cells=50, batch_size=30, seed=1, **SILENT)
    assert (written.X != held.X).nnz == 0 and written.obs_names.is_unique
    pd.testing.assert_series_equal(
        written.obs["target"].astype(str), held.obs["target"].astype(str)
    )


@pytest.mark.filterwarnings("ignore:Fewer than 3")
def test_a_context_known_by_its_controls_alone(model, controls):
    new = controls[controls.obs["line"] == "b"].copy()
    new.obs["line"], new.obs["batch"] = "c", "another"
    cells = model.predict(new, ["P0", "P10"], seed=0, **SILENT)
    assert set(cells.obs["line"]) == {"c"}
    assert pd.DataFrame(cells.uns["scgm"]["expected"])["basis"].tolist() == [
        "context",
        "perturbation",
    ]
    bare = AnnData(new.X, var=new.var)
    without = model.predict(bare, ["P0", "P10"], seed=0, **SILENT)
    assert abs(without.X - cells.X).mean() < 0.2
    assert not [c for c in new.obs if c.startswith("_scvi")]


def test_normalized_expression_is_what_is_expected(model, controls):
    cells = model.predict(controls, ["P0"], expression="normalized", seed=0, **SILENT)
    np.testing.assert_allclose(cells.X.sum(axis=1), 1e4, rtol=1e-4)


def test_edit_asks_for_what_no_cell_had(model, screen, controls):
    _, vectors, law = screen
    cells = controls.copy()
    model.edit(cells, {"target": "P10"}, seed=0, **SILENT)
    change = log_change(AnnData(cells.layers["scgm_edited"]), controls)
    assert np.corrcoef(change, vectors.loc["P10"].to_numpy() @ law)[0, 1] > 0.85
    uns = cells.uns["scgm_edited"]
    assert uns["kind"] == "interventional" and uns["expected"]["basis"] == ["perturbation"] * 2
    assert uns["conditions"] == {"target": "P10"} and uns["strength"] == 0
    some = controls.copy()
    model.edit(some, {"target": ["P10"] * 80 + ["control"] * 80}, seed=0, **SILENT)
    moved = (some.layers["scgm_edited"] != some.X).getnnz(axis=1)
    assert (moved[:80] > 0).all() and (moved[80:] == 0).all()


def test_edit_joins_a_response_with_other_changes(model, controls):
    cells = controls.copy()
    model.edit(cells, {"target": "P10", "line": "a"}, n_samples=2, seed=0, n_steps=4, **SILENT)
    assert cells.uns["scgm_edited"]["kind"] == "interventional"
    assert cells.obs["scgm_edited_uncertainty"].max() > 0


def test_a_knock_out_that_a_screen_knows_is_an_intervention(screen, controls, recwarn):
    adata, vectors, _ = screen
    adata = adata.copy()
    x = adata.X.toarray()
    for j, name in enumerate(NAMES[:3]):  # what is targeted is lost
        x[(adata.obs["target"] == name).to_numpy(), j] = 0
    adata.X = sparse.csr_matrix(x)
    model = train(adata[~adata.obs["target"].isin(["P10"]).to_numpy()].copy(), vectors)
    cells = controls.copy()
    model.edit(cells, genes={"P1": "knockout"}, seed=0, **SILENT)
    uns = cells.uns["scgm_edited"]
    assert uns["kind"] == "interventional" and uns["expected"]["perturbation"] == ["P1", "P1"]
    assert cells.layers["scgm_edited"][:, 1].mean() < 0.3 * cells.X[:, 1].mean()
    assert not [w for w in recwarn if "observational" in str(w.message)]


def test_models_are_saved_and_shared_with_what_they_learnt(model, controls, tmp_path):
    expected = model.predict(controls, ["P10"], seed=0, **SILENT)
    model.save(tmp_path / "saved")
    model.export(tmp_path / "shared")
    for again in (
        SCGM.load(tmp_path / "saved", adata=False),
        SCGM.from_export(tmp_path / "shared"),
    ):
        found = again.predict(controls, ["P10"], seed=0, **SILENT)
        assert (found.X != expected.X).nnz == 0


def test_a_query_of_controls_keeps_what_was_learnt(model, controls):
    new = controls.copy()
    new.obs["batch"] = "another"
    query = SCGM.load_query_data(new, model)
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    cells = query.predict(new, ["P10"], seed=0, **SILENT)
    assert set(cells.obs["batch"]) == {"another"}


def test_a_query_with_perturbed_cells_knows_more(screen, model, controls):
    adata = screen[0]
    new = adata[adata.obs["target"].isin(["control", "P0", "P10"]).to_numpy()].copy()
    query = SCGM.load_query_data(new, model)
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    cells = query.predict(controls, ["P0", "P5", "P10", "P11"], seed=0, **SILENT)
    basis = pd.DataFrame(cells.uns["scgm"]["expected"])["basis"]
    assert basis[::2].tolist() == ["seen", "seen", "seen", "perturbation"]
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    assert len(query._responses().observed) == 44  # not twice what it knew


def test_a_dose_that_is_missing_is_no_dose(screen, model, controls):
    adata = screen[0]
    new = adata[adata.obs["target"].isin(["control", "P0", "P10"]).to_numpy()].copy()
    new.obs.loc[new.obs["target"] == "P10", "dose"] = np.nan
    query = SCGM.load_query_data(new, model)
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    assert len(query._responses().observed) == 40
    cells = query.predict(controls, ["P0", "P10"], seed=0, **SILENT)
    basis = pd.DataFrame(cells.uns["scgm"]["expected"])["basis"]
    assert basis[::2].tolist() == ["seen", "perturbation"]


@pytest.mark.parametrize(
    ("asked", "kwargs", "match"),
    [
        (["P99"], {}, "no vector of it"),
        (["P0+P99"], {}, r"of the set 'P0\+P99'"),
        ([], {}, "perturbations is empty"),
        (["P0", "P0"], {}, "more than once"),
        (["P0"], {"dose": -1.0}, "zero or above"),
        (["P0"], {"n_cells": 0}, "n_cells is 0"),
        (["P0"], {"expression": "raw"}, "expression is 'raw'"),
    ],
)
def test_what_can_not_be_asked(model, controls, asked, kwargs, match):
    with pytest.raises(ValueError, match=match):
        model.predict(controls, asked, **kwargs, **SILENT)


def test_treated_cells_are_no_controls(model, screen):
    with pytest.raises(ValueError, match="cells that are no controls"):
        model.predict(screen[0], ["P0"], **SILENT)


def test_a_table_without_names_is_refused(model, controls):
    with pytest.raises(KeyError, match="has no column 'target'"):
        model.predict(controls, pd.DataFrame({"targets": ["P0"]}), **SILENT)


def test_it_says_what_can_not_be_known():
    adata, vectors, _ = make_screen()
    few = adata[adata.obs["target"].isin(["control", "P0", "P1"]).to_numpy()].copy()
    few.obs["batch"] = np.where(few.obs["target"] == "P1", "b9", few.obs["batch"])
    with pytest.warns(UserWarning, match="'P1': perturbations in batches without control cells"):
        model = train(few, vectors)
    controls = few[(few.obs["target"] == "control").to_numpy()]
    with pytest.warns(UserWarning, match="Fewer than 3 perturbations were seen"):
        model.predict(controls, ["P5"], seed=0, **SILENT)


@pytest.mark.parametrize("name", ["P10", "P0+P1"])
def test_generate_says_who_answers_for_what_was_not_seen(model, name):
    with pytest.raises(ValueError, match=r"No training cell had 'target' .* model.predict"):
        model.generate(2, {"target": name}, **SILENT)


def test_labels_that_are_numbers_stay_numbers(screen):
    adata, vectors, _ = screen
    adata = adata.copy()
    adata.obs["line"] = np.where(adata.obs["line"] == "a", 1, 2)
    model = train(adata, vectors)
    controls = adata[(adata.obs["target"] == "control").to_numpy()].copy()
    cells = model.predict(controls, ["P0"], seed=0, **SILENT)
    assert cells.obs["line"].astype(int).tolist() == controls.obs["line"].tolist()
    assert list(cells.obs["line"].cat.categories) == [1, 2]
