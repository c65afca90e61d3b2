"""Pickle and copy a model together with its cells."""

from __future__ import annotations

import warnings
from typing import Any
from uuid import uuid4

from mudata import MuData
from scvi.data import AnnDataManager

from scgm_scvi._mudata import PicklableMuData, columns_stay
from scgm_scvi.model.data._changes import same_counts
from scgm_scvi.model.data._setup import require_kinds
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

__all__ = ["PicklingMixin"]

_UUID = "_scvi_uuid"
_LEFT_OUT = ("trainer", "_adata_manager", "_guest")


class PicklingMixin(LatentDiffusionMixin):
    """What ``pickle``, ``joblib`` and ``copy.deepcopy`` do with a model.

    A pickled model has its cells with it, and what it learnt; not the trainer, which holds data
    loaders and the optimiser, and is made anew by the next training. Managers of scvi-tools are
    kept by class in each process, so the cells are registered again, as in loading.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in _LEFT_OUT}
        if isinstance(self._adata, MuData):
            state["_adata"] = PicklableMuData(self._adata)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        cells = state["_adata"]
        if isinstance(cells, PicklableMuData):
            cells = cells.mdata
        self.__dict__.update(state, _adata=None, _adata_manager=None)
        self.id = str(uuid4())  # its managers are stored by it
        if cells is not None:
            self._take_cells(cells)

    def _take_cells(self, cells: Any) -> None:
        """Register the cells as those of the model, as they were before."""
        kind, registry = type(self), self.registry_
        known = kind._setup_adata_manager_store.get(cells.uns.get(_UUID))
        if known is not None and known.adata is not cells:
            del cells.uns[_UUID]  # a copy's own, or it would be taken for what it was copied from
        require_kinds(registry)
        method = getattr(kind, registry.get("setup_method_name", "setup_anndata"))
        try:
            with columns_stay(), warnings.catch_warnings():  # said when they were set up
                warnings.simplefilter("ignore", UserWarning)
                method(cells, source_registry=registry, **registry["setup_args"])
            manager = self._get_most_recent_anndata_manager(cells, required=True)
            if not same_counts(registry, manager.registry):
                raise ValueError("their counts were changed.")
        except (KeyError, TypeError, ValueError) as e:
            warnings.warn(
                f"{kind.__name__}: its cells are no longer those that it was set up with, so the "
                f"copy is without them: {e}",
                UserWarning,
                stacklevel=4,
            )
            return
        self._adata = cells
        self._adata_manager = manager
        self._register_manager_for_instance(manager)
        self.registry_ = self._adata_manager.registry
        self.summary_stats = AnnDataManager._get_summary_stats_from_registry(self.registry_)
