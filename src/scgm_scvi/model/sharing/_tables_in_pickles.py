"""Pandas' tables within a saved model, in a form that every version of pandas reads.

How pandas pickles its own objects changes from version to version. A table is written as builtins
and tensors instead, as exports have it, and comes back as it was. Saved models name this module, so it stays where it is.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from ._codec import Encoder, decode

__all__ = ["Pickler", "restored"]


class Pickler(pickle.Pickler):
    """To be ``torch.save``'s, which takes this module for its ``pickle_module``.

    Examples
    --------
    >>> import io
    >>> from scgm_scvi.model.sharing import _tables_in_pickles
    >>> file = io.BytesIO()
    >>> table = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    >>> torch.save({"table": table}, file, pickle_module=_tables_in_pickles)
    >>> b"pandas" in file.getvalue()
    False
    >>> _ = file.seek(0)
    >>> torch.load(file, weights_only=False)["table"].equals(table)
    True
    """

    def reducer_override(self, obj: Any) -> Any:
        """A table as what makes it anew; all else, and tables that can't be encoded, as usual."""
        if not isinstance(obj, pd.DataFrame | pd.Series | pd.Index):
            return NotImplemented
        encoder = Encoder()
        try:
            return restored, (encoder.encode(obj, "table"), encoder.tensors)
        except TypeError:
            return NotImplemented


def restored(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The table; nothing else can be made of what a file says."""
    return decode(value, tensors)
