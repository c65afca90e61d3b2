import socket
import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scgm_scvi.datasets import pbmc68k


def shipped():
    """What scanpy holds; the file is older than today's anndata, which says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sc.datasets.pbmc68k_reduced()


@pytest.fixture
def adata(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pbmc68k reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return pbmc68k()


def test_holds_raw_counts(adata):
    assert adata.shape == (700, 765)
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert 100 < adata.X.max() < 1000
    assert adata.obs_names.is_unique and adata.var_names.is_unique


def test_depth_is_part_of_the_depth_over_all_genes(adata):
    share = np.asarray(adata.X.sum(axis=1)).ravel() / adata.obs["n_counts"].to_numpy()
    assert share.min() > 0.05
    assert share.max() < 0.5


def test_counts_are_those_of_the_file(adata):
    """Normalised again, they are the logarithms that scanpy ships."""
    logs = shipped().raw.X.toarray()
    depth = adata.obs["n_counts"].to_numpy()[:, None]
    again = np.log1p(adata.X.toarray() / depth * 1e4)
    np.testing.assert_allclose(again, logs, atol=0.01)


def test_annotation(adata):
    assert list(adata.obs) == ["cell_type", "phase", "n_counts"]
    assert isinstance(adata.obs["cell_type"].dtype, pd.CategoricalDtype)
    assert adata.obs["cell_type"].nunique() == 10
    assert not adata.obs.isna().any(axis=None)
    assert not len(adata.uns) and not len(adata.obsm) and adata.raw is None
    # marker genes are where they belong: values and genes are in one order
    mean = adata[:, "CD79A"].to_df()["CD79A"].groupby(adata.obs["cell_type"], observed=True).mean()
    assert mean.idxmax() == "CD19+ B"


def test_is_the_same_every_time(adata):
    again = pbmc68k()
    assert (adata.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, again.obs)
    again.X.data[:] = 0
    again.obs["phase"] = "none"
    assert pbmc68k().X.sum() == adata.X.sum()


def test_changed_file_is_refused(adata, monkeypatch):
    changed = shipped()
    changed.obs["n_counts"] *= 1.1
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: changed)
    with pytest.raises(RuntimeError, match="does not give integer counts back .* changed"):
        pbmc68k()
