"""Examples in docstrings run and say the truth."""

import doctest
import importlib
import pkgutil

import matplotlib
import pytest

import scgm_scvi

matplotlib.use("agg")

FOUND = [
    m
    for m in pkgutil.walk_packages(scgm_scvi.__path__, "scgm_scvi.")
    if not m.name.endswith("__main__")
]
MODULES = ["scgm_scvi", *sorted(m.name for m in FOUND)]
FORESTS = {"scgm_scvi.metrics._generation", "scgm_scvi.pl._metrics"}  # are grown for seconds
ROOMS = sorted(m.name for m in FOUND if m.ispkg and not m.name.endswith(".cli"))  # it has commands


@pytest.mark.parametrize(
    "name", [pytest.param(m, marks=pytest.mark.slow) if m in FORESTS else m for m in MODULES]
)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("room", ROOMS)
def test_examples_are_found(room):
    modules = [importlib.import_module(name) for name in MODULES if name.startswith(f"{room}.")]
    assert any(t.examples for m in modules for t in doctest.DocTestFinder().find(m))
