"""Layers for features in modalities, most of which are zero."""

import pytest
import torch

from scgm_scvi.nn import ExpressionDecoder, MultimodalEncoder, SparseLinear


def sparse_input(n=6, width=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, width, generator=g)
    x[x < 0.9] = 0
    x[0], x[-1] = 0, 0  # rows without entries, at both ends
    return x


def test_sparse_linear_is_linear_and_so_are_its_gradients():
    torch.manual_seed(0)
    layer, x = SparseLinear(40, 5), sparse_input()
    target = torch.randn(6, 5)
    found = torch.autograd.grad(((layer(x) - target) ** 2).sum(), [layer.weight, layer.bias])
    dense = x @ layer.weight + layer.bias
    expected = torch.autograd.grad(((dense - target) ** 2).sum(), [layer.weight, layer.bias])
    assert torch.allclose(layer(x), dense, atol=1e-6)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_sparse_linear_of_nothing():
    layer = SparseLinear(4, 2)
    assert torch.equal(layer(torch.zeros(3, 4)), layer.bias.expand(3, -1))


def test_what_is_not_shown_is_not_looked_at():
    torch.manual_seed(0)
    encoder = MultimodalEncoder([10, 30], 4).eval()
    x, shown = sparse_input().abs() * 10, torch.tensor([[True, False]] * 6)
    other = x.clone()
    other[:, 10:] = torch.rand(6, 30)
    a, b = (encoder(counts, shown)[0] for counts in (x, other))
    assert torch.equal(a.loc, b.loc)
    assert not torch.equal(encoder(other, torch.ones(6, 2).bool())[0].loc, b.loc)


def test_depth_of_a_block_is_divided_out():
    torch.manual_seed(0)
    encoder, shown = MultimodalEncoder([10, 30], 4).eval(), torch.ones(6, 2).bool()
    x = (sparse_input() * 10).ceil()
    deeper = x.clone()
    deeper[:, 10:] *= 3
    a, b = (encoder(counts, shown)[0].loc for counts in (x, deeper))
    assert torch.allclose(a, b, atol=1e-5)


def test_sigmoid_decoders_add_depth_to_the_log_odds():
    torch.manual_seed(0)
    decoder = ExpressionDecoder(4, 10, scale_activation="sigmoid")
    z, batch = torch.randn(3, 4), torch.zeros(3, 1)
    logits, _, p, _ = decoder(z, torch.zeros(3, 1), batch)
    assert torch.allclose(p.logit(), logits, atol=1e-5)
    assert torch.allclose(decoder(z, torch.ones(3, 1), batch)[2].logit(), logits + 1, atol=1e-4)


@pytest.mark.parametrize("n_factors", [None, 7])
def test_rank_of_a_decoder(n_factors):
    torch.manual_seed(0)
    decoder = ExpressionDecoder(4, 50, n_hidden=16, n_factors=n_factors)
    with torch.no_grad():
        decoder.scale.bias.zero_()
        scale, *_ = decoder(torch.randn(200, 4), torch.zeros(200, 1), torch.zeros(200, 1))
    logits = scale.log()
    centred = logits - logits.mean(dim=1, keepdim=True)
    assert torch.linalg.matrix_rank(centred.double(), rtol=1e-4) <= (n_factors or 16)
