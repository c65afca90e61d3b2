"""Every public method of every model: how to call it with little, or why nobody calls it to read.

``METHODS[class name][method name]`` is a function ``(model, data)`` that calls the method on cells
(``None``: the model's own) or, where a method takes none, on the model alone; or a string that
says why it is no reader: ``NOT_A_READER``. What ``REFUSED`` names raises the error given there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scgm_scvi import model as models

__all__ = ["CLASSES", "METHODS", "NOT_A_READER", "REFUSED"]

CLASSES = (
    "SCGM",
    "ATACSCGM",
    "MultiSCGM",
    "DiffusionSCVI",
    "DiffusionSCANVI",
    "DiffusionPEAKVI",
    "DiffusionPOISSONVI",
    "DiffusionMULTIVI",
)

Call = Callable[[Any, Any], Any]

QUIET = {"progress_bar": False}
SEED = {"seed": 0, **QUIET}
FEW = {"indices": np.arange(8)}

_TRAINING = "trains the model"
_FILE = "writes or reads files"
_SETUP = "registers data, or forgets them"
_STATE = "an attribute or a property"
_CHANGES = "changes the model"

NOT_A_READER = {
    "train": _TRAINING,
    "train_diffusion": _TRAINING,
    "load_query_data": _TRAINING,
    "from_scvi_model": _TRAINING,
    "save": _FILE,
    "load": _FILE,
    "export": _FILE,
    "from_export": _FILE,
    "hub_model": _FILE,
    "load_registry": _FILE,
    "view_setup_args": _FILE,
    "convert_legacy_save": _FILE,
    "setup_anndata": _SETUP,
    "setup_mudata": _SETUP,
    "setup_datamodule": _SETUP,
    "register_manager": _SETUP,
    "deregister_manager": _SETUP,
    "transfer_fields": _SETUP,
    "update_setup_method_args": _SETUP,
    "prepare_query_anndata": _SETUP,
    "prepare_query_mudata": _SETUP,
    "to_device": _CHANGES,
    "merge_adapters": _CHANGES,
    "minify_adata": _CHANGES,
    "minify_mudata": _CHANGES,
}
"""Method to why it is no reader of cells; attributes are found by themselves."""


def _groups(model: Any, data: Any) -> dict[str, Any]:
    n = (model.adata if data is None else data).n_obs
    return {"idx1": np.arange(n) < n // 2, "idx2": np.arange(n) >= n // 2, "silent": True}


def _differential(name: str) -> Call:
    def call(model: Any, data: Any) -> Any:
        return getattr(model, name)(data, **_groups(model, data), n_samples_overall=20)

    return call


def _on_cells(name: str, **kwargs: Any) -> Call:
    return lambda model, data: getattr(model, name)(data, **kwargs)


def _on_given(name: str, *args: Any, **kwargs: Any) -> Call:
    """Of methods that need cells: a few of the model's own stand in."""

    def call(model: Any, data: Any) -> Any:
        cells = model.adata if data is None else data
        return getattr(model, name)(cells, *args, **kwargs)

    return call


def _of_model(name: str, *args: Any, **kwargs: Any) -> Call:
    return lambda model, data: getattr(model, name)(*args, **kwargs)


def _importance_weights(model: Any, data: Any) -> Any:
    """What it is called by; it takes what that has computed."""
    few = {"indices": np.arange(8), "n_samples_overall": 16, "weights": "importance"}
    return model.get_normalized_expression(
        data, **few, n_mc_samples=4, n_mc_samples_per_pass=2, return_numpy=True
    )


LABEL = "cell_type"

_VERBS: dict[str, Call] = {
    "generate": _of_model("generate", 3, n_steps=3, **SEED),
    "augment": _on_cells("augment", key=LABEL, n=3, seed=0, generate_kwargs={"n_steps": 3, **QUIET}),
    "interpolate": lambda model, data: model.interpolate(
        {LABEL: model.condition_spec.categorical[LABEL][0]},
        {LABEL: model.condition_spec.categorical[LABEL][1]},
        n=3,
        n_cells=2,
        n_steps=3,
        **SEED,
    ),
    "edit": lambda model, data: model.edit(
        model.adata if data is None else data,
        {LABEL: model.condition_spec.categorical[LABEL][0]},
        strength=0.3,
        n_steps=3,
        copy=True,
        **SEED,
    ),
    "edit_curve": lambda model, data: model.edit_curve(
        data,
        {LABEL: model.condition_spec.categorical[LABEL][0]},
        strengths=(0.2, 0.8),
        n_cells=20,
        **SEED,
    ),
    "enhance": _on_given("enhance", n_samples=2, n_steps=2, copy=True, **SEED),
    "denoising_loss": _on_cells("denoising_loss", n_levels=2, **FEW, **SEED),
    "log_likelihood": _on_cells("log_likelihood", n_probes=1, tolerance=0.1, **FEW, **SEED),
    "classify": _on_cells("classify", key=LABEL, n_samples=1, n_levels=2, **FEW, **SEED),
    "ood_score": _on_cells("ood_score", **FEW, **SEED),
}
_REGISTRY: dict[str, Call] = {
    "get_state_registry": _of_model("get_state_registry", "labels"),
    "get_setup_arg": _of_model("get_setup_arg", "batch_key"),
    "get_var_names": _of_model("get_var_names"),
    "data_registry": _of_model("data_registry", "batch"),
    "get_anndata_manager": lambda model, data: model.get_anndata_manager(model.adata),
    "get_from_registry": lambda model, data: model.get_from_registry(model.adata, "batch"),
    "view_anndata_setup": _of_model("view_anndata_setup"),
    "view_registry": _of_model("view_registry"),
    "view_setup_method_args": _of_model("view_setup_method_args"),
}
_LATENT: dict[str, Call] = {
    "get_latent_representation": _on_cells("get_latent_representation"),
    "get_elbo": _on_cells("get_elbo", **FEW),
    "get_reconstruction_error": _on_cells("get_reconstruction_error", **FEW),
    "get_marginal_ll": _on_cells("get_marginal_ll", n_mc_samples=4, **FEW),
    "get_aggregated_posterior": _on_cells("get_aggregated_posterior", **FEW),
    "differential_abundance": _on_cells("differential_abundance", sample_key=LABEL),
}
_EXPRESSION: dict[str, Call] = {
    "get_normalized_expression": _on_cells("get_normalized_expression", **FEW),
    "get_importance_weights": _importance_weights,
    "get_likelihood_parameters": _on_cells("get_likelihood_parameters", **FEW),
    "get_latent_library_size": _on_cells("get_latent_library_size", give_mean=False, **FEW),
    "get_feature_correlation_matrix": _on_cells(
        "get_feature_correlation_matrix", n_samples=2, **FEW
    ),
    "posterior_predictive_sample": _on_cells("posterior_predictive_sample", n_samples=2, **FEW),
    "differential_expression": _differential("differential_expression"),
}
_PEAKS: dict[str, Call] = {
    "get_normalized_accessibility": _on_cells("get_normalized_accessibility", **FEW),
    "get_library_size_factors": _on_cells("get_library_size_factors", **FEW),
    "get_region_factors": _of_model("get_region_factors"),
    "differential_accessibility": _differential("differential_accessibility"),
}
_ALL = {**_VERBS, **_REGISTRY, **_LATENT}

METHODS: dict[str, dict[str, Call]] = {
    "SCGM": {**_ALL, **_EXPRESSION},
}
