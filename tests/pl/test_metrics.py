"""The picture of metrics: each number where it belongs, and who is who."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scgm_scvi.datasets import pbmc68k
from scgm_scvi.metrics import evaluate_generation
from scgm_scvi.pl import metrics

matplotlib.use("agg")


def make_table(**columns):
    table = pd.DataFrame(
        {
            "condition": "all",
            "metric": ["w2", "recall", "nn_ratio"],
            "value": [9.0, 0.8, 1.1],
            "floor": [8.0, 0.9, 1.0],
            "train_floor": [8.5, 0.7, 0.2],
            "ratio": np.nan,
            "n": 60,
        }
    )
    return table.assign(**columns)


def dots(ax, size=6.5):
    """Of each mark of that size: abscissa, ordinate and colour."""
    return [
        (float(x), float(y), to_hex(line.get_markerfacecolor()))
        for line in ax.get_lines()
        if line.get_markersize() == size
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def ticks(ax):
    """Abscissae of the upright strokes: floors."""
    segments = [s for c in ax.collections for s in c.get_segments()]
    return [float(s[0, 0]) for s in segments if s[0, 0] == s[1, 0]]


def named(figure):
    return {ax.get_ylabel().split()[0]: ax for ax in figure.axes}


def legend(figure):
    (found,) = figure.legends
    return {t.get_text(): h for t, h in zip(found.get_texts(), found.legend_handles, strict=True)}


def test_a_row_a_metric_with_value_floor_and_train_floor():
    table = make_table()
    before = table.copy()
    figure = metrics(table)
    assert isinstance(figure, Figure)
    assert not plt.get_fignums()
    pd.testing.assert_frame_equal(table, before)
    rows = named(figure)
    assert list(rows) == ["w2", "recall", "nn_ratio"]
    for name, row in table.set_index("metric").iterrows():
        ((x, y, color),) = dots(rows[name])
        assert (x, color) == (row["value"], "#d1495b")
        assert ticks(rows[name]) == [row["floor"]]
        assert dots(rows[name], 4.5) == [(row["train_floor"], y, "#ffffff")]
        low, high = rows[name].get_xlim()
        assert low < row[["value", "floor", "train_floor"]].min()
        assert high > row[["value", "floor", "train_floor"]].max()


def test_arrows_point_to_the_better():
    labels = [ax.get_ylabel().split() for ax in metrics(make_table()).axes]
    assert labels == [["w2", "←"], ["recall", "→"], ["nn_ratio"]]


def test_every_metric_that_is_measured_has_its_direction(monkeypatch):
    """All but those that are best at the floor; a new metric must be told which way it goes."""
    # the slow one, and its value does not matter here
    monkeypatch.setattr("scgm_scvi.metrics._evaluator.classifier_auc", lambda x, y, seed: 0.5)
    adata = pbmc68k()
    parts = [adata[i::3] for i in range(3)]
    table = evaluate_generation(
        parts[0], parts[1], train=parts[2], condition_key="cell_type", n_pcs=5, n_max=60
    )
    figure = metrics(table)
    without = {ax.get_ylabel() for ax in figure.axes if not set("←→") & set(ax.get_ylabel())}
    assert {label.strip() for label in without} == {"nn_ratio", "de_slope", "de_n_ratio"}
    assert set(named(figure)) == set(table["metric"])


def test_methods_have_a_lane_and_a_colour_each():
    tables = [make_table(method=m, value=[9.0 + i, 0.8, 1.1]) for i, m in enumerate("ABC")]
    figure = metrics(pd.concat(tables))
    marks = dots(named(figure)["w2"])
    assert [x for x, _, _ in marks] == [9.0, 10.0, 11.0]
    assert len({y for _, y, _ in marks}) == len({color for _, _, color in marks}) == 3
    assert [y for _, y, _ in marks] == sorted((y for _, y, _ in marks), reverse=True)
    handles = legend(figure)
    assert [to_hex(handles[m].get_markerfacecolor()) for m in "ABC"] == [c for _, _, c in marks]
    assert ticks(named(figure)["w2"]) == [8.0] * 3


def test_conditions_are_small_and_keep_their_floors():
    parts = [
        make_table(condition=c, value=[9.5 + i, 0.5, 1.0], floor=[8.2 + i, 0.6, 1.0])
        for i, c in enumerate(["B", "T"])
    ]
    figure = metrics(pd.concat([make_table(), *parts]))
    ax = named(figure)["w2"]
    ((_, y, _),) = dots(ax)
    small = dots(ax, 3)
    assert [x for x, _, _ in small] == [9.5, 10.5]
    assert all(below < y for _, below, _ in small)
    assert sorted(ticks(ax)) == [8.0, 8.2, 9.2]
    assert "one condition, and its floor" in legend(figure)
    assert "one condition, and its floor" not in legend(metrics(make_table()))


def test_what_is_missing_is_left_out():
    table = make_table(value=[9.0, np.nan, 1.1], train_floor=np.nan)
    figure = metrics(table)
    assert list(named(figure)) == ["w2", "nn_ratio"]
    assert not [label for label in legend(figure) if "train" in label]
    bare = metrics(make_table()[["metric", "value", "floor"]])
    assert dots(named(bare)["recall"])[0][0] == 0.8


def test_noise_is_not_blown_up():
    table = make_table(value=8.001, floor=8.0, train_floor=8.002)
    low, high = metrics(table).axes[0].get_xlim()
    assert high - low > 0.8
    nothing = metrics(make_table(value=0.0, floor=0.0, train_floor=0.0)).axes[0].get_xlim()
    assert nothing[0] < 0 < nothing[1]


def test_bad_tables():
    with pytest.raises(KeyError, match="table lacks the columns 'metric', 'floor'.*evaluate_gen"):
        metrics(make_table()[["value"]])
    with pytest.raises(ValueError, match="no value to draw"):
        metrics(make_table(value=np.nan))
