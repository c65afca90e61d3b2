"""What scvi-tools asks of a model's registry, and that nobody's question changes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.pretty  # noqa: F401  scvi-tools prints by it, and does not import it
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from scgm_scvi._errors import listed, nearest
from scgm_scvi.module import SCGM_KEYS

from ._base import ModelBase
from ._fields import labels_state

__all__ = ["RegistryMixin", "completed_registry"]

_FIELDS = "field_registries"


class RegistryMixin(ModelBase):
    """Keep what scvi-tools reads of a registry as it is, and show it.

    scvi-tools keeps the fields of a registry in a dictionary that makes an entry of whatever it is
    asked for; an empty one, with which a model can be neither saved nor used.
    """

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        registry = adata_manager.registry
        registry[_FIELDS] = dict(registry[_FIELDS])
        super()._register_manager_for_instance(adata_manager)

    def get_state_registry(self, registry_key: str) -> Any:
        """What was learnt of the data in a field of the registry, such as its categories.

        Parameters
        ----------
        registry_key
            Of the field: ``"X"``, ``"batch"``, ``"labels"``, ...

        Raises
        ------
        KeyError
            If the model has no such field.
        """
        known = self.registry_[_FIELDS]
        if registry_key not in known:
            raise KeyError(
                f"The model's registry has no field {registry_key!r}.{nearest(registry_key, known)} "
                f"Fields: {listed(known)}."
            )
        return super().get_state_registry(registry_key)

    def _check_if_trained(self, warn: bool = True, message: str | None = None) -> None:
        if message is not None:  # by scvi-tools' models that start from another
            raise TypeError(
                f"A {type(self).__name__} can't be what another model of scvi-tools starts from: "
                "that takes the weights of scvi-tools' own models. Train scvi.model.SCVI on these "
                "cells, and start from it; a diffusion prior can be given to the result by "
                "SCGM.from_scvi_model."
            )
        super()._check_if_trained(warn)

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what the model was set up with.

        Parameters
        ----------
        hide_state_registries
            Leave out what each field holds.

        Raises
        ------
        ValueError
            If the model was loaded without data.
        """
        self.view_anndata_setup(hide_state_registries=hide_state_registries)

    def view_anndata_setup(
        self, adata: Any | None = None, hide_state_registries: bool = False
    ) -> None:
        """Print how an AnnData or MuData was set up.

        Parameters
        ----------
        adata
            Registered cells; default: the model's data.
        hide_state_registries
            Leave out what each field holds.

        Raises
        ------
        ValueError
            If the cells are not set up with the model, or it was loaded without data.
        """
        if adata is None and self.adata is None:
            raise ValueError(
                "The model was loaded without data, so there is no set-up of data to show. "
                "model.registry is the whole of what it remembers."
            )
        super().view_anndata_setup(adata, hide_state_registries)

    def update_setup_method_args(self, setup_method_args: Mapping[str, Any]) -> None:
        """Change arguments that the data were set up with, as the registry has them.

        Parameters
        ----------
        setup_method_args
            Argument to its new value.
        """
        self.registry_["setup_args"].update(setup_method_args)


def completed_registry(registry: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A registry with the labels that scvi-tools' own tools ask for, whoever wrote it.

    Conditions hold the labels of a model; before they did so, and in a data module, scvi-tools'
    field of labels is missing, or is another's.
    """
    if registry is None:
        return None
    fields = dict(registry[_FIELDS])
    conditions = fields.get(SCGM_KEYS.CONDITIONS_KEY)
    if conditions is not None and not fields.get(REGISTRY_KEYS.LABELS_KEY):
        setup = registry["setup_args"]
        key = setup.get("labels_key")
        known = conditions["state_registry"].get("mappings", {}).get(key, np.array([0]))
        state = labels_state(key, known, setup.get("unlabeled_category"))
        fields[REGISTRY_KEYS.LABELS_KEY] = {
            "data_registry": {"attr_name": "obs", "attr_key": f"_scvi_{REGISTRY_KEYS.LABELS_KEY}"},
            "state_registry": state,
            "summary_stats": {f"n_{REGISTRY_KEYS.LABELS_KEY}": len(state["categorical_mapping"])},
        }
    return {**registry, _FIELDS: fields}
