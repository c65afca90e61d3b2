"""Every verb on cells of two modalities, in whatever they come, and what it hands back."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from helpers import QUIET, SMALL, make_joint, make_mdata, make_multi
from mudata import MuData
from scipy import sparse

from scgm_scvi import MultiSCGM
from scgm_scvi._mudata import columns_stay
from scgm_scvi.model import pad_modalities
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.training import _replaying

FAST = {"n_steps": 4, "progress_bar": False}
B = {"cell_type": "CD19+ B"}


pytestmark = pytest.mark.usefixtures("mudata_as_of_0_4")


@pytest.fixture(scope="module")
def multi() -> MultiSCGM:
    """Not to be changed, and neither are its data."""
    with columns_stay():
        return make_multi(make_mdata())


@pytest.fixture(scope="module")
def of_anndata() -> MultiSCGM:
    adata = make_joint(make_mdata())
    MultiSCGM.setup_anndata(adata, modality_key="feature_types", labels_key="cell_type")
    model = MultiSCGM(adata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 20, **QUIET}, **QUIET)
    return model


def test_train_writes_latents_and_what_scvi_writes_alone():
    model = make_multi(make_mdata(), epochs=1, steps=2)
    plain = make_mdata()
    assert set(model.adata.obsm) == {"X_scgm", "rna", "atac"}
    assert model.adata.obsm["X_scgm"].shape == (350, 12)
    assert list(model.adata.obs) == list(plain.obs)
    for key in plain.mod:
        new = set(model.adata[key].obs) - set(plain[key].obs)
        assert all(name.startswith("_scvi") for name in new)
        assert not model.adata[key].layers


def test_generate_returns_mudata_that_files_and_scanpy_take(multi, tmp_path):
    cells = multi.generate(30, B, seed=0, **FAST)
    assert list(cells.mod) == ["rna", "atac"] and cells.obsm["X_scgm"].shape == (30, 12)
    assert (cells.obs["cell_type"] == "CD19+ B").all() and cells.uns["scgm"]["seed"] == 0
    for key in cells.mod:
        x = cells[key].X
        assert sparse.issparse(x) and x.format == "csr" and (x.data == np.rint(x.data)).all()
        pd.testing.assert_frame_equal(cells[key].var, multi.adata[key].var)
        assert (cells[key].obs["cell_type"] == "CD19+ B").all()
    cells.write_h5mu(tmp_path / "cells.h5mu")
    back = mudata.read_h5mu(tmp_path / "cells.h5mu")
    same_obs(back, cells)
    np.testing.assert_array_equal(back.obsm["X_scgm"], cells.obsm["X_scgm"])
    assert back.uns["scgm"]["sampler"] == cells.uns["scgm"]["sampler"]
    assert (back["atac"].X != cells["atac"].X).nnz == 0
    rna = back["rna"]
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    sc.pp.pca(rna, n_comps=5)
    assert rna.obsm["X_pca"].shape == (30, 5)


def same_obs(a, b):
    """A file has categories that are not in use, too."""
    pd.testing.assert_frame_equal(*(cells.obs.astype(object) for cells in (a, b)))


@pytest.mark.parametrize("expression", ["counts", "normalized"])
def test_a_file_of_chunks_holds_the_same(multi, tmp_path, expression):
    asked = {"seed": 1, "batch_size": 9, "expression": expression, **FAST}
    cells = multi.generate(25, B, **asked)
    path = multi.generate(25, B, out=tmp_path / "cells.h5mu", **asked)
    back = mudata.read_h5mu(path)
    for key in cells.mod:
        a, b = (c[key].X for c in (cells, back))
        assert sparse.issparse(a) == sparse.issparse(b) == (expression == "counts")
        np.testing.assert_array_equal(*(x.toarray() if sparse.issparse(x) else x for x in (a, b)))
        pd.testing.assert_frame_equal(back[key].var, cells[key].var)
        same_obs(back[key], cells[key])
    np.testing.assert_array_equal(back.obsm["X_scgm"], cells.obsm["X_scgm"])
    same_obs(back, cells)
    assert back.uns["scgm"]["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5mu"]


def test_a_file_that_fails_leaves_nothing(multi, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must end in .h5mu"):
        multi.generate(2, out=tmp_path / "cells.h5ad", **FAST)
    (tmp_path / "there.h5mu").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        multi.generate(2, out=tmp_path / "there.h5mu", **FAST)
    monkeypatch.setattr(LatentPrior, "express", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        multi.generate(2, out=tmp_path / "cells.h5mu", **FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["there.h5mu"]


def test_edit_writes_into_both_modalities(multi, mdata):
    some = mdata[:20].copy()
    asked = {"strength": 0.5, "seed": 0, **FAST}
    before = some["atac"].X.copy()
    new = multi.edit(some, B, copy=True, **asked)
    assert not some["rna"].layers and "X_scgm_edited" not in some.obsm
    assert multi.edit(some, B, **asked) is None
    for cells in (some, new):
        assert cells.obsm["X_scgm_edited"].shape == (20, 12)
        assert (cells.obs["scgm_edited_effect"] > 0).all()
        assert cells.uns["scgm_edited"]["conditions"] == B
        assert cells["atac"].layers["scgm_edited"].shape == (20, 200)
    assert (some["rna"].layers["scgm_edited"] != new["rna"].layers["scgm_edited"]).nnz == 0
    assert (some["atac"].X != before).nnz == 0
    assert isinstance(multi.edit(mdata[:20], B, **asked), MuData)  # of a view


def test_cells_of_one_modality_are_edited_in_their_own_anndata(multi, mdata):
    part = mdata["atac"][:20, ::-1].copy()
    part.var["rank"] = np.arange(200)
    multi.edit(part, B, strength=0.5, seed=0, **FAST)
    assert part.layers["scgm_edited"].shape == (20, 200)
    padded = MuData({"atac": mdata["atac"][:20].copy()})
    multi.edit(padded, B, strength=0.5, seed=0, **FAST)
    assert list(padded.mod) == ["atac"]
    a, b = part.layers["scgm_edited"].toarray(), padded["atac"].layers["scgm_edited"].toarray()
    np.testing.assert_array_equal(a[:, ::-1], b)


def test_enhance_normalises_each_modality(multi, mdata):
    some = mdata[:10].copy()
    multi.enhance(some, n_samples=2, n_fit_steps=2, seed=0, progress_bar=False)
    for key in some.mod:
        np.testing.assert_allclose(some[key].layers["scgm_enhanced"].sum(axis=1), 1e4, rtol=1e-4)


def test_unknown_features_and_files_are_not_written_to(multi, mdata, tmp_path):
    other = mdata[:5].copy()
    other.mod["rna"].var_names = ["new", *other["rna"].var_names[1:]]
    with pytest.raises(ValueError, match=r"mdata\['rna'\] has 1 features that the model does not"):
        multi.edit(other, B, **FAST)
    mdata.write_h5mu(tmp_path / "m.h5mu")
    backed = mudata.read_h5mu(tmp_path / "m.h5mu", backed=True)
    with pytest.raises(ValueError, match="backed by a file"):
        multi.edit(backed, B, **FAST)
    with pytest.raises(TypeError, match="a str; pass a MuData"):
        multi.edit("cells", B, **FAST)


def test_the_same_cells_in_any_container_are_the_same(multi, of_anndata, mdata):
    joint = make_joint(mdata)[:15]
    wider = MuData(
        {
            "other": AnnData(np.ones((15, 1), np.float32), obs=pd.DataFrame(index=joint.obs_names)),
            "atac": mdata["atac"][:15, ::-1].copy(),
            "rna": mdata["rna"][:15].copy(),
        }
    )
    for model in (multi, of_anndata):
        expected = model._states(mdata[:15])[1]
        for cells in (joint, joint[:, ::-1], wider, mdata[:15].copy()):
            np.testing.assert_allclose(model._states(cells)[1], expected, atol=1e-5)


def test_cells_measured_in_one_modality_are_those_whose_other_is_empty(multi, mdata):
    part = mdata["rna"][:15]
    padded = pad_modalities(MuData({"rna": part.copy(), "atac": mdata["atac"][20:22].copy()}))
    expected = multi._states(padded[:15])[1]
    for cells in (part, MuData({"rna": part.copy()})):
        np.testing.assert_allclose(multi._states(cells)[1], expected, atol=1e-6)
    unpadded = MuData({"rna": part.copy(), "atac": mdata["atac"][20:22].copy()})
    np.testing.assert_allclose(multi._states(unpadded)[1][:15], expected, atol=1e-6)


def test_nothing_is_written_to_cells_that_are_looked_at(multi, mdata):
    before = mdata.copy()
    multi.log_likelihood(mdata[:5], progress_bar=False)
    multi.classify(mdata["rna"], n_samples=1, n_levels=1, indices=[0], progress_bar=False)
    for a, b in ((mdata, before), *((mdata[k], before[k]) for k in mdata.mod)):
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert set(a.obsm) == set(b.obsm) and set(a.uns) == set(b.uns)


def test_what_can_not_be_read_is_refused(multi, mdata):
    with pytest.raises(KeyError, match="none of the model's modalities 'rna', 'atac'"):
        multi.log_likelihood(MuData({"protein": AnnData(np.ones((3, 2), np.float32))}))
    with pytest.raises(ValueError, match="none of the model's 320 features"):
        multi.log_likelihood(AnnData(np.ones((3, 2), np.float32)))
    with pytest.raises(ValueError, match=r"mdata\['atac'\]\.var_names lacks 50 of the 200"):
        multi.log_likelihood(MuData({"atac": mdata["atac"][:, 50:].copy()}))
    with pytest.raises(ValueError, match="adata.var_names lacks 50 of the 200"):
        multi.log_likelihood(mdata["atac"][:, 50:])


def test_classify_and_score_cells_of_one_modality(multi, mdata):
    for cells in (mdata[:6], mdata["rna"][:6], mdata["atac"][:6]):
        loglik = multi.log_likelihood(cells, progress_bar=False)
        assert loglik.shape == (6,) and np.isfinite(loglik).all()
        p = multi.classify(cells, n_samples=1, n_levels=2, progress_bar=False)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert multi.denoising_loss(cells, progress_bar=False).shape == (6,)


def test_augment_and_interpolate_return_mudata(multi, mdata):
    more = multi.augment(mdata, n_per_category={"CD19+ B": 60}, seed=0, **FAST)
    n_real = (mdata["rna"].obs["cell_type"] == "CD19+ B").sum()
    assert isinstance(more, MuData) and more.n_obs == 350 + 60 - n_real
    assert (more["atac"][:350].X != mdata["atac"].X).nnz == 0
    assert more.obs["scgm_generated"].sum() == 60 - n_real
    way = multi.interpolate(mdata[:3], B, n_points=3, seed=0, **FAST)
    assert isinstance(way, MuData) and way.n_obs == 9
    assert list(way.obs["scgm_trajectory"].unique()) == list(mdata.obs_names[:3])


def test_a_model_of_anndata_hands_back_anndata(of_anndata, mdata, tmp_path):
    cells = of_anndata.generate(5, B, seed=0, **FAST)
    assert isinstance(cells, AnnData) and cells.shape == (5, 320)
    pd.testing.assert_frame_equal(cells.var, of_anndata.adata.var)
    joint = make_joint(mdata)[:4].copy()
    of_anndata.edit(joint, B, strength=0.5, seed=0, **FAST)
    assert joint.layers["scgm_edited"].shape == (4, 320)
    of_anndata.save(tmp_path / "m")
    again = MultiSCGM.load(tmp_path / "m", adata=False)
    back = again.generate(5, B, seed=0, **FAST)
    assert (back.X != cells.X).nnz == 0 and back.var_names.equals(cells.var_names)


@pytest.mark.parametrize("how", ["with data", "given data", "without", "export"])
def test_save_and_load(multi, tmp_path, how):
    expected = multi.generate(5, B, seed=0, **FAST)
    obs = multi.adata["rna"].obs.copy()
    if how == "export":
        multi.export(tmp_path / "m")
        model = MultiSCGM.from_export(tmp_path / "m")
    else:
        multi.save(tmp_path / "m", save_anndata=how == "with data")
        given = {"with data": None, "given data": make_mdata(), "without": False}[how]
        model = MultiSCGM.load(tmp_path / "m", given)
    found = model.generate(5, B, seed=0, **FAST)
    for key in expected.mod:
        assert (found[key].X != expected[key].X).nnz == 0
        pd.testing.assert_frame_equal(found[key].var, expected[key].var)
    pd.testing.assert_frame_equal(multi.adata["rna"].obs, obs)
    if model.adata is not None:
        np.testing.assert_allclose(
            model.get_latent_representation(), multi.get_latent_representation(), atol=1e-6
        )


def test_data_of_other_features_are_refused_on_load(multi, tmp_path, mdata):
    multi.save(tmp_path / "m")
    fewer = MuData({"rna": mdata["rna"][:, 1:].copy(), "atac": mdata["atac"]})
    with (
        pytest.warns(UserWarning, match="does not match"),
        pytest.raises((RuntimeError, ValueError)),
    ):
        MultiSCGM.load(tmp_path / "m", fewer)


def test_a_query_is_aligned_by_modality(multi, mdata, monkeypatch):
    monkeypatch.setattr(_replaying, "_N_REPLAYED", 40)
    rna, atac = mdata["rna"][:80, 20:].copy(), mdata["atac"][:80, ::-1].copy()
    extra = AnnData(np.ones((80, 1), np.float32), atac.obs, pd.DataFrame(index=["chr9:1-2"]))
    for adata in (rna, atac, extra):
        adata.obs["cell_type"] = "novel"
    atac = make_wider(atac, extra)
    query = MultiSCGM.load_query_data(MuData({"rna": rna, "atac": atac}), multi)
    assert query.fine_tuning_["missing"] == list(mdata["rna"].var_names[:20])
    assert query.fine_tuning_["n_dropped"] == 1
    assert (query.adata["atac"].X != mdata["atac"][:80].X).nnz == 0
    assert not query.adata["rna"][:, :20].X.nnz
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    cells = query.generate(4, {"cell_type": "novel"}, seed=0, **FAST)
    assert list(cells.mod) == ["rna", "atac"]


def test_a_query_of_one_modality(multi, mdata, tmp_path):
    multi.save(tmp_path / "m")
    one = MuData({"rna": mdata["rna"][:80].copy()})
    query = MultiSCGM.load_query_data(one, tmp_path / "m", replay=0)
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    assert query.generate(3, seed=0, **FAST)["atac"].shape == (3, 200)
    with pytest.raises(TypeError, match="a AnnData; the reference was set up with a MuData"):
        MultiSCGM.load_query_data(one["rna"], multi)
    with pytest.raises(KeyError, match="none of the modalities 'rna', 'atac'; it has 'x'"):
        MultiSCGM.load_query_data(MuData({"x": one["rna"]}), multi)


def test_unpaired_cells_train(mdata):
    padded = pad_modalities(make_mdata(100))
    model = make_multi(padded, epochs=1, steps=5)
    assert np.isfinite(padded.obsm["X_scgm"]).all()
    cells = model.generate(20, seed=0, **FAST)
    for key in cells.mod:  # generated cells are measured in both
        assert (np.asarray(cells[key].X.sum(axis=1)) > 0).mean() > 0.8


def test_getters_of_multivi(multi, mdata):
    latent = multi.get_latent_representation()
    np.testing.assert_allclose(latent, multi.adata.obsm["X_scgm"], atol=1e-6)
    of_rna = multi.get_latent_representation(mdata, modality="expression")
    np.testing.assert_allclose(of_rna, multi.get_latent_representation(mdata["rna"]), atol=1e-6)
    assert not np.allclose(of_rna, latent)
    assert np.isnan(multi.get_latent_representation(mdata["rna"][:3], modality="atac")).all()
    mean, variance = multi.get_latent_representation(mdata[:4], return_dist=True)
    assert mean.shape == variance.shape == (4, 12) and (variance > 0).all()
    shares = multi.get_normalized_expression(mdata["atac"][:4])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    names = list(mdata["rna"].var_names[[5, 9]])
    assert list(multi.get_normalized_expression(indices=[3, 4], gene_list=names)) == names
    p = multi.get_normalized_accessibility(mdata["rna"][:4])
    assert p.shape == (4, 200) and ((p > 0) & (p < 1)).all(axis=None)
    few = multi.get_normalized_accessibility(mdata[:4], threshold=0.5, return_numpy=True)
    assert sparse.issparse(few) and (few.data >= 0.5).all()
    sizes = multi.get_library_size_factors(mdata["rna"])
    np.testing.assert_allclose(sizes["expression"], np.asarray(mdata["rna"].X.sum(1)).ravel())
    assert not sizes["accessibility"].any()


def test_differences_are_found(multi, mdata):
    rows = [
        np.flatnonzero(mdata["rna"].obs["cell_type"] == t) for t in ("CD19+ B", "CD14+ Monocyte")
    ]
    asked = {"idx1": rows[0], "idx2": rows[1], "silent": True}
    peaks = multi.differential_accessibility(mdata, **asked).loc[mdata["atac"].var_names]
    real = [np.asarray((mdata["atac"].X[r] > 0).mean(axis=0)).ravel() for r in rows]
    np.testing.assert_allclose(peaks["emp_prob1"], real[0], atol=1e-6)
    np.testing.assert_allclose(peaks["emp_effect"], real[1] - real[0], atol=1e-6)
    genes = multi.differential_expression(groupby="cell_type", group1="CD19+ B", silent=True)
    assert set(genes.index) == set(mdata["rna"].var_names)
    assert not [c for c in multi.adata["rna"].obs if "norm_scaling" in c]


def make_wider(adata: AnnData, extra: AnnData) -> AnnData:
    """With further features."""
    return AnnData(
        sparse.hstack([adata.X, extra.X], format="csr"),
        obs=adata.obs,
        var=pd.DataFrame(index=[*adata.var_names, *extra.var_names]),
    )


def test_cells_with_genes_alone_are_edited(multi):
    """Matrices of all features are written by name into cells that have some of them."""
    cells = multi.adata["rna"][:4].copy()
    out = multi.edit(cells, B, strength=0.5, seed=0, copy=True, **FAST)
    made = out["rna"] if isinstance(out, MuData) else out
    assert made.layers["scgm_edited"].shape == cells.shape
    whole = multi.edit(
        multi.adata[cells.obs_names].copy(), B, strength=0.5, seed=0, copy=True, **FAST
    )
    assert whole["rna"].layers["scgm_edited"].shape == cells.shape
