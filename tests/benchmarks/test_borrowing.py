"""Cohorts whose responses are known, and what is borrowed in them."""

from __future__ import annotations

import numpy as np
import pytest
from borrowing import groups_of, left_out, make_cohort

import scgm_scvi


def scores(**law):
    cells = scgm_scvi.datasets.pbmc68k()[:, :200].copy()
    cohort = make_cohort(cells, n_donors=6, n_cells=60, **law)
    groups = groups_of(cohort, "donor", "condition", ["none", "drug"])
    return cohort, left_out(*groups).mean()


def test_a_response_that_all_share_is_borrowed_and_that_is_expected():
    _, found = scores(shared=1.5, own=0.1, density=0.5)
    assert found["borrowed"] > found["identity"] + 0.05
    assert found["expected"] == pytest.approx(found["borrowed"], abs=0.05)


def test_where_donors_have_nothing_in_common_nothing_is_made_of_it():
    _, found = scores(shared=0.0, own=1.0, density=0.5)
    assert found["borrowed"] == pytest.approx(found["identity"], abs=0.03)
    assert found["mean shift"] < found["identity"]
    assert found["size"] < 0.4


def test_a_cohort_is_made_of_its_seed():
    first, again, other = (scores(seed=s)[0] for s in (0, 0, 1))
    assert (first.X != again.X).nnz == 0 and first.n_vars == 200
    assert first.shape != other.shape or (first.X != other.X).nnz
    assert (first.obs.groupby(["donor", "condition"], observed=True).size() > 20).all()
    np.testing.assert_array_equal(first.X.data, np.round(first.X.data))
