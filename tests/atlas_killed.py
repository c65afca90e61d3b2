"""Build a small store over and over, killed each time at another moment (run by test_store.py)."""

import os
import signal
import sys
import time

import numpy as np
from atlas_cells import AXIS, arguments, make_cells

from scgm_scvi.atlas.store._store import Store


def build(path: str) -> None:
    try:
        store = Store(path)
    except FileNotFoundError:
        store = Store.create(path, AXIS)
    store.recover()
    for i in range(3):
        if f"d{i}" not in store:
            store.write(f"d{i}", **arguments(make_cells(100, seed=i), n=20))


def run(path: str, seconds: float | None) -> bool:
    """Build in a process of its own, killed after so many seconds; whether it came to its end."""
    child = os.fork()
    if not child:
        build(path)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    killed, whole, n_kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    start = time.perf_counter()
    assert run(whole, None)
    took = time.perf_counter() - start
    rng = np.random.default_rng(int(sys.argv[4]))
    kills, rounds = 0, 0
    while kills < n_kills:
        path = f"{killed}-{rounds}"
        while kills < n_kills and not run(path, rng.uniform(0, took / 2)):
            kills += 1
        assert run(path, None)
        rounds += 1
    print(kills, rounds)
