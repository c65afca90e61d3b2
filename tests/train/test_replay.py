import numpy as np
import pytest
import torch
from scipy import sparse

from scgm_scvi.train import Replay


def replay(ratio=1.0, seed=0):
    x = sparse.csr_matrix(np.arange(10)[:, None] * np.ones((1, 3)))
    return Replay(x, torch.arange(10.0)[:, None], {"batch": torch.arange(10)[:, None]}, ratio, seed)


def batch(n):
    return {"X": torch.zeros(n, 3), "batch": torch.zeros(n, 1), "ind_x": torch.zeros(n, 1)}


@pytest.mark.parametrize(("ratio", "n"), [(1.0, 8), (0.5, 4), (2.0, 16), (0.01, 1)])
def test_as_many_cells_as_the_ratio_says(ratio, n):
    state, drawn = replay(ratio).beside(batch(8))
    assert len(state) == n
    assert set(drawn) == {"X", "batch"}  # what it does not have, it does not invent
    assert drawn["X"].shape == (n, 3)
    assert drawn["batch"].dtype == torch.float32  # as in the minibatch


def test_rows_stay_together_and_all_are_drawn():
    r, seen = replay(), set()
    for _ in range(50):
        state, drawn = r.beside(batch(4))
        assert (state == drawn["batch"]).all()
        assert (drawn["X"][:, :1] == drawn["batch"]).all()
        seen |= set(drawn["batch"].ravel().tolist())
    assert seen == set(range(10))


def test_same_seed_same_draws():
    a, b = (replay(seed=1).beside(batch(6))[1] for _ in range(2))
    assert (a["X"] == b["X"]).all()
    assert not (a["X"] == replay(seed=2).beside(batch(6))[1]["X"]).all()


@pytest.mark.parametrize("ratio", [0, -1, float("inf"), float("nan")])
def test_ratio_must_be_positive(ratio):
    with pytest.raises(ValueError, match="ratio is"):
        replay(ratio)
