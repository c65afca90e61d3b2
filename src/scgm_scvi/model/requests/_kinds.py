"""Kinds of conditions that networks read as numbers. A new kind is a class here, or anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, shown

__all__ = ["KINDS", "ConditionKind", "Continuous", "NumericCondition", "further_arguments"]

_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "empty")


class ConditionKind(ABC):
    """How cells hold a condition, how users ask for it, and how networks read it.

    A condition of the kind takes ``width`` columns of finite numbers, side by side, all NaN where it
    is unspecified; guidance, dropout and "unspecified" treat them as one, and :meth:`interpolate
    <scgm_scvi.SCGM.interpolate>` goes straight from the numbers of one value to those of another. Columns
    hold strings, numbers or booleans, which every file can hold. Registered in
    :data:`KINDS`, a kind has an argument of its own in ``setup_anndata``, beside
    ``continuous_condition_keys``, and its conditions are asked for as any other.

    Attributes
    ----------
    argument
        Of ``setup_anndata``: names of columns of ``obs``, as a list, or a dict of name to whatever
        :meth:`learn` is given.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgm_scvi.model import ConditionKind
    >>> class Angle(ConditionKind):
    ...     argument = "angle_condition_keys"
    ...
    ...     def width(self, learnt):
    ...         return 2
    ...
    ...     def numbers(self, column, name, learnt):
    ...         angle = column.to_numpy(float)
    ...         return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ...
    ...     def described(self, numbers, learnt):
    ...         return np.arctan2(numbers[:, 1], numbers[:, 0])
    >>> Angle().numbers(pd.Series([0.0]), "phase", None)
    array([[1., 0.]])
    """

    argument: ClassVar[str]

    def learn(self, column: pd.Series, given: Any) -> Any:
        """What is to be known to read values later on; ``None``: nothing.

        It is kept in the registry, and so of builtins, arrays of numbers and strings, and tables.

        Parameters
        ----------
        column
            Of the training cells.
        given
            What the set-up's argument has for the condition, if it is a dict; ``None`` of a list.
        """
        return None

    def width(self, learnt: Any) -> int:
        """How many numbers a condition takes."""
        return 1

    @abstractmethod
    def numbers(self, column: pd.Series, name: str, learnt: Any) -> np.ndarray:
        """Values as numbers ``(n, width)``; rows of NaN where missing.

        Raises
        ------
        ValueError
            If a value makes no sense; the message names it, and the condition.
        """

    @abstractmethod
    def described(self, numbers: np.ndarray, learnt: Any) -> Any:
        """Numbers ``(n, width)`` as a column of ``obs`` has them: ``n`` values, in one dimension."""


class Continuous(ConditionKind):
    """A number."""

    argument = "continuous_condition_keys"

    def numbers(self, column: pd.Series, name: str, learnt: Any) -> np.ndarray:
        """The values themselves."""
        if column.dtype == object:
            if pd.api.types.infer_dtype(column, skipna=True) not in _NUMBERS:
                values = {shown(v): v for v in column}.values()  # lists can't be hashed
                raise ValueError(f"conditions: {name!r} takes numbers, not {listed(values, 3)}.")
            column = pd.to_numeric(column)
        return column.to_numpy(np.float64, na_value=np.nan)[:, None]

    def described(self, numbers: np.ndarray, learnt: Any) -> np.ndarray:
        """The values themselves."""
        return numbers[:, 0]


KINDS: dict[str, ConditionKind] = {"continuous": Continuous()}
"""Name to kind; to add one, enter it here. Saved models know it by its name."""


class NumericCondition(NamedTuple):
    """A condition of a model: its kind's name, and what that has learnt of it."""

    kind: str
    learnt: Any = None

    @property
    def width(self) -> int:
        """How many numbers it takes."""
        return self.entry.width(self.learnt)

    def numbers(self, column: pd.Series, name: str) -> np.ndarray:
        """Values as numbers ``(n, width)``.

        Raises
        ------
        TypeError, ValueError
            If the kind answers with something else; and as it raises itself.
        """
        values, shape = self.entry.numbers(column, name, self.learnt), (len(column), self.width)
        got = np.asarray(values)
        if got.shape != shape or got.dtype.kind not in "fiub":
            raise TypeError(
                f"{type(self.entry).__name__}.numbers makes an array of shape {got.shape} and dtype "
                f"{got.dtype} of {name!r}; it must be numbers of shape {shape}, for so many cells "
                "and the width that the kind says."
            )
        got = got.astype(np.float64)
        missing = np.isnan(got)
        infinite = np.abs(got) > np.finfo(np.float32).max  # as networks hold them
        odd = infinite.any(axis=1) | (missing.any(axis=1) & ~missing.all(axis=1))
        if odd.any():
            value = column.to_numpy(dtype=object)[odd][0]
            raise ValueError(
                f"{name!r} holds infinite values, or some that are missing in part ({shown(value)} "
                "is one): networks can't read them. Correct them, or leave them missing."
            )
        return got

    def described(self, numbers: np.ndarray) -> Any:
        """Numbers as a column of ``obs``."""
        column = self.entry.described(numbers, self.learnt)
        if np.ndim(column) != 1:
            raise TypeError(
                f"{type(self.entry).__name__}.described makes {np.ndim(column)} dimensions, and a "
                "column of obs has one."
            )
        return column

    @property
    def entry(self) -> ConditionKind:
        """The kind.

        Raises
        ------
        KeyError
            If it is not registered.
        """
        if self.kind not in KINDS:
            raise KeyError(
                f"The model has a condition of kind {self.kind!r}, which is not registered here. "
                f"Import what defines it. Known: {listed(KINDS)}."
            )
        return KINDS[self.kind]


def further_arguments() -> list[str]:
    """Arguments of the set-up for kinds of conditions that it does not name itself.

    Raises
    ------
    TypeError, ValueError
        If an entry of :data:`KINDS` is no kind, or its argument has another meaning.
    """
    arguments: list[str] = []
    for name, kind in KINDS.items():
        if name == "continuous":
            continue
        argument = getattr(kind, "argument", None)
        if not isinstance(kind, ConditionKind) or not isinstance(argument, str):
            raise TypeError(
                f"KINDS[{name!r}] is {kind!r}; enter an instance of a ConditionKind that has the "
                "name of its argument."
            )
        if argument in (*_TAKEN, *arguments):
            raise ValueError(
                f"KINDS[{name!r}] has the argument {argument!r}, which means something else "
                "already. Give it a name of its own."
            )
        arguments.append(argument)
    return arguments


_TAKEN = (
    *(
        "adata",
        "mdata",
        "layer",
        "batch_key",
        "labels_key",
        "size_factor_key",
        "unlabeled_category",
    ),
    *("condition_keys", "continuous_condition_keys", "is_count_data", "modalities"),
    *("categorical_covariate_keys", "continuous_covariate_keys", "rna_key", "atac_key"),
    *("rna_layer", "atac_layer", "modality_key", "source_registry"),
    *("extend_categories", "allow_missing_labels", "perturbation_key", "control"),
    *("perturbation_separator", "dose_key", "condition_embeddings"),
)
