"""A store that is there: opened, counted, streamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import zarr

from scgm_scvi._errors import listed, nearest

from .store._store import Store
from .stream._datamodule import AtlasDataModule

__all__ = ["composition", "datamodule", "open"]


def open(path: str | os.PathLike) -> Store:
    """The store that :func:`build` made.

    Parameters
    ----------
    path
        Its folder.

    Raises
    ------
    FileNotFoundError
        If there is no store.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> atlas.open("scgdb/").datasets  # doctest: +SKIP
    """
    return Store(path)


def datamodule(path: str | os.PathLike, **kwargs: Any) -> AtlasDataModule:
    """The cells of a store for ``SCGM(registry=...)`` and ``train(datamodule=...)``.

    Parameters
    ----------
    path
        Folder of a store, or of a training store.
    **kwargs
        Of :class:`AtlasDataModule`: ``labels_key``, ``condition_keys``, ``holdout``, ...

    Raises
    ------
    FileNotFoundError
        If the store has no training store yet.

    Examples
    --------
    >>> from scgm_scvi import SCGM, atlas
    >>> data = atlas.datamodule("scgdb/", labels_key="cell_type")  # doctest: +SKIP
    >>> model = SCGM(registry=data.registry)  # doctest: +SKIP
    >>> model.train(datamodule=data)  # doctest: +SKIP
    """
    path = Path(path)
    if (path / "atlas.json").exists():
        if not (path / "train").exists():
            raise FileNotFoundError(
                f"{path} is a store without a training store in it: build() was stopped before it. "
                "Call it again, or make_training_store()."
            )
        path = path / "train"
    return AtlasDataModule(path, **kwargs)


def composition(store: Store, column: str) -> pd.Series:
    """Number of cells by the values of a column, all datasets together.

    Parameters
    ----------
    store
        The store.
    column
        Of the cells, as ``"tissue"``; or ``"source"``.

    Raises
    ------
    KeyError
        If cells have no such column.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> atlas.composition(atlas.open("scgdb/"), "disease")  # doctest: +SKIP
    """
    total = pd.Series(dtype="int64")
    for key in store:
        obs = zarr.open_group(store.folder(key), mode="r")["obs"]
        if column not in (columns := obs.attrs["column-order"]):
            raise KeyError(
                f"column is {column!r}; cells have {listed(columns, 20)}.{nearest(column, columns)}"
            )
        values = pd.Series(ad.io.read_elem(obs[column]))  # of all columns, this one alone
        total = total.add(values.value_counts(), fill_value=0)
    total = total[total > 0].astype("int64").sort_values(ascending=False, kind="stable")
    return total.rename("cells").rename_axis(column)
