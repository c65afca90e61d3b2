import numpy as np
import pytest
from anndata import AnnData

from scgm_scvi.pl import response

GENES = [f"g{i}" for i in range(30)]
LAW = np.random.default_rng(0)
RATE = LAW.gamma(3, 3, 30)
FOLD = np.where(np.arange(30) < 5, 3.0, 1.0)


def make_cells(seed, fold=1.0, n=200):
    counts = np.random.default_rng(seed).poisson(RATE * fold * np.ones((n, 1))).astype(float)
    adata = AnnData(counts)
    adata.var_names = GENES
    return adata


def log_of(adata):
    return np.log1p(adata.X / adata.X.sum(1, keepdims=True) * 1e4)


CONTROL, REAL = make_cells(0), make_cells(1, FOLD)


def points(figure):
    return np.vstack([c.get_offsets() for c in figure.axes[0].collections])


def test_points_are_the_changes_of_means_and_top_genes_are_named():
    figure = response(make_cells(2, np.sqrt(FOLD)), REAL, CONTROL, n_top=5, n_labels=3)
    (ax,) = figure.axes
    named = {t.get_text() for t in ax.texts}
    assert len(named) == 3 and named <= set(GENES[:5])
    rest, top = ax.collections
    assert (len(rest.get_offsets()), len(top.get_offsets())) == (25, 5)
    true = log_of(REAL).mean(0) - log_of(CONTROL).mean(0)
    np.testing.assert_allclose(np.sort(points(figure)[:, 0]), np.sort(true))
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[1].startswith("5 top genes, r = ")
    slope = float(labels[2].split("slope of all ")[1].split(",")[0])
    assert 0.3 < slope < 0.7  # half the log-fold change was predicted


def test_counts_and_logarithms_and_any_order_of_genes_are_one_picture():
    predicted = make_cells(2, FOLD)
    logs = AnnData(log_of(predicted), var=predicted.var)
    one = points(response(predicted, REAL, CONTROL))
    two = points(response(logs[:, ::-1], REAL, CONTROL, predicted_expression="log1p"))
    np.testing.assert_allclose(one, two)


def test_nothing_changes():
    figure = response(CONTROL, CONTROL, CONTROL)
    assert "slope of all nan" in figure.axes[0].get_legend().get_texts()[-1].get_text()


def test_refused():
    with pytest.raises(ValueError, match="real holds 1 cells, and 2 are needed"):
        response(REAL, REAL[:1], CONTROL)
    with pytest.raises(ValueError, match="'counts' or 'log1p'"):
        response(REAL, REAL, CONTROL, predicted_expression="log")
    with pytest.raises(ValueError, match="if these are counts, say so"):
        response(REAL, REAL, CONTROL, predicted_expression="log1p")
    with pytest.warns(UserWarning, match="predicted.X holds fractions"):
        response(AnnData(log_of(REAL), var=REAL.var), REAL, CONTROL)
    bad = CONTROL.copy()
    bad.X[0, 0] = -1
    with pytest.raises(ValueError, match="control.X holds negative"):
        response(REAL, REAL, bad)
