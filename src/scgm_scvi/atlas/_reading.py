"""A dataset as its source's files hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from scipy import sparse

__all__ = ["STANDARD_COLUMNS", "Reading"]

STANDARD_COLUMNS = (
    "cell_type",
    "tissue",
    "disease",
    "assay",
    "donor",
    "sex",
    "development_stage",
    "organism",
)


@dataclass
class Reading:
    """Values of a dataset, a block of cells at a time.

    Parameters
    ----------
    obs
        A row a cell, in the order of the blocks, indexed by barcode. All that the authors say, as
        strings or numbers; where a source knows which column is which, it is (also) there as one
        of :data:`STANDARD_COLUMNS` or ``"<column>_ontology_term_id"``.
    var
        A row a gene, indexed by the files' own name of it, as it stands there; with a column
        ``"symbol"`` where ids and symbols are both given.
    blocks
        Called with a number of cells, yields CSR matrices of so many rows (the last one fewer) and
        ``len(var)`` columns, float32, each row once and in order. May be called again.
    notes
        What was left out or assumed, a sentence each, for the report.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    blocks: Callable[[int], Iterator[sparse.csr_matrix]]
    notes: tuple[str, ...] = ()
