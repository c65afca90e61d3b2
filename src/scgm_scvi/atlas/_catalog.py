"""What there is to build from, as a table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from scgm_scvi._errors import listed, nearest

from ._plan import Plan
from .download._downloader import Downloader
from .sources import SOURCES
from .sources._record import Record

__all__ = ["catalog", "plan_table"]

_COLUMNS = ["source", "id", "title", "organism", "n_cells", "bytes", "licence"]


def catalog(source: str, *, url: str | None = None, **download_kwargs: object) -> pd.DataFrame:
    """The datasets of a source, asked for now.

    Parameters
    ----------
    source
        A name in :data:`scgm_scvi.atlas.SOURCES`.
    url
        Address in place of the source's own; the folder, for ``"local"``.
    **download_kwargs
        Passed to :class:`scgm_scvi.atlas.Downloader`.

    Returns
    -------
    A row a dataset: ``source``, ``id``, ``title``, ``organism``, ``n_cells``, ``bytes`` to
    download, ``licence``, ``tissues``, ``diseases``, ``assays``, ``studies``; missing where the
    source doesn't say.

    Raises
    ------
    ValueError
        If there is no such source.
    scgm_scvi.atlas.DownloadError
        If its catalogue can't be had.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> table = atlas.catalog("tisch")
    >>> bool(table["diseases"].str.contains("carcinoma").any())
    True
    """
    if source not in SOURCES:
        raise ValueError(
            f"source is {source!r}; known are {listed(sorted(SOURCES))}.{nearest(source, SOURCES)}"
        )
    with tempfile.TemporaryDirectory() as cache:  # documents alone, none of them kept
        download = Downloader(Path(cache), **download_kwargs)
        return _table(SOURCES[source](download, url).catalog())


def plan_table(plan: Plan | str | Path) -> pd.DataFrame:
    """The datasets of a plan, with what it says of them; ``"scgdb"`` is the one shipped.

    Parameters
    ----------
    plan
        A plan, or its file.

    Returns
    -------
    A row a dataset: ``source``, ``id``, ``version``, ``n_cells``, ``licence``, ``note``, and the
    columns' values that the plan gives.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> atlas.plan_table("scgdb").columns[:2].tolist()
    ['source', 'id']
    """
    plan = Plan.of(plan)
    names = ["source", "id", "version", "n_cells", "licence", "note"]
    rows = [{**{n: getattr(d, n) for n in names}, **d.obs} for d in plan.datasets]
    renamed = {"tissue": "tissues", "disease": "diseases"}
    return pd.DataFrame(rows).rename(columns=renamed).astype({"n_cells": "Int64"})


def _table(records: Iterable[Record]) -> pd.DataFrame:
    rows = [
        {
            **{n: getattr(r, n) for n in ("source", "id", "title", "organism", "n_cells")},
            "bytes": r.size if r.files else None,
            "licence": r.licence,
            **{n: "; ".join(getattr(r, n)) for n in ("tissues", "diseases", "assays", "studies")},
        }
        for r in records
    ]
    columns = [*_COLUMNS, "tissues", "diseases", "assays", "studies"]
    return pd.DataFrame(rows, columns=columns).astype({"n_cells": "Int64", "bytes": "Int64"})
