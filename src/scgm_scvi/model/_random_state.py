"""Global random state, which libraries draw from and a verb with a seed must not move."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch

__all__ = ["leaves_random_state", "random_state_kept", "torch_seed"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


@contextmanager
def torch_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Borrow torch's global state, which distributions draw from: they take no generator."""
    with _torch_state_kept(device):
        torch.manual_seed(seed)
        yield


def _torch_state_kept(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Put the state of torch, numpy and Python back at the end."""
    numpy_state, own_state = np.random.get_state(), random.getstate()
    try:
        with _torch_state_kept(device):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(own_state)


def leaves_random_state(verb: Verb) -> Verb:
    """Have a model's method leave the random state as it was."""

    @wraps(verb)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with random_state_kept(self.device):
            return verb(self, *args, **kwargs)

    return cast(Verb, method)
