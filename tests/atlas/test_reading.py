"""Some of the cells of a reading."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas import Reading


def reading_of(x, asked=None):
    def blocks(size):
        for start in range(0, len(x), size):
            if asked is not None:
                asked.append(start)
            yield sparse.csr_matrix(x[start : start + size])

    obs = pd.DataFrame({"n": np.arange(len(x))}, index=[f"c{i}" for i in range(len(x))])
    return Reading(obs, pd.DataFrame(index=["a", "b"]), blocks, ("a note",))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 50), st.randoms())
def test_cells_are_those_of_the_mask_however_they_are_cut(mask, size, rng):
    x = np.arange(2 * len(mask), dtype=np.float32).reshape(-1, 2)
    mask = np.array(mask, dtype=bool)
    few = reading_of(x).only(mask, "no")
    for _ in range(2):  # as often as one likes
        blocks = list(few.blocks(size))
        assert all(b.shape == (size, 2) and b.dtype == np.float32 for b in blocks[:-1])
        assert not blocks or 0 < blocks[-1].shape[0] <= size
        found = np.concatenate([np.empty((0, 2)), *(b.toarray() for b in blocks)])
        np.testing.assert_array_equal(found, x[mask])
    assert list(few.obs["n"]) == list(np.flatnonzero(mask))
    again = np.array([rng.random() < 0.5 for _ in range(mask.sum())], dtype=bool)
    both = np.concatenate([b.toarray() for b in few.only(again).blocks(size)] or [x[:0]])
    np.testing.assert_array_equal(both, x[mask][again])


def test_blocks_are_filtered_as_they_are_read():
    asked = []
    few = reading_of(np.ones((100, 2), np.float32), asked).only(np.arange(100) % 2 == 0, "odd")
    assert few.notes == ("a note", "left out 50 of 100 cells: odd")
    next(few.blocks(10))
    assert asked == [0, 10]
    with pytest.raises(ValueError, match=r"shape \(100,\), but there are 50 cells"):
        few.only(np.ones(100, bool))
    assert few.only(np.ones(50, bool)) is few
