"""What was not measured of cells, from what was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import make_mdata, make_multi
from mudata import MuData
from scipy import sparse

from scgm_scvi import MultiSCGM
from scgm_scvi._mudata import columns_stay

FAST = {"n_fit_steps": 3, "seed": 0, "progress_bar": False}


pytestmark = pytest.mark.usefixtures("mudata_as_of_0_4")


@pytest.fixture(scope="module")
def multi() -> MultiSCGM:
    """Knows cells by a label that says nothing of what they are. Not to be changed."""
    with columns_stay():
        return make_multi(make_mdata(), "donor", epochs=60, steps=100, batch_size=32)


def test_counts_of_the_other_modality(multi, mdata):
    before = mdata["rna"].copy()
    peaks = multi.translate(mdata["rna"], to="atac", **FAST)
    assert peaks.obs_names.equals(mdata["rna"].obs_names)
    pd.testing.assert_frame_equal(peaks.var, mdata["atac"].var)
    assert sparse.issparse(peaks.X) and peaks.X.format == "csr"
    assert (peaks.X.data == np.rint(peaks.X.data)).all()
    assert peaks.obsm["X_scgm"].shape == (350, 12) and peaks.uns["scgm"]["to"] == "atac"
    assert list(peaks.obs) == list(before.obs)
    genes = multi.translate(mdata["atac"][:5], to="rna", **FAST)
    assert genes.var_names.equals(mdata["rna"].var_names)
    pd.testing.assert_frame_equal(mdata["rna"].obs, before.obs)
    assert not mdata["rna"].uns


def test_profiles_follow_the_cells(multi, mdata):
    """The model knows no types: what it says of their peaks is from their genes."""
    peaks = multi.translate(mdata["rna"], expression="normalized", **FAST)
    types = mdata["rna"].obs["cell_type"]
    a, b = (types == "CD14+ Monocyte").to_numpy(), (types == "CD19+ B").to_numpy()
    found = np.log1p(peaks.X[a].mean(axis=0)) - np.log1p(peaks.X[b].mean(axis=0))
    x = mdata["atac"].X.toarray()
    real = np.log1p(x[a].mean(axis=0)) - np.log1p(x[b].mean(axis=0))
    assert np.corrcoef(found, real)[0, 1] > 0.4


def test_a_mudata_has_what_is_to_be_predicted_hidden(multi, mdata):
    expected = multi.translate(mdata["rna"][:20].copy(), to="atac", **FAST)
    other = mdata[:20].copy()
    other["atac"].X = sparse.csr_matrix(other["atac"].shape, dtype=np.float32)
    for cells in (mdata[:20], other, MuData({"rna": mdata["rna"][:20].copy()})):
        found = multi.translate(cells, to="atac", **FAST)
        assert isinstance(found, AnnData) and (found.X != expected.X).nnz == 0
        assert found.obs_names.equals(expected.obs_names)


def test_conditions_may_be_given_or_left_out(multi, mdata):
    rna = mdata["rna"][:30].copy()
    known = multi.translate(rna, **FAST)
    same = multi.translate(rna, conditions=rna.obs[["donor"]], **FAST)
    assert (known.X != same.X).nnz == 0
    blind = multi.translate(rna, conditions={}, **FAST)
    assert (known.X != blind.X).nnz > 0
    del rna.obs["donor"]
    without = multi.translate(rna, **FAST)
    assert (without.X != blind.X).nnz == 0
    with pytest.raises(KeyError, match="no attribute 'type'"):
        multi.translate(rna, conditions={"type": "B"}, **FAST)


def test_several_samples(multi, mdata):
    rna = mdata["rna"][:12]
    cells = multi.translate(rna, n_samples=3, batch_size=5, **FAST)
    assert cells.shape == (36, 200)
    for i in range(3):
        part = cells[cells.obs["scgm_sample"] == i]
        assert list(part.obs["scgm_cell"]) == list(rna.obs_names)
        assert list(part.obs["cell_type"]) == list(rna.obs["cell_type"])
    assert cells.obs_names.is_unique
    first, second = (cells[cells.obs["scgm_sample"] == i].X for i in (0, 1))
    assert (first != second).nnz > 0
    assert (cells.obs["scgm_uncertainty"] > 0).all()
    mean = multi.translate(rna, n_samples=3, batch_size=5, expression="normalized", **FAST)
    assert mean.shape == (12, 200) and mean.X.dtype == np.float32
    np.testing.assert_allclose(mean.X.sum(axis=1), 1e4, rtol=1e-4)
    assert "scgm_uncertainty" in mean.obs


def test_same_seed_same_result(multi, mdata):
    rna = mdata["rna"][:9]
    a, b = (multi.translate(rna, **FAST) for _ in range(2))
    c = multi.translate(rna, **{**FAST, "seed": 1})
    assert (a.X != b.X).nnz == 0 and (a.X != c.X).nnz > 0


def test_what_makes_no_sense_is_refused(multi, mdata):
    rna = mdata["rna"][:5].copy()
    with pytest.raises(KeyError, match="to is 'protein'.*Known: 'rna', 'atac'"):
        multi.translate(rna, to="protein")
    with pytest.raises(ValueError, match="none of the features of 'atac'.*'rna' is predicted"):
        multi.translate(rna, to="rna")
    with pytest.raises(KeyError, match="no modality 'atac' to translate from; it has 'rna'"):
        multi.translate(MuData({"rna": rna}), to="rna")
    with pytest.raises(TypeError, match="data is a str"):
        multi.translate("cells")
    with pytest.raises(ValueError, match="n_samples is 0"):
        multi.translate(rna, n_samples=0)
    with pytest.raises(ValueError, match="expression is 'mean'"):
        multi.translate(rna, expression="mean")
    with pytest.raises(ValueError, match="conditions: donor has 4 values for 5 cells"):
        multi.translate(rna, conditions=rna.obs[["donor"]][:4])
    x = rna.X.tolil()
    x[2] = 0
    rna.X = sparse.csr_matrix(x)
    with pytest.raises(ValueError, match=f"1 of the 5 cells have no count.*{rna.obs_names[2]}"):
        multi.translate(rna)
    with pytest.raises(NotImplementedError, match="translate"):
        multi.impute(rna)
