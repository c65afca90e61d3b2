"""The one door by which cells come to a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scvi.data._utils import _get_adata_minify_type

from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model.requests._spec import ConditionSpec

from ._matrices import Matrix
from ._nuisances import completed_nuisances, hide_nuisances
from ._own_cells import OwnCellsMixin
from ._reading import Reading
from ._rows import chosen_rows

__all__ = ["RegistrationMixin"]


class RegistrationMixin(OwnCellsMixin):
    """Let a model read cells: its own, or others through a stand-in registered as they are.

    scvi's getters come in by :meth:`_validate_anndata`, the verbs of this package by
    :meth:`_registered`. Features are found by name, values are checked, and nothing is written to
    what a user passes.

    Comes before an scvi model among the bases.
    """

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
        return self._welcome(self._stand_in_for(adata, Reading()))

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
        return self._welcome(self._stand_in_for(self.adata, Reading()))

    def _welcome(self, guest: Any) -> Any:
        """Keep one stand-in registered, and forget the one before."""
        if self._guest is not None:
            self.deregister_manager(self._guest)
        self._guest = guest
        return guest

    @contextmanager
    def _registered(self, adata: Any, reading: Reading = Reading()) -> Iterator[Any]:
        """``adata`` registered as the model's own cells are, and forgotten afterwards.

        A stand-in that shares its matrix: nothing is written to ``adata``, which may be a view and
        may have more features than the model, in any order. ``None`` is the model's own data.
        """
        is_own = adata is None or adata is self.adata
        if is_own:
            self._require_unchanged()
            adata = self.adata
        if not reading.afresh and (
            (self.minified_data_type is not None or self._is_current())
            if is_own
            else self._is_registered(adata)
        ):
            yield adata
            return
        stand_in = self._stand_in_for(adata, reading)
        try:
            yield stand_in
        finally:
            self.deregister_manager(stand_in)

    def _minibatches(
        self,
        adata: Any,
        reading: Reading = Reading(),
        *,
        indices: Any = None,
        batch_size: int | None = None,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches of cells, in their order; of the usual size for encoding by default."""
        size = encoding_batch_size(len(self.var_)) if batch_size is None else batch_size
        with self._registered(adata, reading) as cells:
            yield from self._loaded(cells, reading, indices, size)

    def _loaded(
        self, cells: Any, reading: Reading, indices: Any, batch_size: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches of registered cells, as they were read."""
        loader = self._make_data_loader(adata=cells, indices=indices, batch_size=batch_size)
        return map(self._with_nuisances, loader) if reading.any_nuisance else iter(loader)

    def _stand_in_for(self, adata: Any, reading: Reading) -> Any:
        """A stand-in for cells, registered with the model."""
        self._require_counts_of("read others by")
        cells = self._cells
        spec, setup = ConditionSpec.from_registry(self.registry_), cells.setup
        matrices = cells.matrices(adata)
        obs = cells.obs(adata)
        obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]]
        labels = setup.get("labels_key")
        absent = [labels] if labels and reading.may_lack_labels else []
        absent = [name for name in absent if name not in obs]  # labels are what many cells lack
        open_ = [name for name in spec.steered if name in reading.ignored]
        obs = obs.assign(**dict.fromkeys([*absent, *open_], np.nan))
        size_factor = setup.get("size_factor_key")
        obs, hidden = hide_nuisances(obs, spec, reading.ignored, reading.any_nuisance, size_factor)
        with warnings.catch_warnings():  # a few cells are enough: nothing is trained
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            stand_in = cells.stand_in(matrices, obs)
        manager = self._get_most_recent_anndata_manager(stand_in, required=True)
        self._register_manager_for_instance(manager)
        hidden.mark(manager)
        return stand_in

    def _counts_of(self, registered: Any) -> Matrix:
        """What the model reads of registered cells: cells by all its features."""
        return self._cells.counts(self.get_anndata_manager(registered, required=True))

    def _absent(self, adata: Any) -> list[str]:
        """Conditions that cells have no column for."""
        if adata is None:
            return []
        obs = self._cells.obs(adata)
        steered = ConditionSpec.from_registry(self.registry_).steered
        return [name for name in steered if name not in obs]

    def _may_lack_nuisances(self) -> bool:
        """Whether cells can be encoded whatever their batch and covariates are."""
        return not self.module.encode_covariates

    def _with_nuisances(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """A minibatch whose unknown nuisances are those that explain each cell's counts best."""
        n_conditions = len(ConditionSpec.from_registry(self.registry_).categorical)
        return completed_nuisances(self.module, tensors, self.fitted_["design"], n_conditions)

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
        with self._registered(adata, Reading(self._unseen_by_encoder())) as cells:
            return super().get_latent_representation(cells, *args, **kwargs)

    def _unseen_by_encoder(self) -> list[str]:
        """Attributes that a cell's latent does not depend on."""
        spec = ConditionSpec.from_registry(self.registry_)
        size_factor = self.registry_["setup_args"].get("size_factor_key")
        further = [size_factor] if size_factor else []
        if self._may_lack_nuisances():
            further += [*spec.nuisances, *spec.numeric_covariates]
        return [*spec.steered, *further]
