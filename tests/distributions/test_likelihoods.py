"""A likelihood is one entry in the registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import QUIET, SMALL, make_mdata, make_types
from scvi.distributions import NegativeBinomial

from scgm_scvi import ATACSCGM, SCGM, MultiSCGM
from scgm_scvi.distributions import LIKELIHOODS, Likelihood


class Geometric(Likelihood):
    """Negative binomial counts of the same dispersion everywhere."""

    def distribution(self, rate, scale, theta=None, zero_logits=None):
        return NegativeBinomial(mu=rate, theta=torch.ones_like(rate), scale=scale)


@pytest.fixture
def geometric(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "geometric", Geometric())


def train(model):
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 10, **QUIET}, **QUIET)
    return model


@pytest.mark.parametrize("size_factor_key", [None, "depth"])
def test_a_new_likelihood_of_genes(geometric, size_factor_key):
    adata = make_types(60)
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel() / 100
    SCGM.setup_anndata(adata, labels_key="cell_type", size_factor_key=size_factor_key)
    model = train(SCGM(adata, gene_likelihood="geometric", **SMALL))
    cells = model.generate(20, {"cell_type": "A"}, n_steps=5, seed=0, progress_bar=False)
    assert cells.X.sum() > 0
    assert (cells.X.data % 1 == 0).all()
    enhanced = model.enhance(adata[:9], n_samples=2, n_fit_steps=2, copy=True, progress_bar=False)
    assert np.isfinite(enhanced.layers["scgm_enhanced"]).all()
    with pytest.raises(ValueError, match="'geometric'.*not have"):
        model.get_likelihood_parameters()


def test_a_new_likelihood_of_several_modalities(geometric):
    mdata = make_mdata()
    MultiSCGM.setup_mudata(mdata, labels_key="cell_type")
    both = {"gene_likelihood": "geometric", "peak_likelihood": "geometric"}
    model = train(MultiSCGM(mdata, **both, **SMALL))
    cells = model.generate(5, n_steps=5, seed=0, progress_bar=False)
    assert cells["atac"].X.sum() > 0


def test_names_are_looked_up_when_asked_for(geometric):
    adata = make_types(20)
    SCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match="use one of .'nb', 'zinb', 'poisson', 'normal', 'geom"):
        SCGM(adata, gene_likelihood="bernoulli")
    with pytest.raises(ValueError, match="'nb', 'zinb', 'poisson' or 'geometric'; log-.*'normal'"):
        SCGM(adata, gene_likelihood="normal")
    ATACSCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match="Use one of 'nb', 'poisson', 'bernoulli', 'geometric'"):
        ATACSCGM(adata, peak_likelihood="zinb")


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_each_makes_is_as_it_says(name):
    likelihood, ones = LIKELIHOODS[name], torch.ones(2, 3)
    px = likelihood.distribution(ones / 2, ones, ones, 0 * ones)
    assert px.mean.shape == (2, 3)
    assert px.support.is_discrete == likelihood.is_counts
    assert (px.get_normalized("mu") == ones / 2).all()
    x = torch.tensor([[0.0, 1.0, 4.0]])
    assert likelihood.as_modelled(x).max() == (1 if likelihood.is_binary else 4)
