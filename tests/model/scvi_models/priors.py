"""Priors for small models of scvi's: what the tests of the three files share."""

from __future__ import annotations

from helpers import QUIET

from scgm_scvi import SCGM

KEYS = {"batch_key": "donor", "labels_key": "cell_type"}
COVARIATES = {"categorical_covariate_keys": ["plate"], "continuous_covariate_keys": ["mito"]}
WIDTH = {"n_hidden": 16, "n_latent": 5}
DENOISER = {"denoiser_kwargs": {"n_hidden": 24, "n_layers": 1}}


def with_prior(scvi_model, data=None, steps=5, **kwargs):
    model = SCGM.from_scvi_model(scvi_model, data, **DENOISER, **kwargs)
    model.train_diffusion(max_steps=steps, **QUIET)
    return model


def batch_of(model, n=700):
    return next(iter(model._make_data_loader(adata=model.adata, batch_size=n)))
