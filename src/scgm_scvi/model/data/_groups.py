"""Groups of cells that are compared with each other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scgm_scvi._errors import listed, nearest, shown

__all__ = ["require_groups"]


def require_groups(obs: pd.DataFrame, groupby: str, group1: Any, group2: Any) -> None:
    """Raise unless groups of cells that are to be compared have cells.

    Parameters
    ----------
    obs
        Attributes of the cells.
    groupby
        Column of the groups.
    group1, group2
        Groups of it, or lists of such; ``None``: all, and all others.
    """
    if groupby not in obs:
        raise KeyError(
            f"groupby: {groupby!r} is not a column of adata.obs.{nearest(groupby, obs.columns)} "
            f"Columns: {listed(obs.columns)}."
        )
    known = obs[groupby].dropna().unique().tolist()
    for argument, groups in (("group1", group1), ("group2", group2)):
        is_one = isinstance(groups, str) or not hasattr(groups, "__iter__")
        for group in [groups] if is_one else groups:
            if group is not None and group not in known:
                raise ValueError(
                    f"{argument}: no cell has {shown(group)} in adata.obs[{groupby!r}]."
                    f"{nearest(group, known)} Groups: {listed(known)}."
                )
