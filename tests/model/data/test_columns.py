"""Columns of ``obs`` that set-up refuses, and what becomes of those of ``var``."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from scgm_scvi.model.data._columns import check_columns
from scgm_scvi.model.data._tables import held_table
from scgm_scvi.model.requests._names import named_index

DAYS = pd.date_range("2020-01-01", periods=2)
STRANGE = {
    "Interval": pd.cut([1, 9], [0, 5, 10]),
    "Period": pd.Categorical(DAYS.to_period("D")),
    "Timestamp": DAYS,
    "date": [d.date() for d in DAYS],
    "Timedelta": pd.to_timedelta([1, 2]),
    "int and str": ["a", 1],
    "bytes": [b"a", b"b"],
    "list": [[1], [2]],
}


class TestObs:
    @pytest.mark.parametrize("kind", STRANGE)
    @pytest.mark.parametrize(
        "argument", ["labels_key", "condition_keys", "batch_key", "categorical_covariate_keys"]
    )
    def test_categories_that_no_file_holds(self, argument, kind):
        """The column, what it holds, and a remedy that helps."""
        obs = pd.DataFrame({"x": STRANGE[kind]})
        with pytest.raises(ValueError, match=rf"^{argument}: cells\.obs\['x'\] holds .*{kind} "):
            check_columns(obs, {argument: ["x"]}, name="cells")
        check_columns(obs.assign(x=obs["x"].astype(str)), {argument: ["x"]})

    def test_the_remedy_keeps_missing_values_missing(self):
        obs = pd.DataFrame({"x": pd.cut([1, 9, 99], [0, 5, 10])})
        with pytest.raises(ValueError) as e:
            check_columns(obs, {"labels_key": ["x"]})
        remedy = "adata.obs['x'].astype(str).where(adata.obs['x'].notna())"
        assert remedy in str(e.value)
        adata = type("Cells", (), {"obs": obs})
        obs["x"] = eval(remedy, {"adata": adata})
        assert obs["x"].isna().tolist() == [False, False, True]
        check_columns(obs, {"labels_key": ["x"]})

    @pytest.mark.parametrize("name", ["a/b", "", 5, ("a", 1), "_index"])
    def test_names(self, name):
        obs = pd.DataFrame({"x": ["a", "b"]})
        obs.columns = pd.Index([name], tupleize_cols=False)
        with pytest.raises(ValueError, match="has a name that files can't hold"):
            check_columns(obs, {"labels_key": [name]})
        with pytest.raises(ValueError, match="has a name that files can't hold"):
            check_columns(obs, {"size_factor_key": [name]}, ["size_factor_key"])
        check_columns(obs, {"labels_key": [name]}, check_names=False)

    def test_two_columns_of_one_name(self):
        obs = pd.DataFrame([["a", "b"]], columns=["x", "x"])
        with pytest.raises(ValueError, match="is 2 columns of one name"):
            check_columns(obs, {"labels_key": ["x"]})

    def test_numbers(self):
        obs = pd.DataFrame({"c": [1j, 2]})
        numeric = ["continuous_condition_keys"]
        with pytest.raises(ValueError, match="real numbers are needed"):
            check_columns(obs, {"continuous_condition_keys": ["c"]}, numeric)

    def test_booleans_are_categories(self):
        for dtype in ("bool", "boolean"):
            obs = pd.DataFrame({"treated": pd.array([True, False], dtype)})
            with pytest.raises(ValueError, match="name it in condition_keys"):
                key = "continuous_condition_keys"
                check_columns(obs, {key: ["treated"]}, [key])
            check_columns(obs, {"condition_keys": ["treated"]})

    def test_what_is_not_there_is_for_others_to_say(self):
        check_columns(pd.DataFrame({"x": ["a"]}), {"labels_key": ["y"], "batch_key": [None]})


class TestVar:
    def test_what_can_be_held_stays(self):
        table = pd.DataFrame(
            {
                "text": ["a", "b"],
                "whole": [1, 2],
                "half": np.array([1, 2], np.float16),
                "flag": [True, False],
                "kind": pd.Categorical(["a", None], categories=["b", "a"], ordered=True),
                "number": pd.Categorical([1.5, None]),
                "Int8": pd.array([1, None], "Int8"),
                "boolean": pd.array([True, None], "boolean"),
            },
            index=pd.Index(["x", "y"], name="gene"),
        )
        held = held_table(table)
        pd.testing.assert_frame_equal(held, table)
        held["whole"] += 1
        assert table["whole"].tolist() == [1, 2]

    @pytest.mark.parametrize("kind", [k for k in STRANGE if k not in ("list", "bytes")])
    def test_what_has_a_text_becomes_it(self, kind):
        values = pd.Series(STRANGE[kind])
        held = held_table(pd.DataFrame({"x": values, "y": values.astype("category")}))
        assert held["x"].tolist() == held["y"].tolist() == [str(v) for v in values]

    def test_gaps(self):
        """What a file has no missing values of is held as what has."""
        table = pd.DataFrame(
            {
                "text": pd.Series(["b", None, "a"], dtype=object),
                "day": [*DAYS, pd.NaT],
                "none": pd.Series([None] * 3, dtype=object),
                "flag": pd.Series([True, None, False], dtype=object),
                "number": pd.Series([1, None, 2.5], dtype=object),
                "Float32": pd.array([1, None, 2], "Float32"),
            }
        ).set_axis(["x", "y", "z"])
        held = held_table(table)
        pd.testing.assert_frame_equal(held.isna(), table.isna())
        dtypes = ["category", "category", "float64", "boolean", "float64", "float64"]
        assert held.dtypes.astype(str).tolist() == dtypes
        assert held["text"].cat.categories.tolist() == ["a", "b"]

    def test_categories_of_one_text_are_one(self):
        values = pd.Categorical([1, "1", None, "b"], categories=["b", 1, "1"], ordered=True)
        held = held_table(pd.DataFrame({"x": values}))["x"]
        assert held.cat.categories.tolist() == ["b", "1"] and held.cat.ordered
        assert held.astype(object).fillna("-").tolist() == ["1", "1", "-", "b"]

    def test_names(self, caplog):
        columns = pd.Index([5, ("a", 1), "a/b", "a_b", "", "_index", "x", "x"], tupleize_cols=False)
        table = pd.DataFrame([range(8)], columns=columns)
        with caplog.at_level(logging.WARNING):
            held = held_table(table, "cells.var")
        assert dict(held.iloc[0]) == {"5": 0, "('a', 1)": 1, "a_b": 3, "x": 6}
        assert "cells.var: the model leaves out 4 columns" in caplog.text

    def test_what_has_no_text_is_left_out(self, caplog):
        with caplog.at_level(logging.WARNING):
            held = held_table(pd.DataFrame({"l": [[1], [2]], "a": [1, 2]}))
        assert list(held) == ["a"] and "'l'" in caplog.text

    @pytest.mark.parametrize("name", ["x", 5, "", "a/b", "_index", ("x",)])
    def test_names_of_rows(self, name):
        index = pd.Index(["g", "h"])
        index.name = name
        table = pd.DataFrame({"x": [1, 2]}, index=index)
        assert held_table(table).index.name is None
        assert table.index.name == name
        assert named_index(index.rename("gene"), ["x"]).name == "gene"

    def test_rows_that_are_no_text(self):
        table = pd.DataFrame({"x": [1, 2]}, index=pd.CategoricalIndex(["g", "h"], name="gene"))
        assert held_table(table).index.equals(pd.Index(["g", "h"]))
        assert held_table(table).index.name == "gene"
