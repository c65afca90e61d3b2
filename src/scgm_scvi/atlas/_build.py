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

from scgm_scvi._errors import nearest, whole_number

from ._download import Downloader
from ._genes import GeneAxis
from ._lock import Lock
from ._plan import DatasetPlan, Plan
from ._prepare import prepare
from ._record import Record
from ._store import Store
from ._studies import drop_duplicates
from ._training_store import make_training_store
from .sources import SOURCES, Source

__all__ = ["build"]

logger = logging.getLogger(__name__)

_RECIPE = 1  # raise it when the same files would give other cells
_IN_FLIGHT = 2  # datasets a worker, that wait on disk or are worked on


def build(
    plan: Plan | str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    cache: str | Path | None = None,
    keep_downloads: bool = True,
    max_download: int | None = None,
    progress: Callable[[str], None] | None = None,
    **download_kwargs: Any,
) -> pd.DataFrame:
    """Build an atlas, or go on with one: download, harmonise, check and store each dataset.

    A dataset is in the store whole or not at all, so the build may be stopped at any moment and
    called again; what is done is not done again. A dataset that can't be had, read or understood is
    set aside with its reason, and the others go on.

    Parameters
    ----------
    plan
        What to build, or the TOML file that says so.
    out
        Folder of the store.
    workers
        Processes that read and write datasets; downloads stay in this one, so that servers are
        asked no faster.
    scheduler
        Address of a dask cluster in place of processes on this machine, as ``"tcp://host:8786"``;
        its workers must see ``out`` and ``cache`` under the same paths.
    cache
        Folder for downloads. Default: ``downloads`` in ``out``.
    keep_downloads
        Whether files stay when their dataset is stored. Their checksums do in any case.
    max_download
        Most bytes of one file.
    progress
        Is told a line about each dataset.
    **download_kwargs
        Passed to :class:`scgm_scvi.atlas.Downloader`.

    Returns
    -------
    A row for each dataset of the plan: ``key``, ``source``, ``id``, ``status`` (``"stored"``,
    ``"set aside"``, ``"duplicate"``), ``n_cells``, ``reason``.

    Raises
    ------
    ValueError
        If the plan makes no sense, or the store is of another organism.

    Examples
    --------
    >>> from scgm_scvi import atlas
    >>> report = atlas.build("scgdb.toml", "scgdb/", workers=4)  # doctest: +SKIP
    """
    plan = plan if isinstance(plan, Plan) else Plan.read(plan)
    workers, out = whole_number(workers, "workers"), Path(out)
    tell = progress or logger.info
    store = Store.create(out, GeneAxis.load(plan.organism))
    store.recover()
    cache = Path(cache) if cache else out / "downloads"
    download = Downloader(
        cache, lock=Lock(out / "downloads.lock"), max_bytes=max_download, **download_kwargs
    )
    rows: dict[tuple[str, str], dict[str, Any]] = {}

    def note(dataset: DatasetPlan, status: str, n_cells: int = 0, reason: str = "") -> None:
        names = (dataset.source, dataset.id)
        rows[names] = {"status": status, "n_cells": n_cells, "reason": reason}
        tell(f"{status}: {'/'.join(names)}" + (f": {reason}" if reason else f", {n_cells} cells"))

    def set_aside(dataset: DatasetPlan, key: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        store.quarantine(key, reason, source=dataset.source, id=dataset.id)
        note(dataset, "set aside", reason=reason)

    todo = []
    for dataset in plan.datasets:
        row = store.row(_key(dataset))
        if row is not None and row.get("provenance", {}).get("fingerprint") == _fingerprint(
            dataset, plan
        ):
            note(dataset, "stored", row["n_cells"])
        else:
            todo.append(dataset)
    found = _found(todo, plan, download, set_aside)
    kept, duplicates = drop_duplicates([record for _, record in found])
    for record, reason in duplicates:
        note(next(d for d, r in found if r is record), "duplicate", reason=reason)
    found = [(d, r) for d, r in found if any(r is k for k in kept)]

    with _executor(workers, scheduler) as executor:
        running: dict[Future, tuple[DatasetPlan, Record, dict[str, Path]]] = {}

        def collect(most: int) -> None:
            while len(running) > most:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    dataset, record, files = running.pop(future)
                    try:
                        row = store.commit(future.result())
                    except Exception as error:  # whatever is wrong with one, the others go on
                        set_aside(dataset, record.key, error)
                    else:
                        note(dataset, "stored", row["n_cells"])
                        if not keep_downloads and dataset.source != "local":
                            for path in files.values():
                                path.unlink(missing_ok=True)

        for dataset, record in found:
            try:
                source = _source(dataset.source, plan, download)
                record = source.resolve(record)
                files = source.fetch(record)
            except Exception as error:
                set_aside(dataset, record.key, error)
                continue
            options = {"organism": plan.organism, "qc": plan.qc}
            future = executor.submit(
                prepare,
                store.path,
                dataset,
                record,
                files,
                fingerprint=_fingerprint(dataset, plan),
                **options,
            )
            running[future] = (dataset, record, files)
            collect(_IN_FLIGHT * workers - 1)
        collect(0)
    report = pd.DataFrame(
        [{"source": d.source, "id": d.id, **rows[d.source, d.id]} for d in plan.datasets]
    )
    report.to_csv(out / "report.csv", index=False)
    if (report["status"] == "stored").any():
        make_training_store(store, genes=plan.training.genes, seed=plan.seed)
    return report


def _key(dataset: DatasetPlan) -> str:
    return Record(dataset.source, dataset.id).key


def _fingerprint(dataset: DatasetPlan, plan: Plan) -> str:
    """Of all that decides what a dataset becomes."""
    kept = {k: v for k, v in asdict(dataset).items() if k not in ("note", "n_cells")}
    parts = [_RECIPE, kept, plan.organism, plan.qc]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _source(name: str, plan: Plan, download: Downloader) -> Source:
    return SOURCES[name](download, plan.urls.get(name))


def _found(
    datasets: list[DatasetPlan],
    plan: Plan,
    download: Downloader,
    set_aside: Callable[[DatasetPlan, str, Exception], None],
) -> list[tuple[DatasetPlan, Record]]:
    """What the catalogues say of the datasets."""
    out = []
    for name in dict.fromkeys(d.source for d in datasets):
        wanted = {d.id: d for d in datasets if d.source == name}
        records: dict[str, Record] = {}
        failure: Exception | None = None
        try:
            for record in _source(name, plan, download).catalog():
                records[record.id] = record
                if set(wanted) <= set(records):
                    break
        except Exception as error:
            failure = error
        for dataset in wanted.values():
            record = records.get(dataset.id)
            try:
                if record is None:
                    raise failure or ValueError(
                        f"{name} has no dataset {dataset.id!r}.{nearest(dataset.id, records)}"
                    )
                if dataset.version and record.version != dataset.version:
                    raise ValueError(
                        f"the plan pins version {dataset.version!r}; {name} now has "
                        f"{record.version!r}. Look at what changed, and pin that one."
                    )
            except Exception as error:
                set_aside(dataset, _key(dataset), error)
            else:
                licence = dataset.licence or record.licence
                citation = dataset.citation or record.citation
                out.append((dataset, replace(record, licence=licence, citation=citation)))
    return out


class _Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
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
