"""What an atlas is to be made of: a TOML file, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scgm_scvi._errors import listed, nearest

from ._plan_checks import check_tables, refuse
from .sources import SOURCES

__all__ = ["DatasetPlan", "Plan", "TrainingPlan"]


@dataclass(frozen=True)
class DatasetPlan:
    """One dataset of the atlas.

    Parameters
    ----------
    source
        Name of its source, one of :data:`scgm_scvi.atlas.SOURCES`.
    id
        The source's name of it.
    version
        Pinned version, where the source has versions; another one is not taken.
    n_cells
        Cells expected before quality control. Fewer than half of them, or more than twice as
        many, are an error.
    licence, citation, note
        Kept in the manifest.
    read
        Options of the source's ``read``: ``layer``, ``columns``.
    obs
        Values for all cells of columns that the files lack: ``{"tissue": "lung"}``.
    qc
        Thresholds of :class:`scgm_scvi.atlas.QC` that differ for this dataset.
    keep
        Columns of its files that are kept as they are, besides those that every dataset has; one
        that the files lack is an error.
    tissue_types
        What its cells may come from: ``"tissue"``, ``"cell line"``, ``"primary cell culture"``,
        ``"organoid"``. Default: those of the plan.
    """

    source: str
    id: str
    version: str = ""
    n_cells: int | None = None
    licence: str = ""
    citation: str = ""
    note: str = ""
    read: dict[str, Any] = field(default_factory=dict)
    obs: dict[str, str] = field(default_factory=dict)
    qc: dict[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    tissue_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingPlan:
    """The training store.

    Parameters
    ----------
    genes
        How many, by the rank of their variability within datasets; or a list of ids.
    memory
        What shuffling the cells may take. Parts are smaller where it is less: of 30 million cells
        with 400 genes each, 200 GB of values to shuffle, give it some gigabytes.
    """

    genes: int | tuple[str, ...] = 4000
    memory: str = "250MB"


@dataclass(frozen=True)
class Plan:
    """A whole atlas.

    Parameters
    ----------
    datasets
        What it is made of.
    organism
        Whose genes: ``"human"`` or ``"mouse"``. Datasets of another one are set aside.
    hgnc
        Path of HGNC's ``hgnc_complete_set.txt``: earlier symbols of genes are then known too, which
        files with symbols of years ago have. Without it they are counted as not found.
    seed
        Of all that is random.
    urls
        Addresses in place of sources' own, by source; for ``"local"`` the folder.
    qc
        Thresholds for all datasets.
    keep
        Columns of the files that are kept, of every dataset whose files have them. A dataset that
        lacks one has it unspecified; one that all lack is an error.
    tissue_types
        What cells may come from, as in :class:`DatasetPlan`.
    training
        See :class:`TrainingPlan`.

    Examples
    --------
    >>> from scgm_scvi.atlas import Plan
    >>> plan = Plan.shipped()
    >>> plan.organism
    'human'
    """

    datasets: tuple[DatasetPlan, ...]
    organism: str = "human"
    hgnc: str = ""
    seed: int = 0
    urls: dict[str, str] = field(default_factory=dict)
    qc: dict[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    tissue_types: tuple[str, ...] = ("tissue",)
    training: TrainingPlan = field(default_factory=TrainingPlan)

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """The plan in a TOML file; paths in it are relative to the file.

        Parameters
        ----------
        path
            Of the file.

        Returns
        -------
        The plan.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no TOML, or says something that a plan does not have.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no plan at {path}. Write one (see docs: scGDB).")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML file: {error}.") from error
        plan = cls.from_dict(values, str(path))
        for name, url in plan.urls.items():
            if SOURCES[name].is_local:
                plan.urls[name] = str((path.parent / url).resolve())
        if plan.hgnc:
            table = (path.parent / plan.hgnc).resolve()
            if not table.is_file():
                raise FileNotFoundError(
                    f"hgnc of {path} is {plan.hgnc!r}: there is no file {table}."
                )
            plan = replace(plan, hgnc=str(table))
        return plan

    @classmethod
    def of(cls, plan: Plan | str | Path) -> Plan:
        """``plan`` itself, the one in its file, or, of ``"scgdb"``, the one shipped."""
        if isinstance(plan, cls):
            return plan
        return cls.shipped() if str(plan) == "scgdb" else cls.read(plan)

    @classmethod
    def shipped(cls) -> Plan:
        """The plan of scGDB that comes with the package."""
        return cls.read(Path(__file__).with_name("scgdb.toml"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the plan") -> Plan:
        """The plan that a TOML file's tables hold."""
        values = dict(values)
        rows = values.pop("dataset", [])
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{where} names no dataset. Add a [[dataset]] with source and id.")
        datasets = tuple(
            _made(DatasetPlan, row, f"[[dataset]] {i + 1} of {where}") for i, row in enumerate(rows)
        )
        for i, dataset in enumerate(datasets):
            if dataset.source not in SOURCES:
                raise ValueError(
                    f"[[dataset]] {i + 1} of {where} has source = {dataset.source!r}; known are "
                    f"{listed(sorted(SOURCES))}.{nearest(dataset.source, SOURCES)}"
                )
        names = [(d.source, d.id) for d in datasets]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"{where} names {listed('/'.join(n) for n in twice)} more than once.")
        training = values.pop("training", {})
        if isinstance(training.get("genes"), list):
            training["genes"] = tuple(training["genes"])
        made = _made(
            cls,
            {
                **values,
                "datasets": datasets,
                "training": _made(TrainingPlan, training, f"[training] of {where}"),
            },
            where,
        )
        if unknown := sorted(set(made.urls) - set(SOURCES)):
            raise ValueError(
                f"[urls] of {where} has {listed(unknown)}; known are {listed(SOURCES)}."
            )
        check_tables(made, where)
        return made


def _made(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a dataclass, or an error that names what does not fit."""
    known = {f.name: f for f in fields(cls)}
    lists = [k for k in ("keep", "tissue_types") if isinstance(values.get(k), list)]
    values = {**values, **{k: tuple(values[k]) for k in lists}}
    refuse(set(values) - set(known), known, where)
    required = [n for n in ("source", "id") if n in known and not values.get(n)]
    if required:
        raise ValueError(f"{where} has no {listed(required)}.")
    for name, value in values.items():
        wanted = str(known[name].type)
        fits = {
            "str": isinstance(value, str),
            "int": isinstance(value, int),
            "int | None": isinstance(value, int),
            "int | tuple[str, ...]": isinstance(value, int | tuple),
            "tuple[str, ...]": _are_names(value),
        }.get(wanted, not wanted.startswith("dict") or isinstance(value, Mapping))
        if not fits or isinstance(value, bool):
            shown = list(value) if isinstance(value, tuple) else value
            wanted = "a list of different names" if wanted == "tuple[str, ...]" else wanted
            raise ValueError(f"{where} has {name} = {shown!r}; it must be of type {wanted}.")
    return cls(**values)


def _are_names(value: Any) -> bool:
    """Whether these are words, each once."""
    words = isinstance(value, tuple) and all(isinstance(v, str) and v.strip() for v in value)
    return words and len(set(value)) == len(value)
