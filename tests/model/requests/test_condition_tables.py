"""Tables of conditions go by the names of cells, and no value is taken for another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scgm_scvi.model.requests._kinds import NumericCondition
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._spec import ConditionSpec

CELLS = pd.Index(["a", "b", "c"])
SPEC = ConditionSpec(
    categorical={
        "type": np.array(["B", "NK", "T"], dtype=object),
        "day": np.array([1, 2, 3]),
        "ko": np.array([False, True]),
        "dose": np.array([0.5, 1.0]),
    },
    numeric={"age": NumericCondition("continuous")},
    batch={"donor": np.array(["d1", "d2"], dtype=object)},
    covariates={},
    numeric_covariates=[],
)


def tokens(conditions, cells=CELLS, n=None):
    return Request.parse(SPEC, n, conditions, cells).tokens[:, 0].tolist()


@pytest.mark.parametrize("make", [pd.DataFrame, dict], ids=["DataFrame", "dict of Series"])
def test_tables_go_by_name(make):
    table = pd.DataFrame({"type": ["T", "B", "NK"]}, index=["c", "a", "b"])
    assert tokens(make(table)) == [1, 2, 3]
    assert tokens(make(table.reset_index(drop=True))) == [3, 1, 2]  # without names: as it is
    assert tokens({"type": table["type"].to_numpy()}) == [3, 1, 2]
    assert tokens({"type": table["type"].set_axis([0, 1, 2])}) == [3, 1, 2]


def test_numbers_and_nuisances_go_by_name():
    table = pd.DataFrame({"age": [3.0, 1.0, 2.0], "donor": ["d1", "d1", "d2"]}, index=list("cab"))
    request = Request.parse(SPEC, None, table, CELLS)
    assert request.values.ravel().tolist() == [1, 2, 3]
    assert request.nuisances.ravel().tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (["x", "a", "b"], r"it holds 'x', where they are 'a', 'b', 'c'.*obs_names.*to_numpy"),
        (["a", "a", "b"], "it holds 'a' more than once"),
        ([2, 0, 1], "it holds 2, 0, 1, where"),
        (pd.MultiIndex.from_product([["a", "b", "c"], [1]]), "reset_index"),
    ],
)
def test_other_names_are_refused(index, match):
    table = pd.DataFrame({"type": ["T", "B", "NK"]}, index=index)
    with pytest.raises(ValueError, match=match):
        tokens(table)
    with pytest.raises(ValueError, match=match):
        tokens({"type": table["type"]})


def test_cells_of_one_name_are_not_told_apart():
    twice = pd.Index(["a", "a", "b"])
    table = pd.DataFrame({"type": ["T", "B", "NK"]}, index=twice)
    assert tokens(table, twice) == [3, 1, 2]  # in their own order
    with pytest.raises(ValueError, match="more than once"):
        tokens(table.iloc[::-1], twice)


def test_series_beside_each_other_agree():
    first = pd.Series(["T", "B"], index=["x", "y"])
    second = pd.Series([2.0, 1.0], index=["y", "x"])
    request = Request.parse(SPEC, None, {"type": first, "age": second})
    assert request.values.ravel().tolist() == [1.0, 2.0]
    plain = Request.parse(SPEC, None, {"type": first, "age": second.to_numpy()})
    assert plain.values.ravel().tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match=r"that of 'age' does not name the other columns.*'z'"):
        Request.parse(SPEC, None, {"type": first, "age": second.set_axis(["y", "z"])})


def test_a_table_names_new_cells():
    table = pd.DataFrame({"type": ["T", "B"]}, index=["y", "x"])
    request = Request.parse(SPEC, None, table)
    assert list(request.names) == ["y", "x"]
    assert request.tokens[:, 0].tolist() == [3, 1]


@pytest.mark.parametrize("conditions", [pd.DataFrame({"type": []}), {"type": []}])
def test_no_rows_are_refused(conditions):
    with pytest.raises(ValueError, match="no rows"):
        Request.parse(SPEC, None, conditions)
    with pytest.raises(ValueError, match="n_cells is 0"):
        Request.parse(SPEC, 0, {"type": "B"})
    assert tokens({"type": "B"}, pd.Index([])) == []  # no cell is scored


@pytest.mark.parametrize("value", [np.array("T"), np.str_("T"), np.array(["T"], object)[0]])
def test_arrays_without_dimensions_are_values(value):
    assert tokens({"type": value}) == [3, 3, 3]
    request = Request.parse(SPEC, 2, {"age": torch.tensor(2.0)})
    assert request.values.ravel().tolist() == [2, 2]


@pytest.mark.parametrize("value", [{"B", "T", "NK"}, {"a": "B"}, np.array([["B"], ["T"], ["NK"]])])
def test_what_is_no_list_is_refused(value):
    with pytest.raises(TypeError, match="'type' is a (set|dict|ndarray)"):
        tokens({"type": value})


def test_numbers_are_no_names():
    table = pd.DataFrame({0: ["T", "B", "NK"]}, index=CELLS)
    for conditions in (table, {0: "B"}):
        with pytest.raises(
            KeyError, match=r"no attribute 0\. 0 is a whole number; those known are"
        ):
            tokens(conditions)
    twice = pd.concat([table, table], axis=1).set_axis(["type", "type"], axis=1)
    with pytest.raises(ValueError, match="more than one column 'type'"):
        tokens(twice)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("day", "1", r"^'1' is not a .* 1, 2, 3\..*'1' is a string; those known are whole numbers"),
        ("day", True, "True is a boolean; those known are whole numbers"),
        ("day", 1.5, r"1\.5 is a number; those known are whole numbers"),
        ("day", 4, r"^4 is not a known category of 'day'\. Known: 1, 2, 3"),
        ("day", np.int64(4), r"^4 is not"),
        ("ko", 1, "1 is a whole number; those known are booleans"),
        ("ko", "True", "'True' is a string; those known are booleans"),
        ("dose", "1.0", r"0\.5, 1\.0\. '1\.0' is a string; those known are numbers"),
        ("dose", np.float32(0.3), "is not a known category"),
        ("type", 1, "1 is a whole number; those known are strings"),
        ("type", "b", "Did you mean 'B'"),
        ("age", "3", "'age' takes numbers, not '3'"),
        ("age", True, "'age' takes numbers, not True"),
    ],
)
def test_values_of_another_kind_are_refused(name, value, match):
    with pytest.raises(ValueError, match=match) as e:
        Request.parse(SPEC, 2, {name: value})
    assert f"Did you mean {value!r}" not in str(e.value)
    with pytest.raises(ValueError, match=match):
        Request.parse(SPEC, None, {name: [value, None]})


@pytest.mark.parametrize(
    ("name", "value"), [("day", 2.0), ("day", np.int8(2)), ("ko", np.True_), ("dose", 1)]
)
def test_the_same_number_is_the_same(name, value):
    """As a column of whole numbers with a gap is one of floating point."""
    j = list(SPEC.categorical).index(name)
    assert Request.parse(SPEC, 1, {name: value}).tokens[0, j] == 2


def shuffled(adata, values, column):
    """A table of conditions for cells, and the same in another order."""
    table = pd.DataFrame({column: values}, index=adata.obs_names)
    return table, table.sample(frac=1, random_state=1)


def test_verbs_take_tables_by_name(model, adata):
    cells = adata[:6].copy()
    table, other = shuffled(cells, ["control", "IFNb"] * 3, "stimulation")
    assert not other.index.equals(table.index)

    quiet = {"seed": 0, "progress_bar": False}
    edits = [
        model.edit(cells, t, strength=0.3, n_steps=2, copy=True, **quiet).layers["scgm_edited"]
        for t in (table, other, {"stimulation": other["stimulation"]})
    ]
    assert all((e != edits[0]).nnz == 0 for e in edits)
    with pytest.raises(ValueError, match="does not name the cells"):
        model.edit(cells, table.set_axis([f"x{i}" for i in range(6)]), **quiet)
    assert "scgm_edited" not in cells.layers

    rows = [4, 1, 3]
    scores = [
        model.log_likelihood(cells, rows, conditions=t, **quiet)
        for t in (table.iloc[rows], table.iloc[sorted(rows)])
    ]
    np.testing.assert_array_equal(*scores)
    assert len(model.log_likelihood(cells, [], conditions={"cell_type": "CD34+"}, **quiet)) == 0

    ways = [
        model.interpolate(cells, t, n_points=2, n_steps=2, **quiet).obs["stimulation"]
        for t in (table, other)
    ]
    assert ways[0].equals(ways[1])
    ways = [
        model.interpolate(table, t, n_points=2, n_steps=2, **quiet).obs["stimulation"].astype(str)
        for t in (table, other)
    ]
    assert ways[0].equals(ways[1])

    curves = [model.edit_curve(cells, t, strengths=[0.2], **quiet) for t in (table, other)]
    pd.testing.assert_frame_equal(*curves)
