"""What columns are called in files, and here."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["GENE_TYPES", "gene_table", "is_ensembl", "plain", "split_keys"]

# what feature tables call a gene, among antibodies, guides and peaks
GENE_TYPES = ("Gene Expression", "Gene")

ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{6,}")


def is_ensembl(names: Sequence[str]) -> bool:
    """Whether most of the names are Ensembl gene ids, as far as the first thousand tell."""
    first = [bool(ENSEMBL.match(str(n))) for n in names[:1000]]
    return bool(first) and sum(first) * 2 > len(first)


def gene_table(ids: Sequence[str], symbols: Sequence[str] | None = None) -> pd.DataFrame:
    """Genes by id, with a column ``"symbol"`` where symbols say something that ids do not.

    Examples
    --------
    >>> gene_table(["ENSG00000010610"], ["CD4"])
                    symbol
    ENSG00000010610    CD4
    >>> gene_table(["CD4"], ["CD4"]).columns.to_list()
    []
    """
    var = pd.DataFrame(index=pd.Index(ids, dtype=object))
    if symbols is not None and any(i != s for i, s in zip(ids, symbols, strict=True)):
        var["symbol"] = np.asarray(symbols, dtype=object)
    return var


def split_keys(keys: Sequence[str]) -> pd.DataFrame:
    """Genes named by one column of text, which may hold ``id|symbol``."""
    if not any("|" in k for k in keys):
        return gene_table(keys)
    halves = [k.partition("|") for k in keys]
    ids = [left for left, _, _ in halves]
    if not is_ensembl(ids):
        return gene_table(keys)
    return gene_table(ids, [right or left for left, _, right in halves])


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of strings (missing ones NaN), of bools and of numbers; no categories."""
    out = pd.DataFrame(index=frame.index.astype(str).astype(object))
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            # code -1, a missing value, takes the last one
            known = np.append(_texts(column.cat.categories.to_series()), np.array([np.nan], object))
            column = pd.Series(known[column.cat.codes.to_numpy()]).infer_objects()
        out[str(name)] = _texts(column)
    return out


def _texts(values: pd.Series) -> np.ndarray:
    """Numbers and bools as they are, all else as strings, missing ones NaN."""
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return values.astype(object).infer_objects().to_numpy()
    missing = values.isna().to_numpy()
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    return np.where(missing, np.nan, np.array(texts, dtype=object))
