"""What scvi-tools' getters say of our models: what works, what is refused, and nothing is changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from helpers import QUIET, make_adata, make_mdata, make_multi
from mudata import MuData
from scipy import sparse
from scvi.external import POISSONVI
from scvi.model import MULTIVI

import scgm_scvi.model as models
from scgm_scvi import ATACSCGM, SCGM, MultiSCGM
from scgm_scvi._mudata import columns_stay

WIDTH = {"n_hidden": 8, "n_latent": 4}


pytestmark = pytest.mark.usefixtures("mudata_as_of_0_4")


def make_peaks(n=120, n_peaks=40) -> AnnData:
    rng = np.random.default_rng(0)
    types = rng.integers(2, size=n)
    x = rng.poisson(rng.gamma(0.5, 1.5, (2, n_peaks))[types]) + (rng.random((n, n_peaks)) < 0.1)
    adata = AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs["cell_type"] = np.array(["A", "B"])[types]
    adata.obs["sample"] = rng.choice(["s1", "s2", "s3"], n)
    return adata


def make_atac(likelihood="poisson") -> ATACSCGM:
    adata = make_peaks()
    scvi.settings.seed = 0
    ATACSCGM.setup_anndata(adata, labels_key="cell_type")
    model = ATACSCGM(adata, peak_likelihood=likelihood, **WIDTH)
    model.train(max_epochs=3, diffusion=False, **QUIET)
    return model


@pytest.fixture(scope="module")
def small() -> SCGM:
    adata = make_adata()[::3]
    adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
    scvi.settings.seed = 0
    SCGM.setup_anndata(adata, labels_key="cell_type", batch_key="donor")
    model = SCGM(adata, **WIDTH)
    model.train(max_epochs=2, diffusion=False, **QUIET)
    return model


@pytest.fixture(scope="module")
def multi() -> MultiSCGM:
    with columns_stay():
        return make_multi(make_mdata(), epochs=2, steps=5)


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


# abundance


def by_hand(mean, variance, at, dof):
    """Log-density of an even mixture at some places."""
    scale = np.sqrt(variance)
    if dof is None:
        parts = torch.distributions.Normal(torch.tensor(mean), torch.tensor(scale))
    else:
        parts = torch.distributions.StudentT(dof, torch.tensor(mean), torch.tensor(scale))
    each = parts.log_prob(torch.tensor(at)[:, None]).sum(-1)
    return (torch.logsumexp(each, dim=1) - np.log(len(mean))).numpy()


@pytest.mark.parametrize("dof", [None, 3.0])
def test_aggregated_posterior(small, dof):
    rows = np.arange(20)
    mean, variance = small.get_latent_representation(return_dist=True)
    found = small.get_aggregated_posterior(indices=rows, dof=dof)
    want = by_hand(mean[rows], variance[rows], mean[:9], dof)
    np.testing.assert_allclose(found.log_prob(torch.tensor(mean[:9])), want, rtol=1e-4)
    assert small.get_aggregated_posterior(indices=list(rows)).sample((5,)).shape == (5, 4)
    with pytest.raises(ValueError, match="no cells"):
        small.get_aggregated_posterior(indices=[])


def test_abundance_is_written_to_the_cells(small):
    small.differential_abundance(sample_key="donor")
    table = small.adata.obsm.pop("da_log_probs")
    mean, variance = small.get_latent_representation(return_dist=True)
    rows = (small.adata.obs["donor"] == "d2").to_numpy()
    np.testing.assert_allclose(
        table["d2"], by_hand(mean[rows], variance[rows], mean, None), rtol=1e-4
    )
    assert set(table) == {"d1", "d2", "d3"}
    assert table.index.equals(small.adata.obs_names)


def test_abundance_of_other_cells(small):
    query = make_adata()[1:90:3, small.adata.var_names].copy()
    query.obs["person"] = pd.Series(["p", "q", np.nan] * 10, index=query.obs_names)
    small.differential_abundance(query, sample_key="person", num_cells_posterior=4)
    assert set(query.obsm["da_log_probs"]) == {"p", "q"}
    assert query.obsm["da_log_probs"].shape == (30, 2)
    with pytest.raises(KeyError, match=r"sample_key: 'dono' .*Did you mean 'donor'\?"):
        small.differential_abundance(query, sample_key="dono")
    with pytest.raises(ValueError, match=r"a view.*adata\.copy\(\)"):
        small.differential_abundance(query[:5], sample_key="person")
    assert "da_log_probs" not in small.adata.obsm


def test_abundance_of_both_modalities(multi):
    mdata = make_mdata()
    query = MuData({k: v[:40].copy() for k, v in mdata.mod.items()})
    for cells in (query, multi.adata):
        multi.differential_abundance(cells, sample_key="donor")  # a column of one modality
        assert cells.obsm["da_log_probs"].shape == (cells.n_obs, 2)
        mean, variance = multi.get_latent_representation(cells, return_dist=True)
        rows = (cells["rna"].obs["donor"] == "d1").to_numpy()
        want = by_hand(mean[rows], variance[rows], mean, None)
        np.testing.assert_allclose(cells.obsm["da_log_probs"]["d1"], want, rtol=1e-4)
    del multi.adata.obsm["da_log_probs"]
    rna = query["rna"].copy()
    multi.differential_abundance(rna, sample_key="donor")
    assert rna.obsm["da_log_probs"].shape == (40, 2)
    assert multi.get_aggregated_posterior(rna).sample().shape == (12,)


# peaks


@pytest.mark.parametrize("likelihood", ["poisson", "nb", "bernoulli"])
def test_accessibility_of_every_likelihood(likelihood):
    model = make_atac(likelihood)
    before = weights(model)
    share = model.get_normalized_accessibility()
    whole = model.get_normalized_accessibility(
        library_size="latent", normalize_regions=True, n_samples=50
    )
    if likelihood == "bernoulli":
        latent, tensors = states_of(model)
        np.testing.assert_allclose(
            whole, model.module.decode_state(latent, tensors).probs.detach(), rtol=0.3
        )
        assert ((share > 0) & (share < 1)).all().all()
    else:
        np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-4)
        depth = np.asarray(model.adata.X.sum(axis=1)).ravel()
        np.testing.assert_allclose(whole.sum(axis=1), depth, rtol=1e-3)
    table = model.differential_accessibility(
        groupby="cell_type", silent=True, n_samples_overall=200
    )
    assert {"emp_prob1", "est_prob1"} <= set(table) or "proba_de" in table
    drawn = model.module.sample(states_of(model)[1], n_samples=2)
    assert drawn.shape == (*model.adata.shape, 2)
    for key, value in before.items():
        assert torch.equal(value, weights(model)[key]), key


def states_of(model):
    tensors = next(iter(model._make_data_loader(adata=model.adata, batch_size=999)))
    return model.module.encode_state(tensors)[0], tensors


def make_poissonvi():
    adata = make_peaks()
    POISSONVI.setup_anndata(adata, labels_key="cell_type")
    theirs = POISSONVI(adata, **WIDTH)
    theirs.train(max_epochs=1, **QUIET)
    return SCGM.from_scvi_model(theirs)


@pytest.mark.parametrize("make", [make_atac, make_poissonvi])
def test_a_failed_getter_leaves_the_model_whole(make, monkeypatch):
    """scvi-tools sets the peaks' factors to zero, and puts them back if all goes well."""
    model = make()
    before = weights(model)
    with pytest.raises(IndexError):
        model.get_normalized_accessibility(indices=[10_000])
    for key, value in weights(model).items():
        assert torch.equal(value, before[key]), key
    assert np.abs(model.get_region_factors()).max() > 0


@pytest.mark.parametrize("make", [make_atac, make_poissonvi])
def test_what_models_of_peaks_refuse(make):
    model = make()
    for name, match in {
        "differential_expression": "differential_accessibility",
        "get_library_size_factors": "get_latent_library_size",
    }.items():
        with pytest.raises(NotImplementedError, match=match):
            getattr(model, name)(groupby="cell_type")
    for name in ("get_likelihood_parameters", "get_feature_correlation_matrix"):
        with pytest.raises(ValueError, match=f"{name} reads dispersions.*'poisson'"):
            getattr(model, name)()
    assert model.get_latent_library_size(give_mean=False).shape == (120, 1)


def test_peaks_with_dispersions_have_parameters():
    parameters = make_atac("nb").get_likelihood_parameters()
    assert parameters["dispersions"].shape == parameters["mean"].shape == (120, 40)


# names of features


def make_multivi(order) -> models.DiffusionMULTIVI:
    """Genes that differ between two groups, and peaks that don't; the modalities in an order."""
    rng = np.random.default_rng(0)
    n, types = 160, np.arange(160) % 2
    x = rng.poisson(np.where(types[:, None] == 1, [1.0, 9.0, 3.0, 3.0], [9.0, 1.0, 3.0, 3.0]))
    parts = {"rna": (x, "gene"), "atac": (rng.poisson(1.0, (n, 6)) + 0, "peak")}
    mods = {}
    for key in order:
        values, name = parts[key]
        mods[key] = AnnData(
            sparse.csr_matrix(np.c_[values, np.ones(n)].astype(np.float32)),
            obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
            var=pd.DataFrame(index=[f"{name}{j}" for j in range(values.shape[1] + 1)]),
        )
    mdata = MuData(mods)
    mdata.obs["cell_type"] = np.array(["A", "B"])[types]
    scvi.settings.seed = 0
    models.DiffusionMULTIVI.setup_mudata(mdata, labels_key="cell_type")
    model = models.DiffusionMULTIVI(mdata, **WIDTH)
    model.train(max_epochs=1, adversarial_mixing=False, **QUIET)
    return model


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:The method mod_names is deprecated")
class TestMultivi:
    @pytest.mark.parametrize("order", [("rna", "atac"), ("atac", "rna")])
    def test_names(self, order):
        """Of the model, and not of the modality that happens to be first."""
        model = make_multivi(order)
        genes, peaks = ([f"{k}{j}" for j in range(n)] for k, n in (("gene", 5), ("peak", 7)))
        assert list(model.get_normalized_expression()) == genes
        assert list(model.get_normalized_expression(gene_list=["gene1"])) == ["gene1"]
        assert list(model.get_normalized_accessibility()) == peaks
        assert list(model.get_normalized_accessibility(region_list=["peak3"])) == ["peak3"]
        table = model.differential_expression(
            groupby="cell_type", silent=True, n_samples_overall=50
        )
        assert sorted(table.index.unique()) == genes
        one = table[table["group1"] == "A"].loc["gene0"]
        assert one["raw_mean1"] > 5 > one["raw_mean2"]
        table = model.differential_accessibility(
            groupby="cell_type", silent=True, n_samples_overall=50
        )
        assert sorted(table.index.unique()) == peaks

    def test_other_cells(self):
        """In another order, with more features and modalities, or with one of them."""
        model = make_multivi(("rna", "atac"))
        cells = {k: v[:30] for k, v in model.adata.mod.items()}
        other = MuData({k: cells[k][:, ::-1].copy() for k in ("atac", "rna")})
        for get in ("get_normalized_expression", "get_normalized_accessibility"):
            want = getattr(model, get)(indices=np.arange(30))
            pd.testing.assert_frame_equal(getattr(model, get)(other), want, rtol=1e-4)
        a = model.get_latent_representation(indices=np.arange(30))
        np.testing.assert_allclose(model.get_latent_representation(other), a, rtol=1e-3, atol=1e-5)
        rna = cells["rna"].copy()
        assert model.get_latent_representation(rna).shape == (30, 4)
        assert model.get_library_size_factors(rna)["expression"].shape == (30,)

    def test_as_scvi_has_it(self):
        model = make_multivi(("rna", "atac"))
        torch.manual_seed(0)
        np.testing.assert_allclose(
            model.get_latent_representation(),
            MULTIVI.get_latent_representation(model),
            rtol=1e-4,
            atol=1e-6,
        )

    def test_what_is_refused(self):
        model = make_multivi(("rna", "atac"))
        with pytest.raises(NotImplementedError, match="get_elbo, or log_likelihood"):
            model.get_marginal_ll()
        with pytest.raises(NotImplementedError, match="without proteins"):
            model.get_protein_foreground_probability()
        for name in ("minify_adata", "minify_mudata"):
            with pytest.raises(NotImplementedError, match="can't be minified.*adata=False"):
                getattr(model, name)()


def test_differences_of_cells_in_another_order(multi):
    """By name, and not by position."""
    mdata = multi.adata
    other = MuData({k: mdata[k][:60, ::-1].copy() for k in ("atac", "rna")})
    groups = {"idx1": np.arange(60) < 30, "idx2": np.arange(60) >= 30, "silent": True}
    for get in ("differential_expression", "differential_accessibility"):
        found = getattr(multi, get)(other, n_samples_overall=20, **groups).sort_index()
        same = MuData({k: mdata[k][:60].copy() for k in ("rna", "atac")})
        want = getattr(multi, get)(same, n_samples_overall=20, **groups).sort_index()
        column = "raw_mean1" if "raw_mean1" in want else "emp_prob1"
        pd.testing.assert_series_equal(found[column], want[column])
