"""Adapters: nothing changes until they train, and merging changes nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from scgm_scvi.nn import LowRankLinear, add_adapters, merge_adapters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(30, 20), nn.SiLU(), nn.Linear(20, 2), nn.Linear(2, 9, bias=False)
    )


def test_adapters_start_as_nothing_and_keep_the_names_of_weights():
    plain, x = network(), torch.randn(5, 30)
    adapted = copy.deepcopy(plain)
    add_adapters(adapted, 3)
    torch.testing.assert_close(adapted(x), plain(x), rtol=0, atol=0)
    assert set(plain.state_dict()) < set(adapted.state_dict())
    # 3 (30 + 20) weights instead of 600; 3 (20 + 2) would be more than 40: left alone
    assert [isinstance(layer, LowRankLinear) for layer in adapted] == [True, False, False, False]


def test_merging_gives_back_plain_layers_that_compute_the_same():
    adapted, x = network(), torch.randn(4, 5, 30)
    add_adapters(adapted, 3)
    nn.init.normal_(adapted[0].adapter_up)
    before, low_rank = adapted(x), adapted[0].adapter_up @ adapted[0].adapter_down
    weight = adapted[0].weight.clone()
    merge_adapters(adapted)
    assert type(adapted[0]) is nn.Linear
    torch.testing.assert_close(adapted[0].weight, weight + low_rank)
    assert torch.linalg.matrix_rank(adapted[0].weight - weight, tol=1e-4) == 3
    torch.testing.assert_close(adapted(x), before)


def test_adapters_are_not_stacked():
    adapted = network()
    add_adapters(adapted, 2)
    names = set(adapted.state_dict())
    add_adapters(adapted, 2)
    assert set(adapted.state_dict()) == names


def test_a_module_with_adapters_can_be_copied_and_pickled():
    adapted, x = network(), torch.randn(5, 30)
    add_adapters(adapted, 2)
    nn.init.normal_(adapted[0].adapter_up)
    for other in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        torch.testing.assert_close(other(x), adapted(x))


@pytest.mark.parametrize("rank", [0, -1, 1.5, "4"])
def test_rank_must_be_a_whole_number(rank):
    with pytest.raises(ValueError, match="adapter_rank is"):
        add_adapters(network(), rank)
