"""The tests that train are known, and no other can."""

from __future__ import annotations

from functools import cache

import pytest
from helpers import make_types, train_types
from lightning.pytorch import Trainer
from trainings import trains


def by_another():
    return train_types(make_types())


@cache
def once():
    return by_another()


def within():
    return [lambda: once()]


TABLE = {"one": within}


def of_a_table(name):
    return TABLE[name]()


def by_lightning(module):
    Trainer(max_epochs=1).fit(module)


def around(n):
    return around(n - 1) if n else make_types()


@pytest.mark.parametrize(
    "name", ["train_types", "by_another", "once", "within", "of_a_table", "by_lightning"]
)
def test_a_function_that_trains(name):
    """By its name: a test that is handed it is slow."""
    assert trains(globals()[name])


@pytest.mark.parametrize("function", [make_types, around, len, Trainer.fit, None])
def test_one_that_does_not(function):
    assert not trains(function)


@pytest.fixture
def trained():
    return lambda model: model.train()


def test_a_test_is_marked_for_its_fixtures(request, trained):
    assert request.node.get_closest_marker("slow")


@pytest.mark.parametrize("make", [by_another])
def test_a_test_is_marked_for_what_it_is_handed(request, make):
    assert request.node.get_closest_marker("slow")


def test_no_other_test_trains(request):
    assert not request.node.get_closest_marker("slow")
    with pytest.raises(pytest.fail.Exception, match="test_no_other_test_trains.*mark it slow"):
        vars(Trainer)["fit"](None)  # by its name it would be seen


@pytest.mark.slow
def test_a_slow_one_may():
    assert Trainer.fit.__name__ == "fit"
