"""A store that is there: opened, streamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .store._store import Store
from .stream._datamodule import AtlasDataModule

__all__ = ["datamodule", "open"]


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
