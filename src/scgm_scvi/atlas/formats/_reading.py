"""A dataset as its source's files hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from ._blocks import rechunked

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
    "cell_line",
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
    guides
        Of a screen in CELLxGENE's schema 7.1: a row a guide, indexed by its id. None without.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    blocks: Callable[[int], Iterator[sparse.csr_matrix]]
    notes: tuple[str, ...] = ()
    guides: pd.DataFrame | None = None

    def only(self, mask: np.ndarray, reason: str = "not asked for") -> Reading:
        """Some of the cells, in their order; the files are still read a block at a time.

        Parameters
        ----------
        mask
            A truth value a cell: whether to keep it.
        reason
            What the others are; it goes into ``notes`` with their number.

        Raises
        ------
        ValueError
            If ``mask`` has not as many values as there are cells.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from scipy import sparse

        from ._blocks import rechunked
        >>> cells, genes = pd.DataFrame(index=["a", "b", "c"]), pd.DataFrame(index=["GAPDH"])
        >>> x = sparse.csr_matrix(np.array([[1], [2], [3]], dtype="float32"))
        >>> reading = Reading(cells, genes, lambda n: (x[i : i + n] for i in range(0, 3, n)))
        >>> few = reading.only([True, False, True], "a doublet")
        >>> [block.toarray().tolist() for block in few.blocks(2)], few.notes
        ([[[1.0], [3.0]]], ('left out 1 of 3 cells: a doublet',))
        """
        keep = np.asarray(mask, dtype=bool)
        if keep.shape != (len(self.obs),):
            raise ValueError(
                f"mask has the shape {keep.shape}, but there are {len(self.obs)} cells: "
                "give one truth value a cell."
            )
        if keep.all():
            return self
        note = f"left out {(~keep).sum()} of {len(keep)} cells: {reason}"
        return replace(
            self,
            obs=self.obs[keep],
            blocks=lambda n: _only_rows(self.blocks(n), keep, n),
            notes=(*self.notes, note),
        )


def _only_rows(
    blocks: Iterator[sparse.csr_matrix], keep: np.ndarray, n_cells: int
) -> Iterator[sparse.csr_matrix]:
    """Rows of the blocks that are kept, in blocks of ``n_cells`` again."""

    def kept() -> Iterator[sparse.csr_matrix]:
        start = 0
        for block in blocks:
            yield block[keep[start : start + block.shape[0]]]
            start += block.shape[0]

    return rechunked(kept(), n_cells)
