import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgb
from scipy import sparse

from scgm_scvi.pl import edit_curve, edit_shift
from scgm_scvi.pl._colors import GENERATED, REAL, SOURCE

matplotlib.use("agg")

CURVE = pd.DataFrame(
    {
        "strength": [0.2, 0.5, 0.8],
        "effect": [0.1, 0.8, 1.0],
        "identity": [1.0, 0.98, 0.9],
        "identity_generated": 0.96,
        "similarity": [0.9, 0.5, 0.1],
        "chosen": [False, True, False],
    }
)


def labelled(ax):
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1]])
def test_curves_are_those_of_the_table(rows):
    (ax,) = edit_curve(CURVE.iloc[rows]).axes
    lines = {label.split()[0].rstrip(":"): line for label, line in labelled(ax).items()}
    for name in ("effect", "similarity"):
        np.testing.assert_array_equal(
            lines[name].get_xydata(), CURVE[["strength", name]].to_numpy()
        )
    drawn = [list(line.get_ydata()) for line in ax.get_lines()]
    assert CURVE["identity"].tolist() in drawn
    assert set(lines["identity"].get_ydata()) == {0.96}  # the last of this name: the dashed line
    assert lines["identity"].get_linestyle() == "--"


def test_chosen_strength_is_marked():
    (ax,) = edit_curve(CURVE).axes
    assert set(labelled(ax)["chosen: 0.5"].get_xdata()) == {0.5}
    marks = sorted(
        float(line.get_ydata()[0]) for line in ax.get_lines() if len(line.get_xdata()) == 1
    )
    assert marks == [0.5, 0.8, 0.98]


def test_what_was_not_measured_is_not_drawn():
    curve = CURVE.assign(identity=np.nan, identity_generated=np.nan, chosen=False)
    (ax,) = edit_curve(curve).axes
    assert [label.split()[0] for label in labelled(ax)] == ["effect:", "similarity"]


def test_curve_must_be_one():
    with pytest.raises(KeyError, match="lacks the columns 'effect', 'chosen'.*model.edit_curve"):
        edit_curve(CURVE.drop(columns=["effect", "chosen"]))
    with pytest.raises(ValueError, match="no row to draw"):
        edit_curve(CURVE.iloc[:0])


def make_counts(seed, label, shift):
    """Two types, told apart by the first genes, and a response of the last ones."""
    rng = np.random.default_rng(seed)
    mean = np.full((len(label), 30), 4.0)
    mean[label == "B", :8] = 12.0
    mean[:, 20:] *= shift
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32))


def make_edited(n=80):
    label = np.resize(["B", "T"], n)
    adata = AnnData(
        make_counts(0, label, 1),
        obs=pd.DataFrame({"type": pd.Categorical(label)}, index=map(str, range(n))),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(30)]),
        layers={"scgm_edited": make_counts(1, label, 4)},
        uns={"scgm_edited": {"conditions": {"dose": "high"}, "expression": "counts"}},
    )
    return adata


def make_real(n=60):
    label = np.resize(["T", "B"], n)
    obs = pd.DataFrame({"type": label}, index=[f"r{i}" for i in range(n)])
    real = AnnData(make_counts(2, label, 4), obs=obs, var=make_edited(2).var)
    return real[:, ::-1].copy()  # genes in another order


def cells(ax):
    """Drawn points by colour."""
    found = {}
    for collection in ax.collections:
        colors = collection.get_facecolor()
        for point, color in zip(
            collection.get_offsets(), np.resize(colors, (10**4, 4)), strict=False
        ):
            found.setdefault(tuple(np.round(color[:3], 3)), []).append(np.asarray(point))
    return {color: np.array(points) for color, points in found.items()}


def of(points, tint):
    return points[tuple(np.round(to_rgb(tint), 3))]


def arrows(ax):
    return [(np.array(t.xyann), np.array(t.xy)) for t in ax.texts]


def test_edited_cells_are_drawn_where_they_belong():
    """Counts of edited cells follow the law of the real ones: they are to lie among them."""
    adata, real = make_edited(), make_real()
    (ax,) = edit_shift(adata, real, basis="pca", n_arrows=2).axes
    points = cells(ax)
    source, edited, target = (of(points, tint) for tint in (SOURCE, GENERATED, REAL))
    assert [len(source), len(edited), len(target)] == [80, 80, 60]
    way = target.mean(0) - source.mean(0)
    assert np.linalg.norm(edited.mean(0) - target.mean(0)) < 0.1 * np.linalg.norm(way)
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["source", "edited, dose: high", "real target"]
    assert ax.get_xlabel() == "PC1"
    assert len(arrows(ax)) == 2
    for start, end in arrows(ax):
        step = end - start
        assert step @ way > 0.95 * np.linalg.norm(step) * np.linalg.norm(way)
    for a, n in ((adata, 80), (real, 60)):
        assert not a.obsm and not a.varm and a.n_obs == n and (a.X.data % 1 == 0).all()


def test_an_arrow_goes_from_median_to_median_of_its_group():
    figure = edit_shift(make_edited(), basis="pca", color="type", seed=3)
    left, right = figure.axes
    assert right.get_title() == "type"
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["B", "T"]
    (edited, source) = (of(cells(left), tint) for tint in (GENERATED, SOURCE))
    assert len(arrows(left)) == len(arrows(right)) == 2
    by_type = [np.asarray(c.get_offsets()) for c in right.collections if len(c.get_offsets())]
    assert [len(p) for p in by_type] == [80, 80]
    for (start, end), points in zip(arrows(right), by_type, strict=True):
        of_source, of_edited = points[:40], points[40:]
        np.testing.assert_allclose(start, np.median(of_source, axis=0), rtol=1e-5)
        np.testing.assert_allclose(end, np.median(of_edited, axis=0), rtol=1e-5)
        assert (np.isin(of_source, source).all()) and (np.isin(of_edited, edited).all())


def test_counts_are_taken_from_the_layer():
    adata = make_edited()
    hidden = adata.copy()
    hidden.layers["raw"], hidden.X = hidden.X, np.ones(adata.shape, np.float32)
    figures = edit_shift(adata, basis="pca"), edit_shift(hidden, basis="pca", layer="raw")
    for a, b in zip(*(arrows(f.axes[0]) for f in figures), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_umap_of_few_cells_with_real_ones_of_unknown_type():
    adata, real = make_edited(), make_real()
    del real.obs["type"]
    figure = edit_shift(adata, real, color="type", n_max=20, key="scgm_edited")
    left, right = figure.axes
    assert left.get_xlabel() == "UMAP1"
    assert len(of(cells(right), REAL)) == 20
    assert sum(map(len, cells(left).values())) == 60


def test_mean_expression_can_be_drawn():
    adata = make_edited()
    dense = adata.layers["scgm_edited"].toarray()
    adata.layers["scgm_edited"] = dense / dense.sum(1, keepdims=True) * 1e4
    (ax,) = edit_shift(adata[::2], basis="pca", n_arrows=1).axes
    assert len(arrows(ax)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": "scgm_edit"}, KeyError, "key: 'scgm_edit' is not a layer.*'scgm_edited'"),
        ({"layer": "raw"}, KeyError, "layer: 'raw' is not a layer of adata"),
        ({"color": "typ"}, KeyError, "color: 'typ' is not a column of adata.obs.*'type'"),
        ({"basis": "tsne"}, ValueError, "basis is 'tsne'"),
        ({"n_arrows": 0}, ValueError, "n_arrows is 0"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        edit_shift(make_edited(), **changes)
