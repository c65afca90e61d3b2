"""What the training store of a plan holds."""

from __future__ import annotations

import zarr

from scgm_scvi._errors import listed, nearest

from ._plan import Plan
from ._plan_checks import OWN_COLUMNS
from .store._content import column_name
from .store._store import Store

__all__ = ["is_made", "training_columns"]


def training_columns(store: Store, plan: Plan, *, is_whole: bool) -> list[str]:
    """What cells are trained with: all columns that curation makes, and those that are kept.

    Parameters
    ----------
    store
        With the datasets of the plan.
    plan
        Says what is kept.
    is_whole
        Whether no dataset was set aside: one that was may be the one with a column that is kept.

    Raises
    ------
    ValueError
        If the store is whole, and no dataset has a column that the plan keeps of all.
    """
    kept = [c for names in (plan.keep, *(d.keep for d in plan.datasets)) for c in names]
    wanted = dict.fromkeys([*OWN_COLUMNS, *map(column_name, kept)])
    there: set[str] = set()
    theirs: dict[str, None] = {}
    for key, row in store.stored().items():
        there |= set(store.columns(key))
        theirs |= dict.fromkeys(row.provenance.get("columns", ()))
    for name in plan.keep if there and is_whole else ():
        if column_name(name) not in there:
            raise ValueError(
                f"keep has {name!r}, a column that none of {len(store)} datasets has; they have "
                f"{listed(theirs, 20)}.{nearest(name, theirs)}"
            )
    return [c for c in wanted if c in there and c not in ("source", "dataset")]


def is_made(store: Store, plan: Plan, columns: list[str]) -> bool:
    """Whether there is a training store of just these datasets, with these columns."""
    path = store.path / "train"
    if not path.exists():
        return False
    about = dict(zarr.open_group(path, mode="r").attrs)["scgdb"]
    genes = plan.training.genes
    return (
        about["datasets"] == {k: row.content_hash for k, row in store.stored().items()}
        and about["seed"] == plan.seed
        and about["obs_columns"] == columns
        and about["n_genes"] == (genes if isinstance(genes, int) else len(genes))
    )
