"""Which cells of a training store are not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, whole_number

__all__ = ["MOST_VALIDATED", "held_out", "some_rows"]

MOST_VALIDATED = 10_000


def held_out(
    datasets: pd.Categorical | None, key: str | None, holdout: Sequence[str]
) -> np.ndarray:
    """Which cells are of the data sets held out.

    Parameters
    ----------
    datasets
        Of each cell.
    key
        Where they are from, for the messages.
    holdout
        Their names.

    Raises
    ------
    ValueError
        If one is unknown, or all are held out.
    """
    if datasets is None:
        raise ValueError(f"holdout is {list(holdout)}, but there is no dataset_key.")
    known = list(datasets.categories)
    for name in holdout:
        if name not in known:
            raise ValueError(
                f"holdout: {key!r} has no data set {name!r}.{nearest(name, known)} "
                f"It has {listed(known)}."
            )
    held = np.isin(datasets.codes, [known.index(name) for name in holdout])
    if held.all():
        raise ValueError("holdout names all data sets: there is nothing to train on.")
    return held


def some_rows(rows: np.ndarray, size: float | int | None, block_size: int, seed: int) -> np.ndarray:
    """So many of the rows, sorted, in blocks from all over them.

    Parameters
    ----------
    rows
        Sorted.
    size
        Number or share. ``None``: a tenth, at most 10,000.
    block_size
        Consecutive rows in a block; fewer where few rows are wanted.
    seed
        Same seed, same rows.

    Raises
    ------
    ValueError
        If the size makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.atlas.stream._holdout import some_rows
    >>> len(some_rows(np.arange(1000), 0.2, block_size=8, seed=0))
    200
    """
    n = len(rows)
    if size is None:
        n_some = min(MOST_VALIDATED, -(-n // 10))
    elif isinstance(size, float):
        if not 0 <= size < 1:
            raise ValueError(f"validation_size is {size!r}; a share is from 0 to below 1.")
        n_some = round(size * n)
    else:
        n_some = 0 if size == 0 else min(n, whole_number(size, "validation_size"))
    block_size = max(1, min(block_size, n_some // 16))
    blocks = np.random.default_rng([seed, 0]).permutation(-(-n // block_size))
    blocks = blocks[: -(-n_some // block_size) + 1]  # one of them may be a short one
    picked = [rows[b * block_size : (b + 1) * block_size] for b in blocks]
    return np.sort(np.concatenate([*picked, rows[:0]])[:n_some])
