"""Attributes of cells by their names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._kinds import NumericCondition
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import SCGM_KEYS


def spec_of(**further) -> ConditionSpec:
    return ConditionSpec(
        categorical={"type": np.array(["A", "B"]), "stim": np.array(["no", "yes"])},
        numeric={"dose": NumericCondition("continuous")},
        batch={"donor": np.array(["d1", "d2"])},
        covariates={"plate": np.array(["p1", "p2", "p3"])},
        numeric_covariates=["mito"],
        **further,
    )


@pytest.fixture
def cells() -> Attributes:
    return Attributes(
        spec_of(ordered=["stim"]),
        tokens=torch.tensor([[1, 0], [2, 1], [2, 2]]),
        values=torch.tensor([[1.0], [torch.nan], [3.0]]),
        batch=torch.tensor([[0], [1], [0]]),
        covariates=torch.tensor([[2], [0], [1]]),
        numeric=torch.tensor([[0.1], [0.2], [0.3]]),
    )


def test_a_minibatch_and_back(cells):
    tensors = {**cells.tensors, REGISTRY_KEYS.X_KEY: torch.ones(3, 4)}
    assert not Attributes.of(cells.spec, tensors).differs(cells).any()
    bare = {REGISTRY_KEYS.BATCH_KEY: torch.zeros(2, 1)}
    nothing = Attributes.of(cells.spec, bare)
    assert nothing.tokens.shape == (2, 2) and not nothing.tokens.any()
    assert nothing.values.isnan().all() and nothing.covariates is None
    assert SCGM_KEYS.CONDITIONS_KEY in nothing.tensors
    assert REGISTRY_KEYS.CAT_COVS_KEY not in nothing.tensors


def test_by_name(cells):
    assert cells.specified == ["type", "stim", "dose"]
    assert cells.without({"stim", "dose"}).specified == ["type"]
    assert cells.tokens[1, 1] == 1  # the original is as it was
    assert cells.with_category("stim", 1).tokens[:, 1].tolist() == [2, 2, 2]
    each = cells.with_category("type", np.array([1, 0, 1]))
    assert each.tokens[:, 0].tolist() == [2, 1, 2]
    with pytest.raises(ValueError, match="'dose' is not in list"):
        cells.with_category("dose", 0)


def test_rows_of_all_columns(cells):
    some = cells.rows(slice(1, 3))
    assert len(some) == 2 and some.numeric[0] == cells.numeric[1]
    assert len(cells.repeat(2)) == 6
    both = Attributes.joined([some, cells.rows(torch.tensor([0]))])
    assert both.covariates.ravel().tolist() == [0, 1, 2]
    chosen = cells.where(torch.tensor([[True], [False], [False]]), cells.rows([2, 2, 2]))
    assert chosen.tokens.tolist() == [[2, 2], [2, 1], [2, 2]]


def test_what_differs(cells):
    other = cells.without({"dose"})
    assert cells.differs(other).tolist() == [True, False, True]  # nothing is nothing
    assert not cells.differs(cells.rows([0, 1, 2])).any()


def test_as_columns(cells):
    obs = cells.obs(pd.Index(["a", "b", "c"]))
    assert obs["type"].tolist() == ["A", "B", "B"]
    assert obs["stim"].isna().tolist() == [True, False, False] and obs["stim"].cat.ordered
    assert obs["donor"].tolist() == ["d1", "d2", "d1"] and obs["plate"].tolist()[0] == "p3"
    np.testing.assert_allclose(obs["mito"], [0.1, 0.2, 0.3], rtol=1e-6)
    assert list(obs.index) == ["a", "b", "c"]


def test_a_request_over_cells(cells):
    request = Request.parse(cells.spec, 3, {"stim": "yes", "donor": "d2"})
    over = request.over(cells, {"stim", "donor"})
    assert over.tokens.tolist() == [[1, 2], [2, 2], [2, 2]]
    assert over.batch.ravel().tolist() == [1, 1, 1]
    torch.testing.assert_close(over.values, cells.values, equal_nan=True)
    assert over.covariates.tolist() == cells.covariates.tolist()
    instead = request.instead_of(cells)
    assert instead.tokens.tolist() == [[0, 2]] * 3 and instead.values.isnan().all()
