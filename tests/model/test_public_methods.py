"""Every public method of every model answers alike, however the same cells are handed to it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from helpers import QUIET, SMALL, make_mdata, make_multi, make_types, train_types
from model.public_methods import CLASSES, METHODS, NOT_A_READER, REFUSED, methods_of
from mudata import MuData
from scipy import sparse
from scvi.external import POISSONVI
from scvi.model import MULTIVI, PEAKVI, SCANVI, SCVI

import scgm_scvi.model as models
from scgm_scvi import SCGM
from scgm_scvi._mudata import columns_stay

_TRAIN = {"max_epochs": 2, "early_stopping": False, **QUIET}


def _of_scvi(cls: type, **kwargs: Any) -> Any:
    """A model with a diffusion prior, of a scvi model of two types of cells."""
    adata = make_types()
    cls.setup_anndata(adata, batch_key="donor", labels_key="cell_type", **kwargs)
    scvi_model = cls(adata, n_latent=4)
    scvi_model.train(**_TRAIN)
    model = SCGM.from_scvi_model(scvi_model, denoiser_kwargs=SMALL["denoiser_kwargs"])
    model.train_diffusion(max_steps=5, **QUIET)
    return model


def _of_multivi() -> Any:
    mdata = make_mdata()
    named = {"rna_layer": "rna", "atac_layer": "atac"}
    with columns_stay():
        MULTIVI.setup_mudata(mdata, modalities=named)
        scvi_model = MULTIVI(mdata, n_latent=4, n_genes=120, n_regions=200)
        scvi_model.train(adversarial_mixing=False, **_TRAIN)
        model = SCGM.from_scvi_model(
            scvi_model,
            condition_keys=["cell_type"],
            denoiser_kwargs=SMALL["denoiser_kwargs"],
        )
        model.train_diffusion(max_steps=5, **QUIET)
    return model


MAKERS: dict[str, Callable[[], Any]] = {
    "SCGM": lambda: train_types(make_types(), steps=5),
    "ATACSCGM": lambda: train_types(make_types(), models.ATACSCGM, steps=5),
    "MultiSCGM": lambda: make_multi(make_mdata(), epochs=2, steps=5),
    "DiffusionSCVI": lambda: _of_scvi(SCVI),
    "DiffusionSCANVI": lambda: _of_scvi(SCANVI, unlabeled_category="Unknown"),
    "DiffusionPEAKVI": lambda: _of_scvi(PEAKVI),
    "DiffusionPOISSONVI": lambda: _of_scvi(POISSONVI),
    "DiffusionMULTIVI": _of_multivi,
}


@functools.cache
def trained(name: str) -> Any:
    """The model of that class, trained once; not to be changed."""
    return MAKERS[name]()


def _each(data: Any, change: Callable[[AnnData], AnnData]) -> Any:
    """A change of every modality."""
    if isinstance(data, AnnData):
        return change(data)
    with columns_stay():
        mdata = MuData({key: change(part) for key, part in data.mod.items()})
    mdata.obs = data.obs.copy()
    return mdata


def _permuted(adata: AnnData) -> AnnData:
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def _with_more(adata: AnnData) -> AnnData:
    further = sparse.csr_matrix(np.ones((adata.n_obs, 2), dtype=np.float32))
    names = [f"further {i} of {adata.n_vars}" for i in range(2)]
    x = sparse.hstack([further, adata.X], format="csr")
    return AnnData(x, adata.obs.copy(), pd.DataFrame(index=[*names, *adata.var_names]))


def _in_array(adata: AnnData) -> AnnData:
    out = adata.copy()
    out.X = sparse.csr_array(out.X)
    return out


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "permuted": lambda data: _each(data, _permuted),
    "further_features": lambda data: _each(data, _with_more),
    "view": lambda data: data[np.arange(data.n_obs)],
    "csr_array": lambda data: _each(data, _in_array),
}
# What writes beside the cells' features has nothing to say of those that the model does not know.
_WRITERS = ("edit", "enhance")
_ASKED_TO_WRITE = ("differential_abundance",)  # to the cells themselves, so not to a view
_HELD_OUT = ("edit_curve",)  # asked of no cells, it takes some of the model's own
# Whether a result may depend on what else is in the object: features are left out by position.
_BY_POSITION = {("impute", "permuted"), ("impute", "further_features")}


def same(a: Any, b: Any, where: str = "result") -> None:
    """Assert that two answers are equal to 1e-5, names going by name."""
    if sparse.issparse(a) or hasattr(a, "todense"):  # by matrix or by array
        a, b = np.asarray(a.todense()), np.asarray(b.todense())
    assert type(a) is type(b), where
    if isinstance(a, AnnData):
        assert a.obs_names.equals(b.obs_names), where
        shared = a.var_names.intersection(b.var_names)
        a, b = a[:, shared], b[:, shared]
        same(a.X, b.X, f"{where}.X")
        for name in set(a.layers) | set(b.layers):
            if name is not None:
                same(a.layers[name], b.layers[name], f"{where}.layers[{name}]")
        for name in [k for k in a.obsm if not k.startswith("_scvi")]:
            same(np.asarray(a.obsm[name]), np.asarray(b.obsm[name]), f"{where}.obsm[{name}]")
    elif isinstance(a, MuData):
        for key in a.mod:
            same(a[key], b[key], f"{where}[{key}]")
    elif isinstance(a, pd.DataFrame):
        b = b.loc[a.index] if a.index.is_unique and set(a.index) == set(b.index) else b
        assert list(a.columns) == list(b.columns), where
        pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-5, check_dtype=False)
    elif isinstance(a, torch.distributions.Distribution):
        same(a.component_distribution.base_dist.loc, b.component_distribution.base_dist.loc)
    elif isinstance(a, Mapping):
        assert set(a) == set(b), where
        for key in a:
            same(a[key], b[key], f"{where}[{key}]")
    elif isinstance(a, list | tuple):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            same(left, right, f"{where}[{i}]")
    elif isinstance(a, pd.Series):
        pd.testing.assert_series_equal(a, b)
    elif isinstance(a, np.ndarray | torch.Tensor | float | int | np.generic):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind in "fc":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=where)
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a is None or isinstance(a, str) or a == b, where


def called(method: Callable[[Any, Any], Any], model: Any, data: Any) -> Any:
    """What a method answers from the same global state; scvi-tools draws from that."""
    torch.manual_seed(0)
    np.random.seed(0)
    return method(model, data)


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_method_has_an_entry(name):
    public = set(methods_of(getattr(models, name)))
    entries = set(METHODS[name]) | set(NOT_A_READER)
    assert not public - entries, (
        "say in public_methods.py how these are called, or why they are not"
    )
    assert not set(REFUSED[name]) - set(METHODS[name])
    assert not set(METHODS[name]) & set(NOT_A_READER)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in CLASSES for method in METHODS[name]]
)
@pytest.mark.filterwarnings(
    "ignore:.*not calibrated",
    "ignore:Category .* has fewer than 3 cells",
    "ignore:Initializing zero-element tensors",  # MULTIVI makes layers of proteins without any
    "ignore:From 0.4 .update",  # mudata, of its own slices
    "ignore:The method mod_names is deprecated",  # scvi-tools 1.4 asks for modalities so
    "ignore:Missing Attributions matrix",  # scvi-tools 1.5, of get_ranked_features without any
)
def test_the_same_cells_in_every_form(name, method):
    model, call = trained(name), METHODS[name][method]
    data = model.adata
    forms = {form: change(data) for form, change in VARIANTS.items()}
    if method in REFUSED[name]:
        kind, match = REFUSED[name][method]
        for cells in forms.values():
            with pytest.raises(kind, match=match):
                called(call, model, cells)
        return
    expected = called(call, model, data)
    if method not in _HELD_OUT:
        same(expected, called(call, model, None), f"{method} of the model's own cells")
    for form, cells in forms.items():
        before = _columns(cells)
        if method in _WRITERS and form == "further_features":
            with pytest.raises(ValueError, match="features that the model does not know"):
                called(call, model, cells)
        elif method in _ASKED_TO_WRITE and form == "view":
            with pytest.raises(ValueError, match="view"):
                called(call, model, cells)
        elif method in _ASKED_TO_WRITE:
            called(call, model, cells)
            same(data.obsm["da_log_probs"], cells.obsm["da_log_probs"], f"{method} of {form}")
        elif (method, form) in _BY_POSITION:
            called(call, model, cells)
        else:
            same(expected, called(call, model, cells), f"{method} of {form}")
        if method not in _ASKED_TO_WRITE:
            assert _columns(cells) == before, f"{method} wrote to {form}"


def _columns(data: Any) -> list[list[str]]:
    parts = [data] if isinstance(data, AnnData) else [data, *data.mod.values()]
    scvi_s = "_scvi_raw_norm_scaling"  # of the model's own data, by scvi-tools
    return [[c for c in part.obs if c != scvi_s] + list(part.obsm) for part in parts]
