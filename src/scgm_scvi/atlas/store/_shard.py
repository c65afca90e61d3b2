"""One dataset on disk: an AnnData in zarr v3."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from ._content import ContentHash, canonical_counts, canonical_obs, hash_of_names
from ._csr import COMPRESSOR, ROWS, SHARD, CsrWriter, read_blocks
from ._manifest import Row
from ._statistics import Statistics

__all__ = [
    "LIBRARY_SIZE",
    "consolidate",
    "hash_of_shard",
    "open_shard",
    "read_statistics",
    "write_frames",
    "write_shard",
]

LIBRARY_SIZE = "library_size"


def write_shard(
    folder: Path,
    key: str,
    blocks: Iterable[sparse.csr_matrix],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    measured: np.ndarray,
    provenance: str,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Row:
    group = zarr.open_group(folder, mode="w-", zarr_format=3)
    writer, content = CsrWriter(group, len(var)), ContentHash(var.index, measured)
    statistics, libraries = Statistics.zero(var.index, measured), [np.zeros(0)]
    for block in blocks:
        counts = canonical_counts(block, writer.n_cells, obs.index, var.index, key)
        writer.append(counts)
        content.update(counts)
        statistics.add_cells(counts)
        libraries.append(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    if not writer.n_cells:
        raise ValueError(f"{key}: there are no cells: quarantine the dataset.")
    if writer.n_cells != len(obs):
        raise ValueError(
            f"{key}: the blocks hold {writer.n_cells} cells, obs {len(obs)}: each cell needs a row."
        )
    stray = (statistics.table["n_expressed"] > 0) & ~measured
    if stray.any():
        raise ValueError(
            f"{key}: gene {var.index[stray][0]!r} has counts and is said not to be measured."
        )
    writer.close()
    obs = obs.assign(**{LIBRARY_SIZE: np.concatenate(libraries)})
    varm = {"statistics": statistics.table}
    more = {name: canonical_obs(table) for name, table in (tables or {}).items()}
    uns = {"provenance": provenance, **more}
    write_frames(group, obs=obs, var=_text_as_objects(var), varm=varm, uns=uns)
    consolidate(folder)
    row = Row(
        key,
        n_cells=writer.n_cells,
        n_genes=int(measured.sum()),
        n_values=writer.n_values,
        n_counts=int(obs[LIBRARY_SIZE].sum()),
        content_hash=content.finish(obs),
        axis_hash=hash_of_names(var.index),
        provenance=json.loads(provenance),
    )
    n_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return replace(row, n_bytes=n_bytes)


def _text_as_objects(var: pd.DataFrame) -> pd.DataFrame:
    plain = canonical_obs(var)
    return plain.set_axis(pd.Index(var.index.astype(str).to_numpy(object), dtype=object))


def hash_of_shard(folder: Path) -> str:
    group = zarr.open_group(folder, mode="r")
    adata = open_shard(folder)
    content = ContentHash(adata.var_names, adata.varm["statistics"]["measured"].to_numpy())
    for block in read_blocks(group):
        content.update(block)
    return content.finish(canonical_obs(adata.obs))


def write_frames(
    group: zarr.Group,
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    varm: Mapping[str, pd.DataFrame] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> None:
    """All of an AnnData but its ``X``."""
    rest = {k: {} for k in ("layers", "obsm", "obsp", "varp")}
    elements = {"obs": obs, "var": var, "varm": dict(varm or {}), "uns": dict(uns or {}), **rest}
    for name, element in elements.items():
        ad.experimental.write_dispatched(group, name, element, callback=_write_element)
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def consolidate(folder: Path) -> None:
    """Put a copy of all metadata in one file, as anndata's lazy reader asks for.

    :func:`zarr.consolidate_metadata` does the same, with a warning that no thread can silence
    without silencing those of the others.
    """
    root = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    empty = {"kind": "inline", "must_understand": False, "metadata": {}}
    found = {}
    for path in sorted(folder.rglob("zarr.json")):
        name = path.parent.relative_to(folder).as_posix()
        about = json.loads(path.read_text(encoding="utf-8"))
        if name != ".":
            groups = {"consolidated_metadata": empty} if about["node_type"] == "group" else {}
            found[name] = {**about, **groups}
    root["consolidated_metadata"] = {**empty, "metadata": found}
    # a new file, as another training store may have the old one under its own name
    (folder / "zarr.json").unlink()
    (folder / "zarr.json").write_text(json.dumps(root), encoding="utf-8")


def _write_element(write, store, name, element, dataset_kwargs, *, iospec) -> None:
    """Choose chunks and shards: anndata's own choice of them differs between its versions."""
    shape = getattr(element, "shape", None)
    if shape and iospec.encoding_type in ("array", "string-array"):
        n, rest = max(shape[0], 1), shape[1:]
        chunks = {"chunks": (min(n, ROWS), *rest), "shards": None, "compressors": COMPRESSOR}
        if n > ROWS:
            most = max(1, SHARD // ROWS)
            chunks["shards"] = (min(most, -(-n // ROWS)) * ROWS, *rest)
        dataset_kwargs = {**dataset_kwargs, **chunks}
    write(store, name, element, dataset_kwargs=dataset_kwargs)


def open_shard(path: Path) -> ad.AnnData:
    """An AnnData whose counts stay on disk: slices of rows are read as they are taken."""
    group = zarr.open_group(path, mode="r")
    read = ad.io.read_elem
    return ad.AnnData(
        X=ad.io.sparse_dataset(group["X"]),
        obs=read(group["obs"]),
        var=read(group["var"]),
        varm=read(group["varm"]),
        uns=read(group["uns"]),
    )


def read_statistics(group: zarr.Group) -> pd.DataFrame:
    """What was written as ``varm["statistics"]``."""
    return ad.io.read_elem(group["varm/statistics"])
