"""How a model's perturbations are named, and the vectors that describe them."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, shown
from scgm_scvi._perturbation_sets import names_nothing, parts_of

__all__ = ["Parts", "Perturbations", "read_embeddings", "require_dose"]

Parts = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Perturbations:
    """The condition that says what was done to a cell.

    Names may be sets, ``"A+B"``, whose parts have no order; the control is the empty set, and no
    part of one.

    Attributes
    ----------
    key, control, separator
        Column of ``obs``, its value for control cells, and what stands between the parts of a set.
    dose_key
        Column with the dose, if there is one.
    embeddings
        Condition to a table of vectors, a row a name: of perturbations, and of contexts.

    Examples
    --------
    >>> from scgm_scvi._perturbations import Perturbations
    >>> Perturbations("target", "control").parts("B+A+control")
    ('A', 'B')
    """

    key: str
    control: str
    separator: str = "+"
    dose_key: str | None = None
    embeddings: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def from_setup(cls, setup: Mapping[str, Any]) -> Perturbations | None:
        """What the arguments of a set-up say, with tables as :func:`read_embeddings` leaves them.

        ``None`` where there is no ``perturbation_key``.
        """
        if not setup.get("perturbation_key"):
            return None
        return cls(
            str(setup["perturbation_key"]),
            str(setup["control"]),
            setup.get("perturbation_separator") or "+",
            setup.get("dose_key"),
            setup.get("condition_embeddings") or {},
        )

    def equals(self, other: Perturbations | None) -> bool:
        """Whether another names them alike, and has the same vectors."""
        if other is None:
            return False
        names = ("key", "control", "separator", "dose_key")
        mine, its = self.embeddings, other.embeddings
        return (
            all(getattr(self, name) == getattr(other, name) for name in names)
            and mine.keys() == its.keys()
            and all(table.equals(its[key]) for key, table in mine.items())
        )

    def parts(self, name: Any) -> Parts:
        """What a set consists of, sorted, once each."""
        return parts_of(str(name), self.control, self.separator)

    def name(self, parts: Parts) -> str:
        """The set as it is written."""
        return self.separator.join(parts) if parts else self.control

    @property
    def vectors(self) -> pd.DataFrame:
        """Of perturbations; without rows if there are none."""
        return self.embeddings.get(self.key, pd.DataFrame(dtype=np.float64))

    def require_known(
        self, names: Iterable[Any], seen: Iterable[str], had: Collection[str] = ()
    ) -> list[Parts]:
        """The parts of each name, all of which cells had or a vector describes.

        Parameters
        ----------
        seen
            Perturbations of which responses were learnt.
        had
            All that cells had, of some of which no response could be learnt.

        Raises
        ------
        TypeError
            If one is a list or the like.
        ValueError
            If one is neither; the message names it, and the nearest that is. If one is missing, or
            there is nothing in it, which is no control.
        """
        known = dict.fromkeys([*seen, *self.vectors.index])
        out = []
        for name in names:
            self._require_name(name)
            parts = self.parts(name)
            for part in parts:
                if part not in known:
                    of = "" if len(parts) == 1 else f" of the set {shown(str(name))}"
                    what = f"{shown(part)}{of} is a perturbation "
                    if part in had:
                        raise ValueError(
                            f"{what}of which no response could be learnt: training cells had it, but "
                            "no two of one dose beside control cells of the same context. Pass a "
                            f"vector of it in condition_embeddings[{self.key!r}] at set-up, or more "
                            f"cells. Known: {listed(known, 10)}."
                        )
                    raise ValueError(
                        f"{what}that no training cell had, and "
                        f"condition_embeddings[{self.key!r}] has no vector of it, so that nothing is "
                        f"known of it.{nearest(part, known)} Known: {listed(known, 10)}."
                    )
            out.append(parts)
        return out

    def _require_name(self, name: Any) -> None:
        if np.ndim(name):
            raise TypeError(
                f"perturbations holds {name!r}, which is a {type(name).__name__}; write a set as one "
                f"name, {'A' + self.separator + 'B'!r}."
            )
        if pd.isna(name) or names_nothing(str(name), self.separator):
            what = "is missing" if pd.isna(name) else f"is {str(name)!r}, with nothing in it"
            raise ValueError(
                f"A name of perturbations {what}. Leave it out, or ask for the control by its name, "
                f"{self.control!r}."
            )


def require_dose(value: Any, place: str = "dose") -> float:
    """``value`` as a float, or an error that names it and its ``place``.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is negative, infinite or NaN.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{place} is {value!r}, a {type(value).__name__}; a dose is a number, zero or above."
        )
    dose = float(value)
    if not np.isfinite(dose) or dose < 0:
        raise ValueError(f"{place} is {dose:g}; it must be a finite number, zero or above.")
    return dose


def read_embeddings(given: Any) -> dict[str, pd.DataFrame]:
    """Tables of vectors by condition, as float64.

    Raises
    ------
    TypeError
        If it is no dict of tables of numbers.
    ValueError
        If a table has no rows or columns, names a row twice, or holds what is not finite.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"condition_embeddings is a {type(given).__name__}; pass a dict of a condition's name to "
            "a DataFrame with a row a value: {'target': genes}."
        )
    return {str(key): _read_table(str(key), table) for key, table in given.items()}


def _read_table(key: str, table: Any) -> pd.DataFrame:
    place = f"condition_embeddings[{key!r}]"
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"{place} is a {type(table).__name__}; pass a DataFrame whose index has the names, and "
            "a column for each coordinate."
        )
    if not table.size:
        raise ValueError(f"{place} has the shape {table.shape}: there is no vector in it.")
    bad = [c for c in table if not pd.api.types.is_numeric_dtype(table[c].dtype)]
    if bad:
        raise TypeError(
            f"{place}: the columns {listed(bad, 3)} hold no numbers. Leave them out, or put the "
            "names into the index."
        )
    names = pd.Index([str(name) for name in table.index])
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise ValueError(f"{place} has more than one row for {listed(twice, 3)}: keep one of them.")
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    odd = ~np.isfinite(values).all(axis=1)
    if odd.any():
        raise ValueError(
            f"{place} holds NaN or infinite values for {listed(names[odd], 3)}: leave these rows "
            "out, or fill them in."
        )
    return pd.DataFrame(values, index=names, columns=[str(c) for c in table.columns])
