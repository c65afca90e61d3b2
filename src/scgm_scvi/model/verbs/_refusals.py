"""Methods of scvi-tools' models that one of this package can't answer, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["of_counts_alone", "refused"]

_DOC = """Not of this model{why}.

        Raises
        ------
        NotImplementedError
            Always.
        """


def refused(why: str, message: str) -> Callable[..., NoReturn]:
    """A method that says why a model does not have it, before scvi-tools fails half-way.

    Parameters
    ----------
    why
        In its docstring, after "Not of this model".
    message
        Of the error; ``{name}`` is the model's class.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(message.format(name=type(self).__name__))

    method.__doc__ = _DOC.format(why=why)
    return method


def of_counts_alone(what: str, why: str, instead: str) -> Callable[..., NoReturn]:
    """A method of models of counts, of a model of which peaks are open."""
    message = f"{what} is of models of counts, and {{name}} is one of which peaks are open. "
    return refused(why, f"{message}Use {instead}.")
