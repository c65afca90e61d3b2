"""Names of columns and rows that files can hold."""

from __future__ import annotations

import pandas as pd

__all__ = ["RESERVED", "is_writable_name", "named_index"]

RESERVED = "_index"  # by which files call the names of rows


def is_writable_name(name: object) -> bool:
    """Whether files can have a column of this name."""
    return isinstance(name, str) and name not in ("", RESERVED) and "/" not in name


def named_index(index: pd.Index, columns: list[str]) -> pd.Index:
    """Names of rows, themselves without a name where files can't hold it beside the columns."""
    if index.name is None or (is_writable_name(index.name) and index.name not in columns):
        return index
    return index.rename(None)
