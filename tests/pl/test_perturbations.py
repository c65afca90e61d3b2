"""The picture of a screen's scores: every dot where its score is, and both ends of the scale."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scgm_scvi.pl import perturbations

matplotlib.use("agg")


def make_table():
    rows = []
    for method, level in {"control": -0.3, "mine": 0.8, "mean": 0.0}.items():
        for metric in ("r2_mean", "e_distance"):
            rows.append((method, "all", "all", metric, level))
            rows += [(method, "all", f"P{i}", metric, level + 0.1 * i) for i in range(3)]
            rows.append((method, "all", "none", metric, np.nan))
    columns = ["method", "context", "perturbation", "metric", "scaled"]
    return pd.DataFrame(rows, columns=columns)


def lanes(ax, names):
    """Of each method's lane: the abscissae of its dots."""
    out = {}
    for line in ax.get_lines():
        if line.get_linestyle() == "None" and len(line.get_xdata()):
            y = int(np.round(line.get_ydata()[0]))
            out.setdefault(y, []).extend(np.round(line.get_xdata(), 6))
    return {names[y]: sorted(x) for y, x in out.items()}


def test_dots_means_and_ends():
    table = make_table()
    before = table.copy()
    figure = perturbations(table)
    assert not plt.get_fignums()
    pd.testing.assert_frame_equal(table, before)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}
    assert list(panels) == ["r2_mean", "e_distance"]
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["mine", "mean", "control"]  # best on top
    for ax in panels.values():
        assert ax.get_ylim()[0] > ax.get_ylim()[1]
        found = lanes(ax, names)
        assert found["mine"] == [0.8, 0.9, 1.0] and found["control"] == [-0.3, -0.2, -0.1]
        strokes = [c.get_segments()[0][0, 0] for c in ax.collections]
        assert strokes == pytest.approx([0.8, 0.0, -0.3])
        ends = {
            line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() in ("-", "--")
        }
        assert ends == {0.0, 1.0}


def test_what_lies_beyond_is_drawn_at_the_edge():
    table = make_table()
    table.loc[table["perturbation"] == "P0", "scaled"] = 40.0
    table.loc[table["perturbation"] == "P1", "scaled"] = -40.0
    ax = perturbations(table, metrics="r2_mean").axes[0]
    arrows = {
        line.get_marker(): set(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata())
    }
    assert arrows[">"] == {1.5} and arrows["<"] == {-1.0}
    assert ax.get_xlim()[0] < -1 and ax.get_xlim()[1] > 1.5


def test_some_of_them_in_the_order_asked_for():
    figure = perturbations(make_table(), metrics=["e_distance", "r2_mean"], methods=["mine"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["e_distance", "r2_mean"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["mine"]


def test_bad_input():
    with pytest.raises(KeyError, match="table lacks the columns 'scaled'"):
        perturbations(make_table().drop(columns="scaled"))
    with pytest.raises(ValueError, match="no scaled score to draw"):
        perturbations(make_table().assign(scaled=np.nan))
    with pytest.raises(ValueError, match="metrics: 'r2' has no scaled score in table"):
        perturbations(make_table(), metrics="r2")
