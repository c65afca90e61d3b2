"""Means of groups against numpy, measured and generated."""

from __future__ import annotations

import numpy as np
import pytest

from scgm_scvi.model.prior._profiles import Profiles


def tokens_of(model, **values):
    spec = model.condition_spec.categorical
    found = [list(c).index(values[k]) + 1 if k in values else 0 for k, c in spec.items()]
    return np.array(found, dtype=np.int64)


def test_measured_means_are_those_of_training_cells(model):
    obs = model.adata.obs
    known = obs[["cell_type", "stimulation"]].notna().all(axis=1)
    kind = obs.loc[known, "cell_type"].value_counts().index[0]
    group = tokens_of(model, cell_type=kind, stimulation="control")
    if len(group) > 2:
        pytest.skip("the shared model has further categories")
    rows = ((obs["cell_type"] == kind) & (obs["stimulation"] == "control")).to_numpy()
    profiles = model._profiles()
    assert profiles.n_measured([group])[0] == rows.sum()
    x = model.adata.X[rows].toarray().astype(float)
    expected = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
    np.testing.assert_allclose(profiles.measured([group])[0], expected, rtol=1e-4, atol=1e-5)


def test_without_cells_nothing_is_measured_and_means_are_generated(model):
    def none():
        raise ValueError("no cells")
        yield

    kind = model.adata.obs["cell_type"].dropna().iloc[0]
    group = tokens_of(model, cell_type=kind, stimulation="control")
    for profiles in (Profiles(model.prior), Profiles(model.prior, none)):
        assert profiles.n_measured([group]).tolist() == [0]
    (mean,) = profiles.generated([group])
    assert mean.shape == (model.adata.n_vars,) and (mean >= 0).all()
    np.testing.assert_array_equal(profiles.generated([group])[0], mean)
