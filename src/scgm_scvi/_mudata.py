"""What mudata lacks, or has in some versions only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mudata
from mudata import MuData

__all__ = ["columns_stay", "mudata_of", "parts_of"]

_ARRAYS = ("obsm", "varm", "obsp", "varp", "obsmap", "varmap")


def columns_stay() -> AbstractContextManager:
    """Within it, mudata leaves columns of ``obs`` and ``var`` where they are.

    Before 0.4 it repeats those of the modalities under other names, and warns of it.
    """
    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return nullcontext()


def parts_of(mdata: MuData) -> dict[str, Any]:
    """All that a MuData is made of, which unlike itself can be pickled and copied deeply."""
    parts = {name: dict(getattr(mdata, name)) for name in _ARRAYS}
    own = {"obs": mdata.obs, "var": mdata.var, "axis": mdata.axis, "uns": dict(mdata.uns)}
    return {"data": dict(mdata.mod), **own, **parts}


def mudata_of(parts: Mapping[str, Any]) -> MuData:
    """What :func:`parts_of` was given, of those parts themselves."""
    parts = dict(parts)
    uns = parts.pop("uns")
    with columns_stay():
        mdata = MuData(**parts)
    mdata.uns = uns
    return mdata
