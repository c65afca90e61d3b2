"""What every part of a model may rely on, with its types."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd

from scgm_scvi.model.requests._spec import ConditionSpec

from ._anndata_cells import AnnDataCells

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _SCVIModel
else:
    _SCVIModel = object

__all__ = ["Fitted", "ModelBase"]


class Fitted(TypedDict, total=False):
    """What a model has learnt besides its weights, in builtins, arrays and tables.

    Attributes
    ----------
    history
        Metrics of stage two by epoch.
    fingerprint
        Of the weights that stage two was trained on.
    design
        Attributes of training cells: ``"tokens"``, ``"values"``, ``"numeric"``, ``"replayed"``.
    met
        Categorical attribute to the tokens that stage two was trained on.
    kept_epoch
        Of stage one, the epoch whose weights were kept.
    edit_strengths
        By what was asked for: the strength that an edit curve chose.
    classifier
        ``"fingerprint"`` of the weights, and ``"weights"`` by condition, samples and levels.
    outlier_reference
        Generated cells, and the axes along which others are compared with them.
    responses
        To perturbations: a ``ResponseModel`` as a dictionary, and how well it predicts those that
        it is not told of, ``"left_out"``.
    groups
        Means of groups of training cells: ``GroupMeans`` as a dictionary.
    reference_responses, reference_groups
        What the model that it was made of had learnt of them.
    """

    history: dict[str, pd.DataFrame]
    fingerprint: str | None
    design: dict[str, np.ndarray]
    met: dict[str, np.ndarray]
    kept_epoch: int | None
    edit_strengths: dict[str, float]
    classifier: dict[str, Any]
    outlier_reference: dict[str, Any]
    responses: dict[str, Any]
    groups: dict[str, np.ndarray]
    reference_responses: dict[str, Any]
    reference_groups: dict[str, np.ndarray]


class ModelBase(_SCVIModel):
    """Names that every feature of a model may read; each mixin inherits them.

    Attributes
    ----------
    module
        Encoder, decoder and denoiser.
    registry_
        What the model was set up with.
    var_
        Table of the features.
    modality_var_
        The same by modality, where cells come in a MuData.
    fine_tuning_
        How the model was made of another, and what it is to train; ``None``: it was not.
    latent_key
        Where latents are written.
    """

    module: Any
    registry_: Mapping[str, Any]
    var_: pd.DataFrame
    modality_var_: dict[str, pd.DataFrame] | None = None
    fine_tuning_: dict[str, Any] | None = None
    scgm_version_: str
    _adata: Any
    latent_key: str = "X_scgm"
    _cells_cls: type[AnnDataCells] = AnnDataCells

    @property
    def fitted_(self) -> Fitted:
        """What was learnt besides the weights; saved with the model."""
        return self.__dict__.setdefault("_fitted", {})

    @fitted_.setter
    def fitted_(self, fitted: Fitted) -> None:
        self.__dict__["_fitted"] = deepcopy(fitted)  # its own, not a reference's

    @property
    def condition_spec(self) -> ConditionSpec:
        """Attributes the model can be conditioned on, with their categories."""
        spec, met = ConditionSpec.from_registry(self.registry_), self.fitted_.get("met")
        return spec if met is None else replace(spec, met=met)

    @property
    def _cells(self) -> AnnDataCells:
        """How cells are read and handed back."""
        tables = self.__dict__.get("var_"), self.modality_var_
        return self._cells_cls(type(self), self.registry_, *tables)

    def _set_features(self, data: Any | None) -> None:
        """Remember the tables of features; without cells, their names."""
        self.var_, self.modality_var_ = self._cells.feature_tables(data)

    def _hold_features(self) -> None:
        """Bring tables of features that were loaded to what this version, and pandas here, hold."""
        self.var_, self.modality_var_ = self._cells.held_tables()

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the features that the model was trained on, in its order.

        Parameters
        ----------
        legacy_mudata_format
            Of models of a MuData: names of all modalities in one array, in place of a dict.
        """
        return self._cells.names(legacy_mudata_format)
