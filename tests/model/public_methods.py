"""Every public method of every model: how to call it with little, and what is refused.

``METHODS[class name][method name]`` is a function ``(model, data)`` that calls the method on cells
(``None``: the model's own), or on the model alone where it takes none. What a class can't do is in
``REFUSED[class name][method name]``, with the error and words of its message; it is called by
``METHODS`` all the same. What is no reader is in ``NOT_A_READER``, with why. Public names that are
not called are attributes and properties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mudata import MuData

import scgm_scvi.model as models

__all__ = ["CLASSES", "LABEL", "METHODS", "NOT_A_READER", "REFUSED", "methods_of"]

Call = Callable[[Any, Any], Any]

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
LABEL = "cell_type"
"""A condition that models and cells are to have."""

_TRAINS = "trains a model, or makes one that is to be trained"
_FILES = "writes or reads files"
_REGISTERS = "registers cells, or forgets them"
_CHANGES = "changes the model"

NOT_A_READER = {
    "train": _TRAINS,
    "train_diffusion": _TRAINS,
    "load_query_data": _TRAINS,
    "from_scvi_model": _TRAINS,
    "save": _FILES,
    "load": _FILES,
    "export": _FILES,
    "from_export": _FILES,
    "hub_model": _FILES,
    "load_registry": _FILES,
    "view_setup_args": _FILES,
    "convert_legacy_save": _FILES,
    "setup_anndata": _REGISTERS,
    "setup_mudata": _REGISTERS,
    "setup_datamodule": _REGISTERS,
    "setup_annbatch": "always refuses",
    "register_manager": _REGISTERS,
    "deregister_manager": _REGISTERS,
    "transfer_fields": _REGISTERS,
    "prepare_query_anndata": _REGISTERS,
    "prepare_query_mudata": _REGISTERS,
    "update_setup_method_args": _CHANGES,
    "to_device": _CHANGES,
    "merge_adapters": _CHANGES,
    "minify_adata": _CHANGES,
    "minify_mudata": _CHANGES,
    "shap_predict": "needs the package shap",
    "shap_adata_predict": "needs the package shap",
}

_QUIET = {"progress_bar": False}
_SEED = {"seed": 0, **_QUIET}
_FEW = {"indices": np.arange(8)}


def methods_of(cls: type) -> list[str]:
    """Public names of a class that can be called."""
    names = [name for name in dir(cls) if not name.startswith("_")]
    return [name for name in names if callable(getattr(cls, name))]


def _cells(name: str, *args: Any, **kwargs: Any) -> Call:
    """Of a method whose cells may be the model's."""
    return lambda model, data: getattr(model, name)(data, *args, **kwargs)


def _given(name: str, *args: Any, **kwargs: Any) -> Call:
    """Of a method that has to be given cells."""
    return lambda model, data: getattr(model, name)(_or_own(model, data), *args, **kwargs)


def _alone(name: str, *args: Any, **kwargs: Any) -> Call:
    """Of a method that takes no cells."""
    return lambda model, data: getattr(model, name)(*args, **kwargs)


def _or_own(model: Any, data: Any) -> Any:
    return model.adata if data is None else data


def _label(model: Any, i: int) -> dict[str, Any]:
    return {LABEL: model.condition_spec.categorical[LABEL][i]}


def _differences(name: str, **kwargs: Any) -> Call:
    """Of the first half of the cells and the second."""

    def call(model: Any, data: Any) -> Any:
        first = np.arange(_or_own(model, data).n_obs) < _or_own(model, data).n_obs // 2
        few = {"n_samples_overall": 20, "silent": True}
        return getattr(model, name)(data, idx1=first, idx2=~first, **few, **kwargs)

    return call


def _half_of(model: Any, data: Any) -> Any:
    """Cells without half of the features."""
    cells = _or_own(model, data)
    return cells[:8, : cells.n_vars // 2].copy()


def _one_modality(model: Any, data: Any) -> Any:
    cells = _or_own(model, data)
    return next(iter(cells.mod.values())).copy() if isinstance(cells, MuData) else cells


def _weighted(model: Any, data: Any) -> Any:
    """The weights are asked for by another getter, which computes what they need."""
    few = {"n_mc_samples": 4, "n_mc_samples_per_pass": 2, "n_samples_overall": 16}
    return model.get_normalized_expression(
        data, weights="importance", return_numpy=True, **few, **_FEW
    )


_VERBS: dict[str, Call] = {
    "generate": _alone("generate", 3, n_steps=3, **_SEED),
    "augment": _cells("augment", key=LABEL, n_per_category=3, n_steps=3, **_SEED),
    "interpolate": lambda model, data: model.interpolate(
        _label(model, 0), _label(model, 1), n_points=3, n_cells=2, n_steps=3, **_SEED
    ),
    "edit": lambda model, data: model.edit(
        _or_own(model, data), _label(model, 0), strength=0.3, n_steps=3, copy=True, **_SEED
    ),
    "edit_curve": lambda model, data: model.edit_curve(
        data, _label(model, 0), strengths=(0.2, 0.8), n_cells=20, **_SEED
    ),
    "enhance": _given("enhance", n_samples=2, n_fit_steps=2, copy=True, **_SEED),
    "impute": lambda model, data: model.impute(
        _half_of(model, data), interval=0.5, n_samples=4, n_fit_steps=2, **_SEED
    ),
    "denoising_loss": _cells("denoising_loss", n_levels=2, **_FEW, **_SEED),
    "log_likelihood": _cells("log_likelihood", n_probes=1, tolerance=0.1, **_FEW, **_SEED),
    "classify": _cells("classify", key=LABEL, n_samples=1, n_levels=2, **_FEW, **_SEED),
    "ood_score": _cells("ood_score", **_FEW, **_SEED),
}
_REGISTRY: dict[str, Call] = {
    "get_state_registry": _alone("get_state_registry", "labels"),
    "get_setup_arg": _alone("get_setup_arg", "batch_key"),
    "get_var_names": _alone("get_var_names"),
    "data_registry": _alone("data_registry", "batch"),
    "get_anndata_manager": lambda model, data: model.get_anndata_manager(model.adata),
    "get_from_registry": lambda model, data: model.get_from_registry(model.adata, "batch"),
    "view_anndata_setup": _alone("view_anndata_setup"),
    "view_registry": _alone("view_registry"),
    "view_setup_method_args": _alone("view_setup_method_args"),
}
_LATENT: dict[str, Call] = {
    "get_latent_representation": _cells("get_latent_representation"),
    "get_elbo": _cells("get_elbo", **_FEW),
    "get_reconstruction_error": _cells("get_reconstruction_error", **_FEW),
    "get_marginal_ll": _cells("get_marginal_ll", n_mc_samples=4, **_FEW),
    "get_aggregated_posterior": _cells("get_aggregated_posterior", **_FEW),
    "differential_abundance": _cells("differential_abundance", sample_key=LABEL),
}
_EXPRESSION: dict[str, Call] = {
    "get_normalized_expression": _cells("get_normalized_expression", **_FEW),
    "get_importance_weights": _weighted,
    "get_likelihood_parameters": _cells("get_likelihood_parameters", **_FEW),
    "get_latent_library_size": _cells("get_latent_library_size", give_mean=False, **_FEW),
    "get_feature_correlation_matrix": _cells("get_feature_correlation_matrix", n_samples=2, **_FEW),
    "posterior_predictive_sample": _cells("posterior_predictive_sample", n_samples=2, **_FEW),
    "differential_expression": _differences("differential_expression"),
}
_PEAKS: dict[str, Call] = {
    "get_normalized_accessibility": _cells("get_normalized_accessibility", **_FEW),
    "get_library_size_factors": _cells("get_library_size_factors", **_FEW),
    "get_region_factors": _alone("get_region_factors"),
    "differential_accessibility": _differences("differential_accessibility"),
}
_FURTHER: dict[str, Call] = {
    "diagnose": _alone("diagnose"),
    "translate": lambda model, data: model.translate(
        _one_modality(model, data), to="atac", **_SEED
    ),
    "predict": _cells("predict", **_FEW),
    "get_ranked_features": _alone("get_ranked_features"),
    "get_batch_representation": _cells("get_batch_representation", **_FEW),
    "get_protein_foreground_probability": _cells("get_protein_foreground_probability", **_FEW),
}
_EVERY = {**_VERBS, **_REGISTRY, **_LATENT, **_EXPRESSION, **_PEAKS, **_FURTHER}

METHODS: dict[str, dict[str, Call]] = {
    name: {m: _EVERY[m] for m in methods_of(getattr(models, name)) if m in _EVERY}
    for name in CLASSES
}

for _name in ("SCGM", "ATACSCGM", "MultiSCGM"):  # scvi-tools has a predict too, of labels
    METHODS[_name]["predict"] = _given("predict", ["A"], **_QUIET)

_NO_DISPERSION = (ValueError, "reads dispersions, which the model's likelihood")
_OPEN_PEAKS = (NotImplementedError, "is one of which peaks are open")
_OF_PEAKS = {
    "differential_expression": (NotImplementedError, "differential_accessibility"),
    "get_library_size_factors": (NotImplementedError, "get_latent_library_size"),
    "get_likelihood_parameters": _NO_DISPERSION,
    "get_feature_correlation_matrix": _NO_DISPERSION,
}
_OF_BOTH = {
    "impute": (NotImplementedError, "translate"),
    "get_protein_foreground_probability": (NotImplementedError, "without proteins"),
}
_NO_PERTURBATIONS = {"predict": (ValueError, "knows of no perturbations")}
_NO_EMBEDDING = {"get_batch_representation": (KeyError, "Embedding batch not found")}

REFUSED: dict[str, dict[str, tuple[type[Exception], str]]] = {
    "SCGM": {**_NO_EMBEDDING, **_NO_PERTURBATIONS},
    "ATACSCGM": {**_OF_PEAKS, **_NO_PERTURBATIONS},
    "MultiSCGM": {
        **_OF_BOTH,
        **_NO_PERTURBATIONS,
        "get_region_factors": (RuntimeError, "has no region factors"),
    },
    "DiffusionSCVI": _NO_EMBEDDING,
    "DiffusionSCANVI": {},
    "DiffusionPEAKVI": dict.fromkeys(
        [
            "get_importance_weights",
            "get_likelihood_parameters",
            "get_feature_correlation_matrix",
            "posterior_predictive_sample",
            "get_latent_library_size",
            "get_marginal_ll",
        ],
        _OPEN_PEAKS,
    ),
    "DiffusionPOISSONVI": _OF_PEAKS,
    "DiffusionMULTIVI": {**_OF_BOTH, "get_marginal_ll": (NotImplementedError, "get_elbo")},
}
"""Of models of counts of fragments with a Poisson likelihood, where the class leaves a choice."""
