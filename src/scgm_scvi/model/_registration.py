"""The one door by which cells come to a model, and the check that its own are what they were."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data._utils import _get_adata_minify_type

from ._changes import changed_matrix, derived, is_current, register_again, same_counts
from ._conditions import ConditionSpec
from ._fields import MatrixField
from ._matrices import as_matrix
from ._nuisances import completed_nuisances, hide_nuisances
from ._rows import chosen_rows
from ._validation import match_features, validate_adata

__all__ = ["RegistrationMixin"]


class RegistrationMixin:
    """Let a model read cells: its own, or others through a stand-in registered as they are.

    scvi's getters come in by :meth:`_validate_anndata`, the verbs of this package by
    :meth:`_registered`. Features are found by name, values are checked, and nothing is written to
    what a user passes. The model's own cells are read as they are now: other counts than were
    registered are refused, and attributes are what their columns say.

    Comes before an scvi model among the bases.
    """

    _guest: Any = None  # what scvi's getters read last, if not the model's own

    # the model's own cells

    @property
    def adata(self) -> Any:
        """The cells that the model was made for, or ``None``."""
        return self._adata

    @adata.setter
    def adata(self, adata: Any) -> None:
        if adata is None:
            raise ValueError("adata is None. A model without data: load(path, adata=False).")
        before = self.registry_
        if not self._is_registered(adata):
            self._check_query(adata)
            setup = getattr(type(self), self.registry_.get("setup_method_name", "setup_anndata"))
            setup(adata, source_registry=self.registry_, **self.registry_["setup_args"])
            self._register_manager_for_instance(
                self._get_most_recent_anndata_manager(adata, required=True)
            )
        self._adata = adata
        self._adata_manager = self.get_anndata_manager(adata, required=True)
        self._guest = None
        managers = self._per_instance_manager_store[self.id]
        managers.clear()  # cells that were the model's own come in as others do
        self._register_manager_for_instance(self._adata_manager)
        self.registry_ = self._adata_manager.registry
        self.summary_stats = self._adata_manager.summary_stats
        self._forget_split_of_others(before)

    def _forget_split_of_others(self, registry: Mapping[str, Any]) -> bool:
        """Forget which cells trained, which goes by position, if ``registry`` is of other cells.

        Returns
        -------
        Whether it is.
        """
        is_other = self.adata is not None and not same_counts(registry, self.registry_)
        if is_other:
            self.train_indices_ = self.validation_indices_ = self.test_indices_ = None
        return is_other

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Names of the features that the model was trained on, in its order.

        Parameters
        ----------
        legacy_mudata_format
            As in scvi-tools; of models of several modalities.
        """
        state = self.registry_["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        return np.asarray(state[MatrixField.COLUMN_NAMES_KEY]).astype(str)

    def _update_adata_and_manager_post_minification(
        self, minified_adata: Any, minified_data_type: str
    ) -> None:
        """Let scvi put minified cells, which have no counts to check, in place of the model's own."""
        self._register_manager_for_instance(self.adata_manager.transfer_fields(minified_adata))
        super()._update_adata_and_manager_post_minification(minified_adata, minified_data_type)

    def _require_unchanged(self) -> None:
        """Raise ``ValueError`` if the counts of the model's cells are not those registered."""
        if self.adata is None:
            raise ValueError("The model was loaded without data, so adata has to be given.")
        if self.minified_data_type is not None:
            return
        what = changed_matrix(self.adata_manager)
        if what is not None:
            raise ValueError(
                f"The model's own cells were changed since they were set up: {what}. The model reads "
                "the values it was set up with. Put them back, or pass cells that have them. Where "
                f"counts are to be normalised in place, keep them first: {self._way_to_keep_counts()}"
            )

    def _way_to_keep_counts(self) -> str:
        name = type(self).__name__
        return f"adata.layers['counts'] = adata.X.copy(), and {name}.setup_anndata(adata, layer='counts')."

    def _is_current(self) -> bool:
        """Whether what is registered of the model's cells is what their columns say now."""
        return is_current(self.adata_manager, self._obs(self.adata))

    def _require_current(self) -> None:
        """Bring what training reads of the model's cells to what their columns say now.

        Raises
        ------
        KeyError, ValueError
            If counts were changed, a column is gone, or it says what the model does not know.
        """
        self._require_unchanged()
        if not self._is_current():
            self._require_columns()
            register_again(self.adata_manager, self._obs(self.adata))

    def _require_columns(self) -> None:
        """Raise as set-up does of what the columns of the model's cells say now."""
        if self.minified_data_type is None and not self._is_current():
            with self._replaced(None):  # what is refused of other cells is refused of these
                pass
            derived(self.adata_manager, self._obs(self.adata))

    # other cells

    def _validate_anndata(self, adata: Any = None, copy_if_view: bool = True) -> Any:
        """Cells as scvi's getters read them: the model's own, or a stand-in that is registered.

        A stand-in stays registered until the next one comes.
        """
        if adata is not None and self._is_registered(adata):
            return self._own_cells() if adata is self.adata else adata
        if adata is None or adata is self.adata:
            return self._own_cells()
        if self.minified_data_type is not None and _get_adata_minify_type(adata) is not None:
            return super()._validate_anndata(adata, copy_if_view)
        return self._welcome(self._stand_in_for(adata))

    def _make_data_loader(self, adata: Any, indices: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As scvi's, of rows that there are."""
        return super()._make_data_loader(
            adata, chosen_rows(indices, adata.obs_names), *args, **kwargs
        )

    def _own_cells(self) -> Any:
        """The model's own cells as scvi's getters read them."""
        self._require_unchanged()
        if self.minified_data_type is not None or self._is_current():
            return self.adata
        return self._welcome(self._stand_in_for(self.adata))

    def _welcome(self, guest: Any) -> Any:
        """Keep one stand-in registered, and forget the one before."""
        if self._guest is not None:
            self.deregister_manager(self._guest)
        self._guest = guest
        return guest

    def _is_registered(self, adata: Any) -> bool:
        """Whether this very object is registered with the model."""
        managers = self._per_instance_manager_store.get(self.id, {})
        return any(manager.adata is adata for manager in managers.values())

    @contextmanager
    def _registered(
        self, adata: Any, ignored: Sequence[str] = (), *, any_nuisance: bool = False
    ) -> Iterator[Any]:
        """``adata`` registered as the model's own cells are, and forgotten afterwards.

        A stand-in that shares its matrix: nothing is written to ``adata``, which may be a view and
        may have more features than the model, in any order. ``None`` is the model's own data.

        Parameters
        ----------
        ignored
            Attributes that are not looked at, whatever ``adata`` has in their place: conditions
            are unspecified, as they are where it has no column for them; nuisances are any.
        any_nuisance
            Whether batch and covariates may be missing, or unknown to the model. They are -1 then,
            to be completed by :meth:`_with_nuisances`.
        """
        if adata is None or adata is self.adata:
            self._require_unchanged()
            if self.minified_data_type is not None or self._is_current():
                yield self.adata
                return
        elif self._is_registered(adata):
            yield adata
            return
        with self._replaced(adata, ignored, any_nuisance) as stand_in:
            yield stand_in

    @contextmanager
    def _replaced(
        self, adata: Any, ignored: Sequence[str] = (), any_nuisance: bool = False
    ) -> Iterator[Any]:
        """As :meth:`_registered`, by a stand-in in any case, which may be written to."""
        if adata is None or adata is self.adata:
            self._require_unchanged()
            adata = self.adata
        stand_in = self._stand_in_for(adata, ignored, any_nuisance)
        try:
            yield stand_in
        finally:
            self.deregister_manager(stand_in)

    def _stand_in_for(
        self, adata: Any, ignored: Sequence[str] = (), any_nuisance: bool = False
    ) -> Any:
        """A stand-in for cells, registered with the model."""
        if self.minified_data_type is not None:
            raise ValueError(
                "The model's data are minified, so it can't encode counts. Load it with the data "
                "that it was trained on, or without any: SCGM.load(path, adata=False)."
            )
        spec = ConditionSpec.from_registry(self.registry_)
        matrices = self._matrices_of(adata)
        obs = self._obs(adata)
        obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]]
        absent = [name for name in spec.steered if name not in obs]
        open_ = [name for name in spec.steered if name in ignored]
        obs = obs.assign(**dict.fromkeys([*absent, *open_], np.nan))
        size_factor = self.registry_["setup_args"].get("size_factor_key")
        obs, hidden = hide_nuisances(obs, spec, ignored, any_nuisance, size_factor)
        with warnings.catch_warnings():  # a few cells are enough: nothing is trained
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            stand_in = self._set_up_stand_in(matrices, obs)
        manager = self._get_most_recent_anndata_manager(stand_in, required=True)
        self._register_manager_for_instance(manager)
        hidden.mark(manager)
        return stand_in

    def _may_lack_nuisances(self) -> bool:
        """Whether cells can be encoded whatever their batch and covariates are."""
        return not self.module.encode_covariates

    def _with_nuisances(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """A minibatch whose unknown nuisances are those that explain each cell's counts best."""
        n_conditions = len(ConditionSpec.from_registry(self.registry_).categorical)
        return completed_nuisances(self.module, tensors, self.diffusion_design_, n_conditions)

    def get_latent_representation(self, adata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Encode cells, as scvi-tools does, whatever attributes they have that the encoder sees not.

        Parameters
        ----------
        adata
            Cells, registered like the model's own if they are not yet; not changed. They need no
            labels or conditions, and, unless the encoder sees them, no batch or covariates. Default:
            the model's data.
        *args, **kwargs
            Of scvi-tools' model: ``indices``, ``give_mean``, ``batch_size``, ``return_dist``,
            ``dataloader``.

        Returns
        -------
        float32 array ``(n_cells, n_latent)``; with ``return_dist``, means and variances.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError, ValueError
            If ``adata`` lacks features or counts, or what the encoder sees.

        Examples
        --------
        >>> adata.obsm["X_scgm"] = model.get_latent_representation(adata)  # doctest: +SKIP
        """
        if kwargs.get("dataloader") is not None:
            return super().get_latent_representation(adata, *args, **kwargs)
        with self._registered(adata, self._unseen_by_encoder()) as cells:
            return super().get_latent_representation(cells, *args, **kwargs)

    def _unseen_by_encoder(self) -> list[str]:
        """Attributes that a cell's latent does not depend on."""
        spec = ConditionSpec.from_registry(self.registry_)
        size_factor = self.registry_["setup_args"].get("size_factor_key")
        further = [size_factor] if size_factor else []
        if self._may_lack_nuisances():
            further += [*spec.nuisances, *spec.numeric_covariates]
        return [*spec.steered, *further]

    # what a model of cells in another container overrides

    def _matrices_of(self, adata: Any) -> Any:
        """The counts that the model reads of other cells, checked: what a stand-in is made of."""
        validate_adata(adata, may_be_view=True)
        adata = match_features(adata, pd.Index(self.get_var_names()))
        layer = self.registry_["setup_args"].get("layer")
        x = adata.X if layer is None else adata.layers.get(layer)
        if x is None:  # set-up says so, in its words
            return None, adata.var[[]].copy()
        x = as_matrix(x, "adata.X" if layer is None else f"adata.layers[{layer!r}]")
        return (x.tocsr() if hasattr(x, "tocsr") else x), adata.var[[]].copy()

    def _set_up_stand_in(self, matrices: Any, obs: pd.DataFrame) -> Any:
        """An AnnData of these counts and attributes, set up as the model's own data were."""
        (x, var), setup = matrices, self.registry_["setup_args"]
        layer = setup.get("layer")
        stand_in = AnnData(
            x if layer is None else None,
            obs=obs,
            var=var,
            layers=None if layer is None or x is None else {layer: x},
        )
        type(self).setup_anndata(stand_in, source_registry=self.registry_, **setup)
        return stand_in
