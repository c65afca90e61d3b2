"""A table of cells put beside a reading."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from scgm_scvi._errors import listed
from scgm_scvi.atlas.formats._reading import Reading

from ._columns import plain

__all__ = ["join_meta"]


def join_meta(
    reading: Reading, meta: pd.DataFrame, what: str, *, more_cells: bool = False
) -> Reading:
    """The reading with the columns of a table of cells, joined by the cells' names.

    Cells that only one of the two has are left out, which the ``notes`` say. The reading's order
    is kept, whatever that of the table.

    Parameters
    ----------
    reading
        Cells without, or with other, columns.
    meta
        A row a cell, indexed by name; its columns win over those of the same name.
    what
        What the two are, for messages.
    more_cells
        Take a matrix with any number of cells that the table does not have.

    Raises
    ------
    ValueError
        Names are not unique, or fewer than half of the cells of either are in the other.
    """
    cells = reading.obs.index
    for names, place in ((cells, "the matrix"), (meta.index, "the table of cells")):
        if not names.is_unique:
            raise ValueError(f"{what}: {place} has cell {names[names.duplicated()][0]!r} twice.")
    kept = cells.isin(meta.index)
    n = int(kept.sum())
    if 2 * n < (len(meta) if more_cells else max(len(cells), len(meta))) or not n:
        raise ValueError(
            f"{what}: only {n} cells are in both the matrix ({len(cells)} cells, such as "
            f"{listed(cells[:2])}) and the table of cells ({len(meta)}, such as "
            f"{listed(meta.index[:2])}): the two do not belong together."
        )
    obs = reading.obs.loc[kept]
    own = obs[[c for c in obs.columns if c not in meta.columns]]
    joined = pd.concat([own, plain(meta.loc[obs.index])], axis=1)
    notes = list(reading.notes)
    if n < len(cells):
        notes.append(f"left out {len(cells) - n} cells that the table of cells does not have")
    if n < len(meta):
        notes.append(f"left out {len(meta) - n} cells that the matrix does not have")
    blocks = reading.only(kept).blocks
    return replace(reading, obs=joined, blocks=blocks, notes=tuple(notes))
