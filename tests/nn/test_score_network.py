import pytest
import torch

from scgm_scvi.nn import ScoreNetwork


@pytest.fixture
def network():
    """In double precision, and away from its start at zero."""
    net = ScoreNetwork(5, n_categories=[3, 2], n_continuous=1, n_hidden=16, n_layers=2).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


@pytest.fixture
def batch():
    n = 12
    x, noise = torch.randn(n, 5).double(), torch.randn(n).double()
    tokens = torch.stack([torch.randint(0, 4, (n,)), torch.randint(0, 3, (n,))], dim=1)
    values = torch.randn(n, 1).double()
    values[::3] = float("nan")
    return x, noise, tokens, values


def test_starts_at_zero_and_can_leave_it(batch):
    net = ScoreNetwork(5, [3, 2], 1, n_hidden=16, n_layers=2).double()
    assert not net(*batch).any()
    (net(*batch) - 1).square().sum().backward()
    assert net.output.weight.grad.abs().max() > 0


def test_a_cell_does_not_depend_on_its_batch(network, batch):
    out = network(*batch)
    assert out.std(0).min() > 0
    order = torch.randperm(len(out))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(network(*(b[order] for b in batch)), out[order], **close)
    alone = torch.cat([network(*(b[i : i + 1] for b in batch)) for i in range(len(out))])
    torch.testing.assert_close(alone, out, **close)


def test_no_gradient_flows_between_cells(network, batch):
    x, *rest = batch
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, *rest).sum(1), x)
    size = jacobian.abs().sum(-1)
    assert not (size - size.diag().diag()).any()
    assert (size.diag() > 0).all()


@pytest.mark.parametrize("part", ["x", "noise", "tokens", "values"])
def test_every_input_matters(network, batch, part):
    changed = list(batch)
    i = ["x", "noise", "tokens", "values"].index(part)
    changed[i] = {
        "x": lambda x: x + 1,
        "noise": lambda noise: noise + 0.1,
        "tokens": lambda tokens: (tokens + 1) % torch.tensor([4, 3]),
        "values": lambda values: values.nan_to_num() + 1,
    }[part](batch[i])
    assert ((network(*changed) - network(*batch)).abs().amax(1) > 1e-3).all()


def test_levels_across_the_schedule_are_told_apart(network):
    # ln(sigma) / 4 of sigma from 0.002 to 80, in steps of 10%
    noise = torch.arange(-6.2, 4.4, 0.1).double() / 4
    n = len(noise)
    out = network(
        torch.ones(n, 5).double(), noise, torch.zeros(n, 2).long(), torch.zeros(n, 1).double()
    )
    assert torch.pdist(out).min() > 1e-4
    assert out.diff(dim=0).norm(dim=1).max() < torch.pdist(out).max()
