"""What a store holds: a row a dataset, and nothing else exists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from scgm_scvi._whole import written_whole

__all__ = ["OK", "QUARANTINED", "Row", "read_manifest", "table", "write_manifest"]

OK, QUARANTINED = "ok", "quarantined"


@dataclass(frozen=True)
class Row:
    """A dataset of the store, or one that failed.

    Parameters
    ----------
    key
        Name of the dataset in the store.
    status
        ``"ok"``, or ``"quarantined"``: it failed and has no shard.
    reason
        Why it failed.
    n_cells, n_genes, n_values, n_counts
        Cells, genes that were measured, counts above zero, and the sum of all counts.
    content_hash
        sha256 of what the shard holds: the same for the same cells, however they were written.
    axis_hash
        sha256 of the names of the genes in their order; the same in all rows of a store.
    n_bytes
        Of the shard on disk.
    provenance
        Source, id, version, files' checksums, scale, reports, licence, citation: plain values.
    """

    key: str
    status: str = OK
    reason: str = ""
    n_cells: int = 0
    n_genes: int = 0
    n_values: int = 0
    n_counts: int = 0
    content_hash: str = ""
    axis_hash: str = ""
    n_bytes: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)


def read_manifest(path: Path) -> dict[str, Row]:
    """Rows by key, sorted."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {row.key: row for row in sorted(rows, key=lambda r: r.key)}


def write_manifest(path: Path, rows: Mapping[str, Row], tmp: Path) -> None:
    """A line of JSON a row, in the order of the keys, at one stroke."""
    lines = [json.dumps(asdict(rows[key]), sort_keys=True) + "\n" for key in sorted(rows)]
    with written_whole(path, tmp=tmp, sync=True) as part:
        part.write_text("".join(lines), encoding="utf-8")


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table; each entry of their provenance is a column of its own."""
    own = [{k: v for k, v in asdict(row).items() if k != "provenance"} for row in rows]
    rest = [{k: v for k, v in row.provenance.items() if k not in own[0]} for row in rows]
    columns = list(own[0]) if own else [k for k in Row.__dataclass_fields__ if k != "provenance"]
    columns += sorted({k for r in rest for k in r})
    together = [{**a, **b} for a, b in zip(own, rest, strict=True)]
    return pd.DataFrame(together, columns=columns).set_index("key")
