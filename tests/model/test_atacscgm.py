import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from helpers import QUIET, SMALL, make_mdata
from scipy import sparse

from scgm_scvi import ATACSCGM, SCGM

N_PEAKS = 300


def make_atac(n=400, seed=0) -> AnnData:
    """Fragments of three types, each with a third of the peaks to itself, of differing depth."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    profile = np.full((3, N_PEAKS), 0.2)
    for k in range(3):
        profile[k, k::3] = rng.gamma(2.0, 1.0, N_PEAKS // 3)
    profile /= profile.sum(axis=1, keepdims=True)
    depth = rng.lognormal(np.log(80), 0.3, n)
    x = rng.poisson(profile[label] * depth[:, None]).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(["A", "B", "C"])[label])},
        index=[f"cell_{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(N_PEAKS)])
    return AnnData(sparse.csr_matrix(x), obs=obs, var=var)


def make_model(adata: AnnData, likelihood: str, epochs=40, steps=500) -> ATACSCGM:
    scvi.settings.seed = 0
    ATACSCGM.setup_anndata(adata, labels_key="cell_type")
    model = ATACSCGM(adata, peak_likelihood=likelihood, **SMALL)
    model.train(
        max_epochs=epochs,
        plan_kwargs={"lr": 5e-3},
        diffusion_kwargs={"max_steps": steps, **QUIET},
        **QUIET,
    )
    return model


@pytest.fixture(scope="module", params=["poisson", "nb", "bernoulli"])
def trained(request) -> ATACSCGM:
    return make_model(make_atac(), request.param)


def own_share(cells: AnnData, k: int) -> np.ndarray:
    """Share of a cell's counts in the peaks of type ``k``."""
    x = cells.X.toarray()
    return x[:, k::3].sum(axis=1) / x.sum(axis=1)


def test_generated_cells_are_of_their_type_and_depth(trained):
    cells = trained.generate(150, {"cell_type": "B"}, seed=0, progress_bar=False)
    real = trained.adata[trained.adata.obs["cell_type"] == "B"]
    if trained.module.likelihoods == ["bernoulli"]:
        real = real.copy()
        real.X.data[:] = 1
        assert set(np.unique(cells.X.data)) == {1.0}
    assert own_share(cells, 1).mean() == pytest.approx(own_share(real, 1).mean(), abs=0.06)
    assert cells.X.sum(1).mean() == pytest.approx(real.X.sum(1).mean(), rel=0.1)
    assert sparse.issparse(cells.X)
    assert cells.var_names.equals(trained.adata.var_names)


def test_every_verb_works(trained):
    adata = make_atac(60, seed=1)
    before = adata.X.copy()
    trained.edit(adata, {"cell_type": "A"}, strength=1.0, seed=0, progress_bar=False)
    edited = AnnData(adata.layers["scgm_edited"], obs=adata.obs)
    assert own_share(edited, 0).mean() > own_share(adata, 0).mean() + 0.1
    trained.enhance(adata, n_samples=2, n_fit_steps=3, seed=0, progress_bar=False)
    assert np.allclose(adata.layers["scgm_enhanced"].sum(axis=1), 1e4, rtol=1e-3)
    assert np.isfinite(trained.log_likelihood(adata[:10].copy(), progress_bar=False)).all()
    probabilities = trained.classify(adata, "cell_type", progress_bar=False)
    found = probabilities.idxmax(axis=1).to_numpy()
    assert (found == adata.obs["cell_type"].to_numpy()).mean() > 0.9
    assert (adata.X != before).nnz == 0


def test_saved_exported_and_fine_tuned(trained, tmp_path):
    ask = {"n_cells": 20, "conditions": {"cell_type": "C"}, "seed": 0, "progress_bar": False}
    x = trained.generate(**ask).X
    trained.save(str(tmp_path / "model"))
    trained.export(tmp_path / "export")
    for again in (
        ATACSCGM.load(tmp_path / "model", adata=False),
        ATACSCGM.from_export(tmp_path / "export"),
    ):
        assert (again.generate(**ask).X != x).nnz == 0
    query = make_atac(150, seed=2)
    query.obs["cell_type"] = np.where(query.obs["cell_type"] == "A", "new", "B")
    tuned = ATACSCGM.load_query_data(query, trained)
    tuned.train(max_epochs=3, diffusion_kwargs={"max_steps": 30, **QUIET}, **QUIET)
    assert tuned.generate(5, {"cell_type": "new"}, seed=0, progress_bar=False).n_obs == 5


def test_scvi_getters(trained):
    if trained.module.likelihoods == ["bernoulli"]:
        return
    table = trained.get_normalized_accessibility(normalize_regions=True)
    assert table.shape == trained.adata.shape
    assert np.allclose(table.sum(axis=1), 1, rtol=1e-3)
    assert trained.get_region_factors().shape == (N_PEAKS,)


def test_binary_peaks_ask_for_another_likelihood():
    adata = make_atac(50)
    adata.X.data[:] = 1
    ATACSCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match='0 and 1 alone.*peak_likelihood="bernoulli"'):
        ATACSCGM(adata, **SMALL)
    assert ATACSCGM(adata, peak_likelihood="bernoulli", **SMALL).module.likelihoods == ["bernoulli"]


def test_reads_are_told_from_fragments():
    adata = make_atac(50)
    adata.X.data *= 2
    ATACSCGM.setup_anndata(adata)
    with pytest.warns(UserWarning, match="reads_to_fragments"):
        ATACSCGM(adata, **SMALL)


def test_an_unknown_likelihood_is_named():
    adata = make_atac(50)
    ATACSCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match="peak_likelihood is 'bernouli'.*'bernoulli'"):
        ATACSCGM(adata, peak_likelihood="bernouli")


def test_size_factors_have_no_use():
    adata = make_atac(50)
    adata.obs["size"] = 1.0
    ATACSCGM.setup_anndata(adata, size_factor_key="size")
    with pytest.raises(ValueError, match="size_factor_key='size'"):
        ATACSCGM(adata)


def test_a_class_of_its_own(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_model(make_atac(80), "poisson", epochs=1, steps=5)
    model.save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="ATACSCGM.load"):
        SCGM.load(tmp_path / "model", adata=False)


def test_a_mudata_is_for_another_class():
    mdata = make_mdata()
    for kind in (SCGM, ATACSCGM):
        with pytest.raises(TypeError, match="'rna', 'atac'.*MultiSCGM"):
            kind.setup_anndata(mdata)
