"""No public method of a model is left out of the table of how to call it."""

from __future__ import annotations

import pytest
from model.public_methods import CLASSES, METHODS, NOT_A_READER, REFUSED, methods_of

import scgm_scvi.model as models


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_is_there(name):
    here = methods_of(getattr(models, name))
    assert [m for m in here if m not in METHODS[name] and m not in NOT_A_READER] == []
    assert set(REFUSED[name]) <= set(METHODS[name])
    assert not set(METHODS[name]) & set(NOT_A_READER)


def test_every_reason_is_of_a_method():
    here = {m for name in CLASSES for m in methods_of(getattr(models, name))}
    assert set(NOT_A_READER) <= here
