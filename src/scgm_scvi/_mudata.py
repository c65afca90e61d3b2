"""What mudata lacks, or has in some versions only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mudata
from anndata import AnnData
from mudata import MuData

__all__ = ["PicklableMuData", "columns_stay"]

_ARRAYS = ("obsm", "varm", "obsp", "varp", "obsmap", "varmap")


def columns_stay() -> AbstractContextManager:
    """Within it, mudata leaves columns of ``obs`` and ``var`` where they are.

    Before 0.4 it repeats those of the modalities under other names, and warns of it.
    """
    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return nullcontext()


class PicklableMuData:
    """A MuData as it can be pickled and copied deeply, which it can't itself.

    Parameters
    ----------
    mdata
        In memory.

    Examples
    --------
    >>> import copy
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> with columns_stay():
    ...     mdata = MuData({"rna": AnnData(np.ones((2, 3)))})
    >>> copy.deepcopy(PicklableMuData(mdata)).mdata["rna"].X.shape
    (2, 3)
    """

    def __init__(self, mdata: MuData) -> None:
        self.mdata = mdata

    def __reduce__(self) -> tuple[Any, ...]:
        """Its parts, and what puts them together again."""
        arrays = {name: dict(getattr(self.mdata, name)) for name in _ARRAYS}
        own = {name: getattr(self.mdata, name) for name in ("obs", "var", "axis")}
        return _together, (dict(self.mdata.mod), {**own, **arrays}, dict(self.mdata.uns))


def _together(
    modalities: Mapping[str, AnnData], parts: Mapping[str, Any], uns: Mapping[str, Any]
) -> PicklableMuData:
    with columns_stay():
        mdata = MuData(modalities, **parts)
    mdata.uns = uns
    return PicklableMuData(mdata)
