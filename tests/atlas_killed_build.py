"""Build an atlas over and over, killed each time at another moment (run by test_build.py).

    python tests/atlas_killed_build.py FOLDER N_KILLS SEED

Prints how often it was killed, and how many stores that took.
"""

import os
import signal
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
from atlas_mirror import plan_of
from atlas_truth import truth, write_10x_h5

from scgm_scvi import atlas


def run(plan: atlas.Plan, path: Path, seconds: float | None) -> bool:
    """Build in a process of its own, killed after so many seconds; whether it came to its end."""
    child = os.fork()
    if not child:
        atlas.build(plan, path)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def whole_shards_only(path: Path) -> None:
    """What a reader sees of a store whose building was cut."""
    if not (path / "atlas.json").exists():
        return
    store = atlas.open(path)
    assert store.verify() == {}
    assert all(store[key].n_obs == store.datasets.loc[key, "n_cells"] for key in store)


def trained_on(path: Path) -> list[np.ndarray]:
    return [ad.io.read_zarr(p).X.toarray() for p in sorted((path / "train").glob("dataset_*"))]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(int(sys.argv[3]))
    (folder / "local").mkdir()
    names = [f"local/d{i}.h5" for i in range(4)]
    for i, name in enumerate(names):
        write_10x_h5(truth(80, 150, seed=i), folder / name)
    plan = plan_of(names, "http://127.0.0.1:1", folder)
    run(plan, folder / "first", None)  # imports and caches
    start = time.perf_counter()
    assert run(plan, folder / "whole", None)
    took = time.perf_counter() - start
    wanted = atlas.open(folder / "whole").content_hash()
    kills, rounds = 0, 0
    while kills < n_kills:
        path = folder / f"killed{rounds}"
        while kills < n_kills and not run(plan, path, rng.uniform(0, took)):
            kills += 1
            whole_shards_only(path)
        assert run(plan, path, None)
        assert atlas.open(path).content_hash() == wanted
        for ours, theirs in zip(trained_on(path), trained_on(folder / "whole"), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        rounds += 1
    print(kills, rounds)
