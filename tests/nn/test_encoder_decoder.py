import pytest
import torch
from torch import nn

from scgm_scvi.nn import ExpressionDecoder, ExpressionEncoder, MixturePrior, ScoreNetwork

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def counts(n=6, n_genes=20):
    return torch.poisson(torch.full((n, n_genes), 3.0)) + 1


def encoder(n_input=20, **kwargs):
    return ExpressionEncoder(n_input, 4, n_features=20, return_dist=True, **kwargs).eval()


def posterior(net, x):
    q, _ = net(x)
    return q.loc, q.scale


def test_encoder_does_not_see_the_depth():
    net, x = encoder(), counts()
    deeper = x * torch.tensor([[1.0], [2.0], [7.0], [0.1], [100.0], [1e4]])
    for a, b in zip(posterior(net, x), posterior(net, deeper), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    other = counts()
    assert (posterior(net, x)[0] - posterior(net, other)[0]).abs().max() > 1e-2


def test_encoder_reads_log1p_of_counts_per_10k():
    net = encoder()
    plain = encoder(normalize=False)
    plain.load_state_dict(net.state_dict())
    x = counts()
    logs = torch.log1p(1e4 * x / x.sum(1, keepdim=True))
    for a, b in zip(posterior(net, x), posterior(plain, logs), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_encoder_leaves_covariates_out_of_the_depth():
    net = encoder(n_input=22)
    plain = encoder(n_input=22, normalize=False)
    plain.load_state_dict(net.state_dict())
    x, covariates = counts(), torch.randn(6, 2) * 100
    logs = torch.log1p(1e4 * x / x.sum(1, keepdim=True))
    torch.testing.assert_close(
        posterior(net, torch.cat([x, covariates], 1)),
        posterior(plain, torch.cat([logs, covariates], 1)),
        **CLOSE,
    )


def test_encoder_survives_an_empty_cell_and_bounds_its_variance():
    net = encoder()
    assert posterior(net, torch.zeros(1, 20))[0].isfinite().all()
    for bias, log_variance in ((-100.0, -10.0), (100.0, 5.0)):
        nn.init.constant_(net.var_encoder.bias, bias)
        variance = posterior(net, counts())[1].square()
        expected = torch.full_like(variance, log_variance).exp() + net.var_eps
        torch.testing.assert_close(variance, expected)


@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5)])
def test_decoder_gives_proportions_and_scales_them_to_the_library(shape):
    net = ExpressionDecoder(5, 20).eval()
    log_size = torch.rand(*shape[:-1], 1) * 5 + 3
    scale, dispersion_shift, rate, zero_logits = net(torch.randn(shape), log_size)
    assert scale.shape == (*shape[:-1], 20)
    assert (scale > 0).all()
    torch.testing.assert_close(scale.sum(-1), torch.ones(shape[:-1]))
    torch.testing.assert_close(rate.sum(-1, keepdim=True), log_size.exp())
    assert dispersion_shift is None
    assert zero_logits is None


def test_decoder_starts_at_the_mean_composition():
    mean = torch.arange(1.0, 101.0) ** 2
    net = ExpressionDecoder(5, 100).eval()
    net.set_mean(mean)
    scale = net(torch.randn(500, 5), torch.zeros(500, 1))[0]
    ratio = scale / (mean / mean.sum())
    assert ratio.log().abs().max() < 0.5
    torch.testing.assert_close(ratio.mean(0), torch.ones(100), atol=0.2, rtol=0)
    # a gene never seen starts near zero, and finite
    mean[0] = 0
    net.set_mean(mean)
    scale = net(torch.randn(5, 5), torch.zeros(5, 1))[0]
    assert scale.isfinite().all()
    assert scale[:, 0].max() < 1e-7


def test_decoder_heads_are_built_where_they_are_asked_for():
    net = ExpressionDecoder(5, 20, zero_inflation=True, n_dispersion_factors=2).eval()
    _, shift, _, zero_logits = net(torch.randn(6, 5), torch.zeros(6, 1))
    assert shift.shape == zero_logits.shape == (6, 20)
    assert not shift.any()  # training starts from one dispersion per gene
    nn.init.normal_(net.dispersion_loadings.weight)
    shift = net(torch.randn(50, 5), torch.zeros(50, 1))[1]
    centred = shift - shift.mean(dim=0)
    assert torch.linalg.matrix_rank(centred, rtol=1e-4) == 2


def test_decoder_for_size_factors_is_positive_and_not_normalized():
    net = ExpressionDecoder(5, 20, scale_activation="softplus").eval()
    before = net.scale.bias.clone()
    net.set_mean(torch.ones(20))  # means of proportions say nothing here
    assert torch.equal(net.scale.bias, before)
    scale = net(torch.randn(6, 5), torch.zeros(6, 1))[0]
    assert (scale > 0).all()
    assert (scale.sum(-1) - 1).abs().min() > 0.1


def test_decoder_reads_nuisances():
    net = ExpressionDecoder(5, 20, n_cat_list=[2]).eval()
    z = torch.randn(6, 5)
    a, b = (net(z, torch.zeros(6, 1), torch.full((6, 1), i))[0] for i in (0, 1))
    assert (a - b).abs().amax(1).min() > 1e-5


NETWORKS = {
    "encoder": lambda: ExpressionEncoder(20, 4, n_features=20),
    "decoder": lambda: ExpressionDecoder(5, 20, n_cat_list=[2], n_layers=2),
    "score": lambda: ScoreNetwork(5, [3], 1, n_hidden=16),
    "prior": lambda: MixturePrior(3, 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_normalization(name):
    """A cell would depend on which others share its batch."""
    modules = list(NETWORKS[name]().modules())
    assert not [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_decoding_in_training_mode_does_not_depend_on_the_batch():
    net = ExpressionDecoder(5, 20).train()
    z, log_size = torch.randn(6, 5), torch.zeros(6, 1)
    alone = torch.cat([net(z[i : i + 1], log_size[i : i + 1])[0] for i in range(6)])
    torch.testing.assert_close(net(z, log_size)[0], alone)
