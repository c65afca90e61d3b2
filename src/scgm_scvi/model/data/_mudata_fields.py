"""The registry fields of counts in modalities, and of attributes that lie about in a MuData."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi.data.fields import AnnDataField, BaseMuDataWrapperClass, MuDataWrapper

from ._fields import MatrixField
from ._matrices import Matrix

__all__ = ["CountsField", "GatheredField", "MuDataCountsField", "is_binary"]


class CountsField(MatrixField):
    """Counts, and what else of them is to be remembered.

    Parameters
    ----------
    registry_key, layer
        As in :class:`scvi.data.fields.LayerField`.
    widths
        Numbers of features of the modalities, if there are several.
    """

    IS_BINARY_KEY = "is_binary"
    WIDTHS_KEY = "widths"

    def __init__(
        self, registry_key: str, layer: str | None, widths: Sequence[int] | None = None
    ) -> None:
        super().__init__(registry_key, layer, is_count_data=True)
        self.widths = None if widths is None else [int(n) for n in widths]

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """As scvi does, and whether all counts are 0 or 1."""
        state = super().register_field(adata)
        state[self.IS_BINARY_KEY] = is_binary(self.get_field_data(adata))
        return state if self.widths is None else {**state, self.WIDTHS_KEY: self.widths}

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """As scvi does; what the first data were is kept, of which the others may be a few cells."""
        state = super().transfer_field(state_registry, adata_target, **kwargs)
        known = {k: state_registry[k] for k in (self.IS_BINARY_KEY,) if k in state_registry}
        return {**state, **known}


MuDataCountsField = MuDataWrapper(CountsField)


class GatheredField(BaseMuDataWrapperClass):
    """A field of ``obs`` whose columns may be in ``mdata.obs`` or in that of any modality.

    What scvi derives from them is written to one modality: mudata 0.3 can't read a file whose own
    ``obsm`` holds integers.

    Parameters
    ----------
    field
        Field of an AnnData.
    gather
        From a MuData to a table of the columns.
    mod_key
        The modality to write to.
    """

    def __init__(
        self, field: AnnDataField, gather: Callable[[MuData], pd.DataFrame], mod_key: str
    ) -> None:
        super().__init__(mod_key)
        self._adata_field, self._gather = field, gather

    def validate_field(self, mdata: MuData) -> None:
        """Validate the field."""
        self._adata_field.validate_field(AnnData(obs=self._gather(mdata)))

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Register the field."""
        return self._written(mdata, self._adata_field.register_field)

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """Transfer the field."""
        transfer = self._adata_field.transfer_field
        return self._written(mdata_target, lambda cells: transfer(state_registry, cells, **kwargs))

    def _written(self, mdata: MuData, action: Callable[[AnnData], dict]) -> dict[str, Any]:
        cells, holder = AnnData(obs=self._gather(mdata)), self.get_modality(mdata)
        state = action(cells)
        for name in [c for c in cells.obs if str(c).startswith("_scvi_")]:
            holder.obs[name] = cells.obs[name].to_numpy()
        for name, value in cells.obsm.items():
            holder.obsm[name] = value
        return state


def is_binary(x: Matrix) -> bool:
    """Whether no value is above 1."""
    values = x.data if sparse.issparse(x) else np.asarray(x)
    return not values.size or bool(values.max() <= 1)
