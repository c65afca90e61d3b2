"""What differs between versions of mudata."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import mudata

__all__ = ["columns_stay"]


def columns_stay() -> AbstractContextManager:
    """Within it, mudata leaves columns of ``obs`` and ``var`` where they are.

    Before 0.4 it repeats those of the modalities under other names, and warns of it.
    """
    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return nullcontext()
