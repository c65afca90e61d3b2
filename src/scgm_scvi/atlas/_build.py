"""From a plan to a store: every dataset once, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from scgm_scvi._errors import whole_number

from ._plan import DatasetPlan, Plan
from ._prepare import prepare
from ._training import is_made, training_columns
from .curate._genes import GeneAxis
from .curate._ontologies import require_ontologies
from .download._checksum_lock import ChecksumLock
from .download._downloader import Downloader
from .sources import SOURCES, Source
from .sources._record import Record
from .sources._studies import drop_duplicates
from .store._store import Store
from .store._training_store import make_training_store

__all__ = ["build"]

logger = logging.getLogger(__name__)

_RECIPE = 2  # raise it when the same files would give other cells
_IN_FLIGHT = 2  # datasets for each worker that wait or are worked on


def build(
    plan: Plan | str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    cache: str | Path | None = None,
    keep_downloads: bool = True,
    progress: Callable[[str], None] | None = None,
    **download_kwargs: Any,
) -> pd.DataFrame:
    """Build an atlas, or go on with one: download, harmonise, check and store each dataset.

    A dataset is in the store whole or not at all, so the build may be stopped at any moment and
    called again; what is done is not done again. A dataset that can't be had, read or understood is
    set aside with its reason, and the others go on; the next build tries it again.

    Parameters
    ----------
    plan
        What to build, or the TOML file that says so; ``"scgdb"`` is the one shipped.
    out
        Folder of the store.
    workers
        Processes that read and write datasets. Downloads stay in this one, so that servers are
        asked no faster.
    scheduler
        Address of a dask cluster in place of processes on this machine, as ``"tcp://host:8786"``;
        its workers must see ``out`` and ``cache`` under the same paths.
    cache
        Folder for downloads. Default: ``downloads`` in ``out``.
    keep_downloads
        Whether files stay when their dataset is stored. Their checksums do in any case.
    progress
        Is told a line about each dataset.
    **download_kwargs
        Passed to :class:`scgm_scvi.atlas.Downloader`.

    Returns
    -------
    A row for each dataset: ``source``, ``id``, ``key`` (its name in the store), ``status``
    (``"stored"``, ``"set aside"``, ``"duplicate"``), ``n_cells``, ``reason``. It is written to
    ``report.csv`` in ``out``, too.

    Raises
    ------
    ValueError
        If the plan makes no sense, the store has another gene axis, or no dataset has a column that
        the plan keeps of all (what is stored stays).
    ImportError
        If the ontologies, or dask for several workers, are not installed.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> report = atlas.build("scgdb.toml", "scgdb/", workers=4)  # doctest: +SKIP
    """
    plan = Plan.of(plan)
    workers, out = whole_number(workers, "workers"), Path(out).resolve()
    require_ontologies()  # else each dataset would be set aside for it
    store = _store(out, GeneAxis.load(plan.organism))
    cache = Path(cache or out / "downloads").resolve()
    options = {
        "insecure_hosts": [h for s in SOURCES.values() for h in s.insecure_hosts],
        "intervals": {k: v for s in SOURCES.values() for k, v in s.intervals.items()},
        **download_kwargs,
    }
    tell = progress or logger.info
    report = _Report(store, tell)
    with (
        Downloader(cache, lock=ChecksumLock(out / "downloads.lock"), **options) as download,
        _executor(workers, scheduler) as executor,
    ):
        sources = {
            n: SOURCES[n](download, plan.urls.get(n)) for n in {d.source for d in plan.datasets}
        }
        for name, source in sources.items():
            own = [d.tissue_types or plan.tissue_types for d in plan.datasets if d.source == name]
            source.tissue_types = frozenset(kind for kinds in own for kind in kinds)
        found = _found(plan, sources, report)
        running: dict[Future, tuple[Record, list[Path]]] = {}
        for dataset, record in found:
            try:
                files = sources[record.source].fetch(record)
            except Exception as error:  # noqa: BLE001 whatever is wrong with one, the others go on
                report.set_aside(record, error)
                continue
            if record.key in store:
                store.drop(record.key)  # it was made in another way
            options = {
                "organism": plan.organism,
                "hgnc": plan.hgnc or None,
                "qc": plan.qc,
                "fingerprint": _fingerprint(dataset, record, plan),
                "keep": plan.keep,
                "tissue_types": plan.tissue_types,
            }
            future = executor.submit(prepare, store.path, dataset, record, files, **options)
            kept = keep_downloads or sources[record.source].is_local
            running[future] = (record, [] if kept else list(files.values()))
            _collect(running, _IN_FLIGHT * workers - 1, report)
        _collect(running, 0, report)
    table = report.table()
    is_whole = not (table["status"] == "set aside").any()
    columns = training_columns(store, plan, is_whole=is_whole)
    if len(store) and not is_made(store, plan, columns):
        tell("writing the training store")
        genes = plan.training.genes
        make_training_store(
            store,
            genes=genes if isinstance(genes, int) else list(genes),
            seed=plan.seed,
            memory=plan.training.memory,
            obs_columns=columns,
            overwrite=True,
        )
    return table


class _Report:
    """What became of each dataset; in the store, as a table, and told as it happens."""

    def __init__(self, store: Store, tell: Callable[[str], None]) -> None:
        self.store, self.tell = store, tell
        self.rows: dict[str, dict[str, Any]] = {}

    def note(self, record: Record, status: str, n_cells: int = 0, reason: str = "") -> None:
        row = {"source": record.source, "id": record.id, "key": record.key, "status": status}
        self.rows[record.key] = {**row, "n_cells": n_cells, "reason": reason}
        self.tell(f"{status}: {record.source} {record.id}: {reason or f'{n_cells} cells'}")

    def set_aside(self, record: Record, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if record.key not in self.store:  # else it is there as it was built before
            said = {"source": record.source, "id": record.id, "version": record.version}
            self.store.quarantine(record.key, reason, said)
        self.note(record, "set aside", reason=reason)

    def table(self) -> pd.DataFrame:
        out = pd.DataFrame(self.rows.values()).sort_values(["source", "id"], ignore_index=True)
        out.to_csv(self.store.path / "report.csv", index=False)
        return out


def _store(path: Path, axis: GeneAxis) -> Store:
    about = {"name": axis.organism, "version": axis.version}
    if not (path / "atlas.json").exists():
        return Store.create(path, about)
    store = Store(path)
    if store.axis != about:
        raise ValueError(
            f"{path} is a store of {store.axis}; the plan is of {about}. Build it in another folder."
        )
    store.recover()
    return store


def _found(
    plan: Plan, sources: dict[str, Source], report: _Report
) -> list[tuple[DatasetPlan, Record]]:
    """What is still to be stored, and what the sources say of it."""
    done = report.store.stored()
    out: list[tuple[DatasetPlan, Record]] = []
    for dataset in plan.datasets:
        name = Record(dataset.source, dataset.id)
        try:
            records = sources[dataset.source].find(dataset.id, dataset.version)
        except Exception as error:  # noqa: BLE001
            report.set_aside(name, error)
            continue
        given = {k: getattr(dataset, k) for k in ("licence", "citation") if getattr(dataset, k)}
        out += [(dataset, replace(r, **given)) for r in records]
    kept, dropped = drop_duplicates([r for _, r in out])
    for record, reason in dropped:
        report.note(record, "duplicate", reason=reason)
    kept = {r.key for r in kept}
    todo = []
    for dataset, record in out:
        row = done.get(record.key)
        if record.key not in kept:
            continue
        if row is not None and row.provenance["fingerprint"] == _fingerprint(dataset, record, plan):
            report.note(record, "stored", row.n_cells)
        else:
            todo.append((dataset, record))
    return todo


def _fingerprint(dataset: DatasetPlan, record: Record, plan: Plan) -> str:
    """Of all that decides what a dataset becomes."""
    files = [{k: v for k, v in asdict(f).items() if k != "url"} for f in record.files]
    how = {
        **{"read": dataset.read, "obs": dataset.obs, "qc": {**plan.qc, **dataset.qc}},
        "keep": [sorted(dataset.keep), sorted(plan.keep)],
        "tissue_types": sorted(dataset.tissue_types or plan.tissue_types),
    }
    aliases = Path(plan.hgnc).stat().st_size if plan.hgnc else 0
    parts = [_RECIPE, record.key, record.version, files, how, plan.organism, aliases]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _collect(running: dict[Future, tuple[Record, list[Path]]], most: int, report: _Report) -> None:
    """Store what is prepared, until no more than so many are still worked on."""
    while len(running) > most:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            record, files = running.pop(future)
            try:
                row = report.store.commit(future.result())
            except Exception as error:  # noqa: BLE001
                report.set_aside(record, error)
                continue
            report.note(record, "stored", row.n_cells)
            for path in files:
                path.unlink(missing_ok=True)


class _Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 raised again by future.result()
            future.set_exception(error)
        return future


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    if workers == 1 and scheduler is None:
        yield _Inline()
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(
            'Several workers need dask: pip install "scgm_scvi[atlas]"; or pass workers=1.'
        ) from error
    if scheduler is not None:
        with Client(scheduler) as client:
            yield client.get_executor(pure=False, retries=0)
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor(pure=False, retries=0)
