"""One dataset, from its source's files to counts on the atlas's genes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ._plan import DatasetPlan
from .curate._cell_lines import CELL_LINE_COLUMNS, harmonise_cell_lines
from .curate._genes import GeneAxis, GeneMapping
from .curate._kept import kept_columns
from .curate._labels import harmonise_labels
from .curate._perturbations import harmonise_perturbations
from .curate._qc import QC
from .curate._scale import Scale, detect_scale, to_counts
from .formats._guides import GUIDES
from .formats._reading import Reading
from .sources import SOURCES
from .sources._record import Record
from .store._store import Staged, Store

__all__ = ["prepare"]

_BLOCK = 4096  # cells in memory at a time
_N_SCALE = 1000  # cells that the scale is told by
_MOST_INEXACT = 0.05  # share of cells without exact counts, above which a dataset is set aside


@dataclass
class _Checked:
    """What a first pass over the cells has found."""

    keep: np.ndarray  # (n,)
    reasons: dict[str, int]


def prepare(
    store: Path,
    dataset: DatasetPlan,
    record: Record,
    files: dict[str, Path],
    *,
    organism: str,
    hgnc: str | None,
    qc: dict[str, Any],
    fingerprint: str,
    keep: Sequence[str] = (),
    tissue_types: Sequence[str] = ("tissue",),
) -> Staged:
    """Write a dataset beside the store, ready to be committed.

    Three passes over the cells, a block at a time: the first tells the scale by some of them, the
    second says which ones to keep, the third writes them.

    Raises
    ------
    ValueError
        If the files lack a column that the dataset is to keep, hold another organism's genes, no cell that passes, far more or fewer cells
        than planned, or values on more than one scale.
    """
    source = SOURCES[dataset.source](download=None)  # reads only
    source.tissue_types = frozenset(dataset.tissue_types or tissue_types)
    reading = source.read(record, files, **dataset.read)
    n = len(reading.obs)
    _check_size(n, dataset)
    kept = kept_columns(reading.obs, dataset.keep, keep)
    axis = GeneAxis.load(organism, hgnc)
    mapping = axis.map(reading.var)
    _check_genes(mapping, reading.var, organism)
    scale = detect_scale(_sample(reading))
    if not scale.counts_available:
        raise ValueError(
            f"The values are on the scale {scale.name!r} ({scale.reason}), from which counts can't be "
            "rebuilt, and nothing is rounded to counts. Look for its counts in another source."
        )
    thresholds = QC(**{**qc, **dataset.qc})
    checked = _checked(reading, mapping, axis, scale, thresholds)
    if not checked.keep.any():
        raise ValueError(
            f"None of {n} cells passes quality control ({_counted(checked.reasons)}). Give the "
            "dataset thresholds of its own (qc in the plan), or leave it out."
        )
    defaults = _defaults(record, dataset)
    of_lines = {k: defaults.pop(k) for k in CELL_LINE_COLUMNS if k in defaults}
    obs = harmonise_labels(reading.obs, source=record.source, key=record.key, defaults=defaults)
    if "cell line" in source.tissue_types:
        obs = harmonise_cell_lines(reading.obs, obs, of_lines)
    done, notes = harmonise_perturbations(reading.obs, reading.guides, axis)
    obs = pd.concat([obs, done, kept], axis=1)
    said = ("source", "id", "version", "title", "licence", "citation")
    provenance = {
        **{name: getattr(record, name) for name in said},
        "scale": scale.name,
        "fingerprint": fingerprint,
        "notes": [*reading.notes, *notes, scale.reason],
        "columns": [str(c) for c in reading.obs.columns],
        "genes": mapping.report(),
        "qc": {"thresholds": thresholds.to_dict(), **checked.reasons},
        "plan": asdict(dataset),
        "files": [asdict(f) for f in record.files],
    }
    return Store(store).stage(
        record.key,
        _kept(reading, mapping, scale, checked.keep),
        obs.loc[checked.keep],
        axis.var,
        measured=mapping.measured,
        provenance=provenance,
        tables=None if reading.guides is None else {GUIDES: reading.guides},
    )


def _check_size(n: int, dataset: DatasetPlan) -> None:
    expected = dataset.n_cells
    if expected and not expected / 2 <= n <= expected * 2:
        raise ValueError(
            f"The files hold {n} cells; the plan says n_cells = {expected}. Correct the plan if "
            "this is the dataset that was meant."
        )


def _check_genes(mapping: GeneMapping, var: pd.DataFrame, organism: str) -> None:
    if not mapping.measured.any():
        some = ", ".join(map(str, var.index[:5]))
        raise ValueError(
            f"None of {len(var)} genes is one of {organism} ({some}, ...). Is this a dataset of "
            "another organism, or of chromatin? Leave it out."
        )


def _sample(reading: Reading) -> sparse.csr_matrix:
    """Cells from all over the dataset, as its authors may have sorted it."""
    n = len(reading.obs)
    step = max(1, n // _N_SCALE)
    parts, start = [], 0
    for block in reading.blocks(_BLOCK):
        parts.append(block[(-start) % step :: step])
        start += block.shape[0]
    return sparse.vstack(parts, format="csr")


def _on_axis(
    reading: Reading, mapping: GeneMapping, scale: Scale
) -> Iterator[tuple[sparse.csr_matrix, np.ndarray]]:
    """Blocks of counts on the axis, and which of the cells have them exactly."""
    for block in reading.blocks(_BLOCK):
        found = to_counts(block, scale)
        yield mapping.apply(found.counts), found.exact


def _checked(
    reading: Reading, mapping: GeneMapping, axis: GeneAxis, scale: Scale, qc: QC
) -> _Checked:
    keep, reasons, n_inexact = [], Counter(), 0
    for counts, exact in _on_axis(reading, mapping, scale):
        result = qc.filter(counts[exact], axis)
        reasons.update(result.reasons)
        n_inexact += int((~exact).sum())
        kept = np.zeros(len(exact), dtype=bool)
        kept[exact] = result.keep
        keep.append(kept)
    n = len(reading.obs)
    if n_inexact > _MOST_INEXACT * n:
        raise ValueError(
            f"The counts of {n_inexact} of {n} cells can't be rebuilt from values on the scale "
            f"{scale.name!r} ({scale.reason}): they are on another one, or rounded. Values of several "
            "scales are never mixed."
        )
    if n_inexact:
        reasons["counts can't be rebuilt"] = n_inexact
    return _Checked(np.concatenate(keep), dict(reasons))


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{k}: {v}" for k, v in reasons.items())


def _kept(
    reading: Reading, mapping: GeneMapping, scale: Scale, keep: np.ndarray
) -> Iterator[sparse.csr_matrix]:
    start = 0
    for values, _ in _on_axis(reading, mapping, scale):
        rows = keep[start : start + values.shape[0]]
        start += len(rows)
        if rows.any():
            yield values[rows]


def _defaults(record: Record, dataset: DatasetPlan) -> dict[str, str]:
    """Values of columns that the files lack; a catalogue's, where it names one alone."""
    known = {"tissue": record.tissues, "disease": record.diseases, "assay": record.assays}
    return {**{k: v[0] for k, v in known.items() if len(v) == 1}, **dataset.obs}
