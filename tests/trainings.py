"""Which tests train a model: they are slow (``conftest.py`` marks them)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

HERE = Path(__file__).parent
OURS = HERE, HERE.parent / "benchmarks", HERE.parent / "src" / "scgm_scvi" / "benchmark"
VERBS = {"train", "train_diffusion"}


def names_in(code: CodeType) -> Iterator[str]:
    """Names that a function looks up, and those of the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def trains(function: Any, seen: set[FunctionType] | None = None) -> bool:
    """Whether a function of the tests calls ``train``, itself or by others, even of a table."""
    seen = set() if seen is None else seen
    if isinstance(function, dict):
        return any(trains(value, seen) for value in function.values())
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, FunctionType) or function in seen:
        return False
    if not any(Path(function.__code__.co_filename).is_relative_to(place) for place in OURS):
        return False
    seen.add(function)
    names = set(names_in(function.__code__))
    others = (function.__globals__.get(name) for name in names)
    itself = not names.isdisjoint(VERBS) or names >= {"Trainer", "fit"}
    return itself or any(trains(other, seen) for other in others)


def is_slow(item: pytest.Function) -> bool:
    """Whether a test trains, or one of its fixtures or of the functions that it is handed."""
    of_fixtures = item._fixtureinfo.name2fixturedefs.values()
    fixtures = [definition.func for definitions in of_fixtures for definition in definitions[-1:]]
    of_hypothesis = getattr(item.obj, "hypothesis", None)
    test = of_hypothesis.inner_test if of_hypothesis else item.obj
    handed = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(trains(function) for function in (test, *fixtures, *handed))
