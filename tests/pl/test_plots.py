import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import sparse

from scgm_scvi.pl import history, real_and_generated

matplotlib.use("agg")


def make_cells(seed, n):
    rng = np.random.default_rng(seed)
    label = np.resize(["B", "T"], n)
    mean = np.where(label[:, None] == "B", 5.0, 1.0) * np.ones(30)
    mean[:, 15:] = 6.0 - mean[:, 15:]
    return AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
        obs=pd.DataFrame({"type": pd.Categorical(label), "other": 1.0}, index=map(str, range(n))),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(30)]),
    )


@pytest.fixture(scope="module")
def drawn():
    """Arguments, their copies from before, and the figure."""
    import matplotlib.pyplot as plt

    real, generated = make_cells(0, 60), make_cells(1, 80)[::2]
    before = real.copy(), generated.copy()
    return (real, generated), before, real_and_generated(real, generated, "type"), plt.get_fignums()


@pytest.mark.slow
def test_real_and_generated_are_drawn_beside_each_other(drawn):
    (real, generated), _, figure, open_figures = drawn
    assert isinstance(figure, Figure)
    assert not open_figures  # a notebook would show it twice
    first, second, both = figure.axes
    assert [ax.get_title() for ax in figure.axes] == [
        "real (60 cells)",
        "generated (40 cells)",
        "both",
    ]
    points = [np.vstack([c.get_offsets() for c in ax.collections]) for ax in figure.axes]
    assert [len(p) for p in points] == [60, 40, 100]
    apart = np.vstack(points[:2])
    # one embedding: the third panel holds the same points as the others together
    np.testing.assert_allclose(np.sort(apart, axis=0), np.sort(points[2], axis=0))


@pytest.mark.slow
def test_legends_name_types_and_sources(drawn):
    figure = drawn[2]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["B", "T"]
    both = figure.axes[2]
    assert [t.get_text() for t in both.get_legend().get_texts()] == ["real", "generated"]
    tints = [tuple(h.get_facecolor()[0][:3]) for h in both.get_legend().legend_handles]
    drawn_tints = pd.Series([tuple(c[:3]) for c in both.collections[0].get_facecolor()])
    counts = drawn_tints.value_counts()
    assert [counts[t] for t in tints] == [60, 40]


@pytest.mark.slow
def test_a_type_has_one_colour_in_both_panels(drawn):
    real, generated, _ = drawn[2].axes
    colors = [
        {c.get_label(): to_rgb(c.get_facecolor()[0]) for c in ax.collections}
        for ax in (real, generated)
    ]
    assert colors[0] == colors[1]
    assert colors[0]["B"] != colors[0]["T"]


@pytest.mark.slow
def test_arguments_are_left_as_they_were(drawn):
    now, before, *_ = drawn
    for a, b in zip(now, before, strict=True):
        assert (a.X != b.X).nnz == 0
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert not len(a.uns) and not len(a.obsm) and not len(a.obsp)
    assert now[1].is_view


@pytest.mark.slow
def test_colour_is_optional():
    figure = real_and_generated(make_cells(0, 40), make_cells(1, 40))
    assert not figure.legends
    assert len(figure.axes) == 3


@pytest.mark.parametrize("missing", ["real", "generated"])
def test_colour_must_be_in_both(missing):
    objects = {"real": make_cells(0, 20), "generated": make_cells(1, 20)}
    del objects[missing].obs["type"]
    with pytest.raises(KeyError, match=f"color: 'type' is not a column of {missing}.obs"):
        real_and_generated(**objects, color="type")


def curve(*values, every=1):
    epochs = pd.Index(np.arange(len(values)) * every, name="epoch")
    return pd.DataFrame({"value": values}, index=epochs)


STAGE_ONE = {"elbo_train": curve(9.0, 8.0, 7.0), "elbo_validation": curve(9.5, 8.5, every=2)}
STAGE_TWO = {"diffusion_loss_train": curve(1.0, 0.5), "diffusion_loss_validation": curve(1.0, 0.6)}


def test_history_draws_a_panel_per_stage():
    figure = history({**STAGE_ONE, **STAGE_TWO, "kl_local_train": curve(1.0)})
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["stage one", "stage two"]
    train, validation = figure.axes[0].get_lines()
    assert train.get_ydata().tolist() == [9.0, 8.0, 7.0]
    assert validation.get_xdata().tolist() == [0, 2]
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "train",
        "validation",
    ]


@pytest.mark.parametrize(("stage", "title"), [(STAGE_ONE, "stage one"), (STAGE_TWO, "stage two")])
def test_history_of_one_stage(stage, title):
    (ax,) = history(stage).axes
    assert ax.get_title().startswith(title)
    assert len(ax.get_lines()) == 2


def test_history_without_validation():
    (ax,) = history({"elbo_train": curve(9.0, 8.0)}).axes
    assert len(ax.get_lines()) == 1


@pytest.mark.parametrize("empty", [{}, {"kl_local_train": curve(1.0)}])
def test_history_of_nothing(empty):
    with pytest.raises(ValueError, match="train the model first"):
        history(empty)


@pytest.mark.slow
def test_several_methods_and_odd_names():
    real, made = make_cells(0, 60), make_cells(1, 60)
    for a in (real, made):
        a.obs["scgm_source"] = np.where(a.obs["type"] == a.obs["type"].iloc[0], "_x", "$y_{")
        a.X = sparse.csr_array(a.X)
    figure = real_and_generated(real, {1: made, "b": made[:, ::-1]}, "scgm_source")
    (legend,) = figure.legends
    assert [t.get_text().strip("\u200a") for t in legend.get_texts()] == ["\\$y_{", "_x"]
    below = [ax for ax in figure.axes if ax.get_title() == "both"]
    assert len(below) == 2
    for ax in below:
        tints = {tuple(c[:3]) for c in ax.collections[0].get_facecolor()}
        assert len(tints) == 2  # real and generated cells
    figure.canvas.draw()
    with pytest.raises(ValueError, match="none 'real'"):
        real_and_generated(real, {"real": made})
