"""Sums of groups of cells, put together of parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_screens import train_on_seen

from scgm_scvi.model.prior._group_sums import GroupSums, balanced, together
from scgm_scvi.model.prior._measured_responses import measure_responses


def sums_of(log, batch=0):
    sums = GroupSums(log.shape[1])
    sums.add(log, np.ones(len(log)), np.full(len(log), batch))
    return sums


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1], [3, 1, 1, 2, 5], [2, 4], [1, 2, 2, 1]])
def test_parts_are_the_whole_and_both_halves_have_cells(sizes):
    log = np.random.default_rng(0).normal(size=(sum(sizes), 4))
    parts = [sums_of(part, i % 2) for i, part in enumerate(np.split(log, np.cumsum(sizes)[:-1]))]
    before = [part.log.copy() for part in parts]
    whole = together(balanced(parts))
    assert abs(whole.n[0] - whole.n[1]) <= 1 and whole.total == len(log)
    np.testing.assert_allclose(whole.mean, log.mean(axis=0))
    assert whole.batches == {0: sum(sizes[::2]), 1: sum(sizes[1::2])}
    assert whole.one == len(log) and np.isfinite(whole.means).all()
    for part, own in zip(parts, before, strict=True):  # they are left as they are
        np.testing.assert_array_equal(part.log, own)


def test_controls_of_one_cell_a_batch_have_two_halves(few_controls):
    """All of them were in the first half, and the second was divided by no cells."""
    model, minibatches = few_controls
    found = measure_responses(model.module, model.condition_spec, minibatches)
    assert found.observed and np.isfinite(found.halves).all()


@pytest.fixture
def few_controls():
    from small_screens import make_screen

    adata, vectors, _ = make_screen()
    model = train_on_seen(adata, vectors)
    batches = list(model._minibatches(None))
    tensors = {key: torch.cat([b[key] for b in batches]) for key in batches[0]}
    position = model.condition_spec.position("target")
    control = list(model.condition_spec.categorical["target"]).index("control") + 1
    tokens = tensors["scgm_conditions"]
    of_control, line = tokens[:, position] == control, tokens[:, 1 - position]
    keep = ~of_control
    for value in line.unique():
        own = torch.nonzero(of_control & (line == value)).ravel()[:3]
        tensors["batch"][own] = torch.arange(3)[:, None]
        keep[own] = True
    return model, [{key: tensor[keep] for key, tensor in tensors.items()}]
