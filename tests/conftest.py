from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from trainings import is_slow


@pytest.fixture(autouse=True)
def _seed():
    """Start every test from the same global random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that train a model."""
    for item in items:
        if isinstance(item, pytest.Function) and is_slow(item):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no other test train, nor its fixtures."""
    if item.get_closest_marker("slow"):
        return (yield)

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail(f"{item.nodeid} trains a model, and is not known to: mark it slow")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", refuse)
        return (yield)
