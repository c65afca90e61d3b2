"""Edits that the response model answers, of a small screen whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import SILENT
from scipy import sparse
from small_screens import NAMES, controls_of, log_change, make_screen, train, train_on_seen

pytestmark = pytest.mark.filterwarnings("ignore:Fewer than 3")

QUICK = {"seed": 0, "n_steps": 4, **SILENT}


@pytest.fixture(scope="module")
def screen():
    """With a set that was seen, and knock-outs that lose their targets."""
    adata, vectors, _ = make_screen()
    x = adata.X.toarray()
    for j, name in enumerate(NAMES[:3]):
        x[(adata.obs["target"] == name).to_numpy(), j] = 0
    adata.X = sparse.csr_matrix(x)
    adata.obs["target"] = adata.obs["target"].replace({"P9": "P3+P4"})
    return adata, vectors


@pytest.fixture(scope="module")
def model(screen):
    return train_on_seen(*screen[:2])


@pytest.fixture(scope="module")
def controls(screen):
    return controls_of(screen[0])


def edit(model, cells, *args, **kwargs):
    return model.edit(cells, *args, copy=True, **{**QUICK, **kwargs})


def counts(cells):
    return cells.layers["scgm_edited"]


def shares(cells):
    return counts(cells) / np.asarray(counts(cells).sum(axis=1)).reshape(-1, 1) * 1e4


def moved(cells):
    return (counts(cells) != cells.X).getnnz(axis=1) > 0


def test_preserved_features_stay_whatever_responds(model, controls):
    kept = edit(model, controls, {"target": "P10"}, preserve=["g5"])
    j = controls.var_names.get_loc("g5")
    assert (counts(kept)[:, j] != controls.X[:, j]).nnz == 0 and moved(kept).all()
    assert kept.uns["scgm_edited"]["preserve"] == ["g5"]
    plain = edit(model, controls, {"target": "P10"}, expression="normalized")
    kept = edit(model, controls, {"target": "P10"}, preserve=["g5"], expression="normalized")
    before = edit(model, controls, {"target": "control"}, expression="normalized")
    assert not np.allclose(shares(plain)[:, j], shares(before)[:, j], rtol=0.02)
    np.testing.assert_allclose(shares(kept)[:, j], shares(before)[:, j], rtol=1e-4)


def test_targets_of_genes_are_met_whatever_responds(model, controls):
    cells = edit(
        model, controls, {"target": "P10"}, genes={"g5": 3.0}, preserve=["g6"], strength=0.0,
        expression="normalized",
    )  # fmt: skip
    before = edit(
        model, controls, genes={"g5": "fold:1"}, strength=0.0, expression="normalized"
    )  # as they are decoded
    at = controls.var_names.get_indexer(["g5", "g6"])
    np.testing.assert_allclose(shares(cells)[:, at[0]], 3.0, rtol=1e-3)
    np.testing.assert_allclose(shares(cells)[:, at[1]], shares(before)[:, at[1]], rtol=1e-3)
    assert cells.uns["scgm_edited"]["genes"] == ["g5"]


def test_knock_outs_join_the_perturbation_that_is_named(model, controls):
    both = edit(model, controls, {"target": "P2"}, genes={"P1": "knockout"})
    uns = both.uns["scgm_edited"]
    assert set(uns["expected"]["perturbation"]) == {"P1+P2"}
    assert uns["genes"] == ["P1"] and uns["targets"] == ["knockout"]
    assert (counts(both) != counts(edit(model, controls, {"target": "P1+P2"}))).nnz == 0
    alone = edit(model, controls, {"target": None}, genes={"P1": "knockout"})
    assert set(alone.uns["scgm_edited"]["expected"]["perturbation"]) == {"P1"}
    with pytest.raises(ValueError, match="genes and preserve both name 'P1'"):
        edit(model, controls, genes={"P1": "knockout"}, preserve=["P1"])


def test_the_response_is_that_of_the_context_asked_for(model, controls, screen):
    cells = controls[controls.obs["line"] == "a"].copy()
    there = edit(model, cells, {"target": "P10", "line": "b"})
    assert set(there.uns["scgm_edited"]["expected"]["context"]) == {"b"}
    here = edit(model, cells, {"target": "P10", "line": "a"})
    assert set(here.uns["scgm_edited"]["expected"]["context"]) == {"a"}
    both = edit(model, controls, {"target": "P10"})
    assert set(both.uns["scgm_edited"]["expected"]["context"]) == {"a", "b"}


def test_a_context_without_controls_in_training_is_refused(controls, screen):
    adata, vectors = screen
    adata = adata[~((adata.obs["line"] == "b") & (adata.obs["target"] == "control")).to_numpy()]
    with pytest.warns(UserWarning, match="fewer than 3 control cells"):
        model = train(adata.copy(), vectors)
    cells = controls[controls.obs["line"] == "a"].copy()
    with pytest.raises(ValueError, match="no control cells there"):
        edit(model, cells, {"target": "P1+P2", "line": "b"}, strength=0.5)


@pytest.mark.parametrize("name", ["P0", "P10"])
@pytest.mark.parametrize("dose", [-5.0, np.inf, "hi", True])
def test_doses_are_checked(model, controls, name, dose):
    with pytest.raises((TypeError, ValueError), match=r"dose is .* number, zero or above"):
        edit(model, controls, {"target": name, "dose": dose})


@pytest.mark.parametrize("dose", [None, np.nan])
def test_a_dose_that_is_left_open_is_the_largest(model, controls, dose):
    cells = edit(model, controls, {"target": "P10", "dose": dose})
    assert set(cells.uns["scgm_edited"]["expected"]["dose"]) == {1.0}


def test_tables_go_by_the_names_of_cells(model, controls):
    asked = pd.Series("control", index=controls.obs_names)
    asked.iloc[:30] = "P10"
    table = asked.iloc[::-1]
    for given in ({"target": table}, table.to_frame("target")):
        cells = edit(model, controls, given)
        assert moved(cells)[:30].all() and not moved(cells)[30:].any()
    with pytest.raises(ValueError, match="does not name the cells"):
        edit(model, controls, {"target": table.set_axis(np.arange(160)[::-1])})
    with pytest.raises(ValueError, match="target has 3 values for 160 cells"):
        edit(model, controls, {"target": ["P10"] * 3})
    with pytest.raises(KeyError, match="no attribute 'lin'"):
        edit(model, controls, {"target": "P10", "lin": "a"})


def test_each_cell_is_answered_as_it_is_alone(model, screen):
    adata = screen[0]
    some = adata.obs["target"].isin(["control", "P0"]) & (adata.obs["line"] == "a")
    cells = adata[some.to_numpy()].copy()
    is_control = (cells.obs["target"] == "control").to_numpy()
    names = np.where(is_control, "P10", "P5").astype(object)
    names[:5] = None  # controls, left open
    mixed = edit(model, cells, {"target": names}, strength=0.3)
    assert mixed.uns["scgm_edited"]["strength"] == 0.3
    assert mixed.uns["scgm_edited"]["method"] == "sdedit"
    alone = edit(model, cells[5:80].copy(), {"target": "P10"})
    assert is_control[:80].all() and not is_control[80:].any()
    np.testing.assert_allclose(
        log_change(AnnData(counts(mixed)[5:80]), cells[5:80]),
        log_change(AnnData(counts(alone)), cells[5:80]),
        atol=0.2,
    )
    with pytest.raises(ValueError, match="cells that are no controls"):
        edit(model, cells, {"target": "P10"})


def test_no_dose_and_no_perturbation_leave_controls_as_they_are(model, controls):
    for asked in ({"target": "P0", "dose": 0.0}, {"target": "control"}, {"dose": 0.0}):
        cells = edit(model, controls, asked)
        assert not moved(cells).any() and cells.uns["scgm_edited"]["strength"] == 0
        assert cells.obs["scgm_edited_effect"].max() < 1e-4


def test_doses_that_are_not_named_go_with_the_perturbation(model, controls, screen, monkeypatch):
    targets = []
    ask = type(model)._edited_part
    monkeypatch.setattr(
        type(model),
        "_edited_part",
        lambda self, cells, *args: targets.append(cells.target) or ask(self, cells, *args),
    )
    edit(model, controls, {"target": "P0"}, strength=0.3)
    assert set(targets[0].values.ravel().tolist()) == {1.0}
    adata = screen[0]
    treated = adata[(adata.obs["target"] == "P0").to_numpy()].copy()
    edit(model, treated, {"target": "control"}, strength=0.3)
    assert set(targets[1].values.ravel().tolist()) == {0.0}
    edit(model, treated, {"target": "P1"}, strength=0.3)
    np.testing.assert_allclose(targets[2].values.ravel(), treated.obs["dose"])


def test_a_set_is_the_same_in_any_order(model, controls):
    first = edit(model, controls, {"target": "P3+P4"}, strength=0.3)
    for name in ("P4+P3", "P4+control+P3"):
        other = edit(model, controls, {"target": name}, strength=0.3)
        assert (counts(other) != counts(first)).nnz == 0
        made = model.generate(3, {"target": name}, **QUICK)
        assert set(made.obs["target"]) == {"P3+P4"}
    assert (
        "kind"
        not in edit(model, controls, {"target": "P0+control"}, strength=0.3).uns["scgm_edited"]
    )


def test_samples_of_a_response_are_draws_of_what_it_may_be(model, controls):
    once = edit(model, controls, {"target": "P10"})
    several = edit(model, controls, {"target": "P10"}, n_samples=30)
    assert (counts(once) != counts(several)).nnz == 0
    uncertainty = several.obs["scgm_edited_uncertainty"]
    assert (uncertainty > 0).all()
    seen = edit(model, controls, {"target": "P0+control"}, n_samples=30, composition="joint")
    assert seen.obs["scgm_edited_uncertainty"].notna().all()
    with pytest.warns(UserWarning, match="method='inversion' and strength=0.7 play no part"):
        asked = edit(model, controls, {"target": "P10"}, method="inversion", strength=0.7)
    assert (counts(once) != counts(asked)).nnz == 0
    uns = asked.uns["scgm_edited"]
    assert uns["strength"] == 0 and uns["method"] == "response"


@pytest.mark.filterwarnings("ignore:genes:UserWarning")
def test_expected_sizes_stay_unless_they_are_to_change(model, controls, monkeypatch):
    sizes = []
    draw = type(model.prior).draw
    monkeypatch.setattr(
        type(model.prior),
        "draw",
        lambda self, px, *args: sizes.append(px.mean.sum(dim=1)) or draw(self, px, *args),
    )
    cells = controls[controls.obs["line"] == "b"].copy()
    options = {"strength": 0.0, "expression": "normalized", "genes": {cells.var_names[40]: 5.0}}
    for kwargs in ({}, {"edit_library_size": True}):
        edit(model, cells, {"target": "P10"}, **options, **kwargs)
    before, kept, _, free = sizes
    np.testing.assert_allclose(kept, before, rtol=1e-4)
    assert not np.allclose(free, before, rtol=1e-3)


def test_only_cells_that_are_to_change_must_be_controls(model, screen):
    adata = screen[0]
    is_control = (adata.obs["target"] == "control").to_numpy()
    cells = adata[is_control | (adata.obs["target"] == "P0").to_numpy()].copy()
    names = np.where(cells.obs["target"] == "control", "P10", cells.obs["target"]).astype(object)
    out = edit(model, cells, {"target": names}, strength=0.3)
    assert moved(out)[(cells.obs["target"] == "control").to_numpy()].all()


def test_a_perturbation_that_was_seen_in_other_contexts_alone(screen):
    adata, vectors = screen
    in_b = ((adata.obs["line"] == "b") & (adata.obs["target"] == "P0")).to_numpy()
    model = train(adata[~in_b].copy(), vectors)
    cells = controls_of(adata)
    out = edit(model, cells, {"target": "P0"}, strength=0.3)
    is_b = (cells.obs["line"] == "b").to_numpy()
    expected = pd.DataFrame(out.uns["scgm_edited"]["expected"])
    assert expected["basis"].tolist() == ["context"] and expected["context"].tolist() == ["b"]
    alone = edit(model, cells[is_b].copy(), {"target": "P0"})
    assert alone.uns["scgm_edited"]["method"] == "response"
    real = adata[((adata.obs["line"] == "b") & (adata.obs["target"] == "P0")).to_numpy()]
    found = log_change(AnnData(counts(alone)), cells[is_b])
    assert np.corrcoef(found, log_change(real, cells[is_b]))[0, 1] > 0.7
    other = (counts(out) != cells.X).getnnz(axis=1)
    assert other[is_b].mean() < other[~is_b].mean()  # which networks decoded
