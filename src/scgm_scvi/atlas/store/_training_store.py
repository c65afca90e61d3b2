"""The training store: cells of all datasets, shuffled, on the genes that a model is to see."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi._whole import written_whole
from scgm_scvi.atlas.formats._reading import STANDARD_COLUMNS

from ._shard import consolidate
from ._shuffle import NAMED, Shuffle, categories_of
from ._store import Store

__all__ = ["extend_training_store", "make_training_store"]

# What annbatch asks of a group before it reads it as a collection.
COLLECTION = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def make_training_store(
    store: Store,
    *,
    genes: int | Sequence[str] = 4000,
    datasets: Iterable[str] | None = None,
    seed: int = 0,
    cells_per_part: int | None = None,
    memory: int | str = "1GB",
    obs_columns: Sequence[str] | None = None,
    flavor: str = "scran",
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """Write cells in random order, on selected genes, for training from disk.

    The cells are thrown into buckets at random as the shards are read, and each bucket is shuffled
    in memory: together that is a uniform random order of all cells, whatever their number.

    Parameters
    ----------
    store
        The store.
    genes
        How many of the most variable ones (ranked in each dataset on its own, see
        :func:`variable_genes`), or their names.
    datasets
        Keys; all of the store by default. Hold out whole datasets by leaving them out.
    seed
        Of the order. The same seed and datasets give the same store.
    cells_per_part
        About how many cells a part holds, at most; by default what fits ``memory``.
    memory
        What shuffling may take, in bytes or as ``"500MB"``; parts are made as small as it asks.
    obs_columns
        Columns of ``obs`` to take along: text as categories, numbers as float32. By default those
        of :data:`STANDARD_COLUMNS` that occur.
    flavor
        How genes are chosen, see :func:`normalized_dispersion`.
    out
        The folder; ``train`` in the store by default. It appears when it is complete.
    overwrite
        Replace an earlier one.

    Returns
    -------
    The folder: a zarr group with an AnnData a part, ``dataset_0``, ``dataset_1``, … That is the
    layout of a collection of `annbatch <https://annbatch.readthedocs.io>`__, which reads it as it
    is. In each part

    - ``X``: counts, CSR, float32, as models take them;
    - ``obs``: ``dataset``, ``source`` and the columns asked for, with the same categories in all
      parts; ``library_size``, the sum of a cell's counts over the whole axis (float32); ``row``, its
      number in its dataset. Cells are named ``<dataset>/<row>``;
    - ``var``: the same in all parts.

    Beside the parts, ``measured`` holds ``datasets`` and ``genes``, and ``measured``: which dataset
    measured which gene.

    Raises
    ------
    FileExistsError
        If there is one and ``overwrite`` is false.
    KeyError
        If a dataset, gene or column is unknown; the message suggests the nearest.
    """
    out = Path(out) if out is not None else store.path / "train"
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: pass overwrite=True, or another out.")
    keys = _known(store.keys() if datasets is None else datasets, store.keys(), "datasets")
    if not keys:
        raise ValueError(f"{store.path} holds no datasets: build it first.")
    var = ad.io.read_elem(zarr.open_group(store.folder(keys[0]), mode="r")["var"])
    if isinstance(genes, str):
        raise ValueError(f"genes is {genes!r}; it must be a number, or a list of names.")
    if isinstance(genes, Sequence | pd.Index | np.ndarray):
        names = pd.Index(_known(genes, var.index, "genes", keep_order=True))
    else:
        names = store.highly_variable(
            whole_number(genes, "genes"), flavor=flavor, by_dataset=len(keys) > 1, datasets=keys
        )
    columns = _columns(store, keys, obs_columns)
    with written_whole(out, tmp=_tmp(store, out), sync=True) as part:
        root = zarr.open_group(part, mode="w-", zarr_format=3)
        shuffle = Shuffle(store, var.loc[names], columns, int(seed), _bytes(memory), cells_per_part)
        shuffle.write(root, part, keys, first=0)
        _finish(part, root, shuffle, keys)
    return out


def extend_training_store(
    store: Store,
    *,
    datasets: Iterable[str] | None = None,
    memory: int | str = "1GB",
    cells_per_part: int | None = None,
    out: str | os.PathLike | None = None,
) -> Path:
    """Append datasets to a training store, as parts of their own; no cell of it is written again.

    The new cells are shuffled among themselves, not with the old ones: a reader that takes random
    blocks of all parts mixes them. Genes and columns are those that it has.

    Parameters
    ----------
    store, memory, cells_per_part, out
        As in :func:`make_training_store`.
    datasets
        Keys; by default all of the store that the training store doesn't have.

    Raises
    ------
    ValueError
        If the store has since dropped or changed a dataset that the training store holds, or there
        is nothing to append.
    """
    out = Path(out) if out is not None else store.path / "train"
    if not out.exists():
        raise FileNotFoundError(f"{out} does not exist: make_training_store() makes it.")
    old = zarr.open_group(out, mode="r", use_consolidated=False)
    about = dict(old.attrs)["scgdb"]
    held = about["datasets"]
    for key, content in held.items():
        if key not in store or store.row(key).content_hash != content:
            raise ValueError(
                f"{out} holds dataset {key!r}, which {store.path} has since dropped or changed: "
                "make the training store again."
            )
    wanted = _known(store.keys() if datasets is None else datasets, store.keys(), "datasets")
    if not (keys := [k for k in wanted if k not in held]):
        raise ValueError(f"{out} holds all of these datasets already.")
    var = ad.io.read_elem(old["dataset_0/var"])
    before = {c: np.asarray(v[...], object) for c, v in categories_of(old["dataset_0/obs"]).items()}
    columns = {c: c in before for c in about["obs_columns"]}
    with written_whole(out, tmp=_tmp(store, out), sync=True) as part:
        # the same files under a second name: nothing is copied, and the old store stays whole
        shutil.copytree(out, part, copy_function=_link)
        (part / "zarr.json").unlink()
        root = zarr.open_group(part, mode="a", zarr_format=3)
        shuffle = Shuffle(
            store, var, columns, about["seed"], _bytes(memory), cells_per_part, before
        )
        shuffle.write(root, part, keys, first=about["n_parts"])
        for i in range(about["n_parts"]):
            obs = root[f"dataset_{i}/obs"]
            for name, categories in shuffle.categories.items():
                shutil.rmtree(part / f"dataset_{i}" / "obs" / name / "categories")
                ad.io.write_elem(
                    obs[name], "categories", categories, dataset_kwargs={"shards": None}
                )
        _finish(part, root, shuffle, [*held, *keys])
    return out


def _finish(folder: Path, root: zarr.Group, shuffle: Shuffle, keys: list[str]) -> None:
    """Write what is not per cell."""
    measured = shuffle.store.measured(keys)[shuffle.var.index]
    about = {
        "measured": measured.to_numpy(),
        "datasets": np.array(keys, object),
        "genes": measured.columns.to_numpy(object),
    }
    if "measured" in root:
        del root["measured"]
    group = root.create_group("measured")
    for name, values in about.items():
        ad.io.write_elem(group, name, values, dataset_kwargs={"shards": None})
    group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    rows = [shuffle.store.row(k) for k in keys]
    root.attrs.update(
        {
            **COLLECTION,
            "scgdb": {
                "axis": shuffle.store.axis,
                "datasets": {r.key: r.content_hash for r in rows},
                "n_cells": sum(r.n_cells for r in rows),
                "n_genes": len(shuffle.var),
                "n_parts": shuffle.n_parts,
                "obs_columns": list(shuffle.columns),
                "scgm_scvi": version("scgm-scvi"),
                "seed": shuffle.seed,
            },
        }
    )
    for i in range(shuffle.n_parts):
        consolidate(folder / f"dataset_{i}")
    consolidate(folder)


def _tmp(store: Store, out: Path) -> Path:
    """A folder on the file system of ``out``: the store's own, which recover() clears, if can be."""
    if out.parent.resolve() == store.path.resolve():
        return store.path / "tmp"
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _columns(store: Store, keys: list[str], wanted: Sequence[str] | None) -> dict[str, bool]:
    """Columns to take along, and whether each is text (in any dataset)."""
    text: dict[str, bool] = {}
    for key in keys:
        obs = zarr.open_group(store.folder(key), mode="r")["obs"]
        for c in obs.attrs["column-order"]:
            number = isinstance(obs[c], zarr.Array) and obs[c].dtype.kind in "iuf"
            text[c] = text.get(c, False) or not number
    if wanted is None:
        return {c: text[c] for c in STANDARD_COLUMNS if c in text}
    if isinstance(wanted, str):
        raise ValueError(f"obs_columns is {wanted!r}; it must be a list of names.")
    own = {*NAMED, "library_size", "row"}
    wanted = [
        c for c in _known(wanted, {*text, *own}, "obs_columns", keep_order=True) if c not in own
    ]
    return {c: text[c] for c in wanted}


def _known(
    wanted: Iterable[str], known: Iterable[str], argument: str, *, keep_order: bool = False
) -> list[str]:
    if isinstance(wanted, str):
        raise ValueError(f"{argument} is {wanted!r}; it must be a list of names.")
    wanted, known = [str(w) for w in wanted], set(known)
    if missing := [w for w in wanted if w not in known]:
        raise KeyError(
            f"{argument}: {listed(missing, 3)} not in the store.{nearest(missing[0], known)}"
        )
    return list(dict.fromkeys(wanted)) if keep_order else sorted(set(wanted))


def _bytes(memory: int | str) -> int:
    found = re.fullmatch(r"([0-9.]+) *([KMGT]?B)?", str(memory).strip().upper())
    if not found or not float(found[1]) > 0:
        raise ValueError(f"memory is {memory!r}; it must be a number of bytes, or like '1GB'.")
    return int(float(found[1]) * _UNITS[found[2] or "B"])
