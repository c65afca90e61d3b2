"""The cells that a model was made for, looked at again whenever they are read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from ._base import ModelBase
from ._changes import changed_matrix, derived, is_current, never_had, register_again, same_counts
from ._reading import Reading

__all__ = ["OwnCellsMixin"]


class OwnCellsMixin(ModelBase):
    """Read the model's own cells as they are now.

    Other counts than were registered are refused, and attributes are what their columns say. A part
    of ``RegistrationMixin``.
    """

    _guest: Any = None  # what scvi's getters read last, if not the model's own

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
            self._cells.check_query(adata)
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

    def _update_adata_and_manager_post_minification(
        self, minified_adata: Any, minified_data_type: str
    ) -> None:
        """Let scvi put minified cells, which have no counts to check, in place of the model's own."""
        self._register_manager_for_instance(self.adata_manager.transfer_fields(minified_adata))
        super()._update_adata_and_manager_post_minification(minified_adata, minified_data_type)

    def _registered(self, adata: Any, reading: Reading = Reading()) -> AbstractContextManager[Any]:
        """Cells registered as the model's own are; see ``RegistrationMixin``."""
        raise NotImplementedError

    def _is_registered(self, adata: Any) -> bool:
        """Whether this very object is registered with the model."""
        managers = self._per_instance_manager_store.get(self.id, {})
        return any(manager.adata is adata for manager in managers.values())

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
                f"counts are to be normalised in place, keep them first: {self._cells.way_to_keep_counts()}"
            )

    def _require_counts_of(self, what: str) -> None:
        """Raise ``ValueError`` where a verb needs counts, and the model's data are minified."""
        if self.minified_data_type is not None:
            raise ValueError(
                f"The model's data are minified, so there are no counts to {what}. Load it with the "
                "data that it was trained on, or without any, SCGM.load(path, adata=False), and "
                "pass cells with counts."
            )

    def _is_current(self) -> bool:
        """Whether what is registered of the model's cells is what their columns say now."""
        return is_current(self.adata_manager, self._cells.obs(self.adata))

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
            register_again(self.adata_manager, self._cells.obs(self.adata))

    def _require_columns(self) -> None:
        """Raise as set-up does of what the columns of the model's cells say now."""
        if self.minified_data_type is None and not self._is_current():
            absent = never_had(self.adata_manager, self._cells.obs(self.adata))
            with self._registered(None, Reading(absent, afresh=True)):
                pass  # what is refused of others is refused of these
            derived(self.adata_manager, self._cells.obs(self.adata))
