import pytest
import torch

from scgm_scvi.nn import ConditionEmbedding, drop_conditions

NAN = float("nan")


def no_values(n):
    return torch.zeros(n, 0)


def test_embedding_is_the_sum_of_one_row_per_attribute_with_null_in_row_zero():
    embed = ConditionEmbedding([3, 2], 0, 8)
    first, second = (table.weight for table in embed.tables)
    assert first.shape == (4, 8)
    tokens = torch.tensor([[0, 0], [3, 0], [0, 2], [1, 1]])
    expected = torch.stack([first[i] + second[j] for i, j in tokens.tolist()])
    torch.testing.assert_close(embed(tokens, no_values(4)), expected)


def test_unspecified_value_is_unlike_any_value():
    embed = ConditionEmbedding([], 1, 8)
    embed.set_value_range(torch.tensor([[1.0], [3.0]]))
    unspecified, again, mean, zero = embed(
        torch.zeros(4, 0, dtype=torch.long), torch.tensor([[NAN], [NAN], [2.0], [0.0]])
    )
    assert torch.equal(unspecified, again)
    assert (unspecified - mean).norm() > 1e-2
    assert (unspecified - zero).norm() > 1e-2


def test_unspecified_value_does_not_depend_on_the_range_of_the_training_data():
    embed, nan = ConditionEmbedding([], 1, 8), torch.full((1, 1), NAN)
    tokens = torch.zeros(1, 0, dtype=torch.long)
    before = embed(tokens, nan)
    embed.set_value_range(torch.tensor([[100.0], [300.0]]))
    assert torch.equal(embed(tokens, nan), before)


def test_nan_leaks_neither_into_the_output_nor_into_gradients():
    embed = ConditionEmbedding([2], 2, 8)
    values = torch.tensor([[NAN, 1.0], [NAN, NAN], [2.0, NAN]], requires_grad=True)
    out = embed(torch.tensor([[0], [1], [2]]), values)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in embed.parameters())
    assert values.grad.isfinite().all()


def test_value_range_standardizes_what_is_known():
    values = torch.tensor([[1.0, 7.0, NAN], [3.0, 7.0, NAN], [NAN, 7.0, 5.0]])
    embed = ConditionEmbedding([], 3, 8)
    embed.set_value_range(values)
    # a constant keeps a positive scale; one known value says nothing of a range
    torch.testing.assert_close(embed.value_shift, torch.tensor([2.0, 7.0, 0.0]))
    torch.testing.assert_close(embed.value_scale, torch.tensor([2**0.5, 1.0, 1.0]))
    assert {"value_shift", "value_scale"} <= embed.state_dict().keys()

    tokens = torch.zeros(1, 0, dtype=torch.long)
    plain = ConditionEmbedding([], 3, 8)
    plain.load_state_dict(
        {**embed.state_dict(), "value_shift": torch.zeros(3), "value_scale": torch.ones(3)}
    )
    standardized = torch.tensor([[(5.0 - 2.0) / 2**0.5, 0.0, 5.0]])
    torch.testing.assert_close(
        embed(tokens, torch.tensor([[5.0, 7.0, 5.0]])), plain(tokens, standardized)
    )


def test_table_grown_at_its_tail_keeps_old_embeddings():
    old, new = ConditionEmbedding([3, 2], 1, 8), ConditionEmbedding([5, 2], 1, 8)
    state = old.state_dict()
    tail = new.tables[0].weight[4:].detach()
    new.load_state_dict({**state, "tables.0.weight": torch.cat([state["tables.0.weight"], tail])})
    tokens = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    values = torch.randn(len(tokens), 1)
    assert torch.equal(new(tokens, values), old(tokens, values))


def test_each_attribute_is_dropped_at_its_rate_and_all_of_them_together():
    n, rate = 100_000, 0.2
    tokens = torch.randint(1, 5, (n, 2))
    values = torch.randn(n, 1)
    dropped_tokens, dropped_values = drop_conditions(tokens, values, rate)
    dropped = torch.cat([dropped_tokens == 0, dropped_values.isnan()], dim=1).double()
    alone = 1 - (1 - rate) ** 2  # by itself, or with all others
    torch.testing.assert_close(dropped.mean(0), torch.full((3,), alone).double(), atol=0.01, rtol=0)
    together = rate + (1 - rate) * rate**3
    assert dropped.all(1).double().mean().item() == pytest.approx(together, abs=0.01)
    kept = dropped_tokens != 0
    assert torch.equal(dropped_tokens[kept], tokens[kept])
    kept = ~dropped_values.isnan()
    assert torch.equal(dropped_values[kept], values[kept])


@pytest.mark.parametrize("categorical", [True, False])
def test_lone_attribute_is_dropped_at_the_rate_itself(categorical):
    n = 100_000
    if categorical:
        dropped = drop_conditions(torch.ones(n, 1, dtype=torch.long), no_values(n), 0.2)[0] == 0
    else:
        none = torch.zeros(n, 0, dtype=torch.long)
        dropped = drop_conditions(none, torch.ones(n, 1), 0.2)[1].isnan()
    assert dropped.double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_rate_zero_keeps_and_rate_one_drops_everything():
    tokens, values = torch.randint(0, 5, (1000, 2)), torch.randn(1000, 2)
    values[0, 0] = NAN
    kept_tokens, kept_values = drop_conditions(tokens, values, 0.0)
    assert torch.equal(kept_tokens, tokens)
    torch.testing.assert_close(kept_values, values, rtol=0, atol=0, equal_nan=True)
    no_tokens, none = drop_conditions(tokens, values, 1.0)
    assert no_tokens.dtype == torch.long
    assert not no_tokens.any()
    assert none.isnan().all()
    assert values.isnan().sum() == 1  # the arguments are left as they were


def test_dropping_uses_only_its_generator():
    tokens, values = torch.ones(100, 2, dtype=torch.long), no_values(100)
    before = torch.get_rng_state()
    a, b, c = (
        drop_conditions(tokens, values, 0.5, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)
