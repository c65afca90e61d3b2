"""Kinds of conditions that networks read as numbers. A new kind is a class here, or anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed

__all__ = ["KINDS", "ConditionKind", "Continuous", "NumericCondition"]

_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "empty")


class ConditionKind(ABC):
    """How cells hold a condition, how users ask for it, and how networks read it.

    A condition of the kind takes ``width`` columns of numbers, side by side, all NaN where it is
    unspecified; guidance, dropout and "unspecified" treat them as one. Registered in
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
            What the set-up's argument has for the condition, if it is a dict.
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
        """Numbers ``(n, width)`` as a column of ``obs`` has them."""


class Continuous(ConditionKind):
    """A number."""

    argument = "continuous_condition_keys"

    def numbers(self, column: pd.Series, name: str, learnt: Any) -> np.ndarray:
        """The values themselves."""
        if column.dtype == object:
            if pd.api.types.infer_dtype(column, skipna=True) not in _NUMBERS:
                raise ValueError(
                    f"conditions: {name!r} takes numbers, not {listed(column.unique(), 3)}."
                )
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
        return self._kind.width(self.learnt)

    def numbers(self, column: pd.Series, name: str) -> np.ndarray:
        """Values as numbers ``(n, width)``."""
        return self._kind.numbers(column, name, self.learnt)

    def described(self, numbers: np.ndarray) -> Any:
        """Numbers as a column of ``obs``."""
        return self._kind.described(numbers, self.learnt)

    @property
    def _kind(self) -> ConditionKind:
        if self.kind not in KINDS:
            raise KeyError(
                f"The model has a condition of kind {self.kind!r}, which is not registered here. "
                f"Import what defines it. Known: {listed(KINDS)}."
            )
        return KINDS[self.kind]
