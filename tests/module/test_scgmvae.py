from __future__ import annotations

import inspect

import pytest
import torch
from scvi import REGISTRY_KEYS
from scvi.module._constants import MODULE_KEYS

from scgm_scvi.module import SCGM_KEYS, SCGMVAE


def batch(n=16, n_genes=20):
    g = torch.Generator().manual_seed(0)
    return {
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.rand(n, n_genes, generator=g) + 0.2, generator=g),
        REGISTRY_KEYS.BATCH_KEY: torch.arange(n)[:, None] % 2,
        SCGM_KEYS.CONDITIONS_KEY: torch.arange(n)[:, None] % 3 + 1,
        SCGM_KEYS.CONDITION_VALUES_KEY: torch.rand(n, 1, generator=g),
    }


def make(**kwargs):
    torch.manual_seed(0)
    defaults = {"n_batch": 2, "n_hidden": 16, "n_latent": 4, "n_conditions": [3]}
    return SCGMVAE(20, **{**defaults, "n_condition_values": 1, **kwargs})


def test_signature_is_explicit():
    """scvi rebuilds modules by the names of their arguments."""
    kinds = {p.kind for p in inspect.signature(SCGMVAE).parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_no_batch_normalisation():
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in make().modules())


def test_denoiser_names_are_safe_from_scarches():
    """scArches unfreezes by name: what it looks for must not occur in the denoiser."""
    for name, _ in make().denoiser.named_parameters():
        assert not any(word in name for word in ("fc_layers", "encoder", "decoder")), name


def test_denoiser_is_frozen_and_its_gradient_none():
    module = make().train()
    module(batch())[2].loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in module.denoiser.parameters())
    unused = {"condition_embedding.tables.0.weight"}  # sanity: conditions do get a gradient
    assert dict(module.named_parameters())[unused.pop()].grad.abs().sum() > 0


def test_loss_is_the_negative_elbo():
    module = make().eval()
    tensors = batch()
    torch.manual_seed(1)
    inference, generative, loss = module(tensors)
    z, qz = inference[MODULE_KEYS.Z_KEY], inference[MODULE_KEYS.QZ_KEY]
    log_px = generative[MODULE_KEYS.PX_KEY].log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(-1)
    elbo = log_px + module.prior.log_prob(z) - qz.log_prob(z).sum(-1)
    torch.testing.assert_close(loss.loss, -elbo.mean(), rtol=1e-5, atol=1e-4)


def test_dispersion_shifts_are_shrunk():
    module = make()
    tensors = batch()
    inference, generative, _ = module(tensors)
    with torch.no_grad():
        base = module.loss(tensors, inference, generative, n_obs=100).loss
        module.px_r_shifts[0].weight.fill_(0.5)
        shifted = module.loss(tensors, inference, generative, n_obs=100).loss
    expected = 0.25 * module.px_r_shifts[0].weight.numel() / 200
    torch.testing.assert_close(shifted - base, torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_unspecified_is_the_null_token():
    module = make().eval()
    z, library = torch.randn(5, 4), torch.ones(5, 1)
    batch_index = torch.zeros(5, 1, dtype=torch.long)
    with torch.no_grad():
        left_out = module.generative(z, library, batch_index)[MODULE_KEYS.PX_KEY].mean
        null = module.generative(
            z,
            library,
            batch_index,
            tokens=torch.zeros(5, 1, dtype=torch.long),
            values=torch.full((5, 1), float("nan")),
        )[MODULE_KEYS.PX_KEY].mean
        named = module.generative(
            z, library, batch_index, tokens=torch.ones(5, 1, dtype=torch.long)
        )[MODULE_KEYS.PX_KEY].mean
    assert torch.equal(left_out, null)
    assert not torch.allclose(left_out, named)


def test_null_token_never_gets_a_dispersion():
    module = make().train()
    tensors = batch()
    tensors[SCGM_KEYS.CONDITIONS_KEY] = torch.zeros(16, 1)
    module(tensors, loss_kwargs={"n_obs": 16})[2].loss.backward()
    assert (module.px_r_shifts[0].weight.grad[0] == 0).all()


def test_state_is_latent_and_log_depth():
    module = make().eval()
    tensors = batch()
    mean, variance = module.encode_state(tensors)
    assert mean.shape == variance.shape == (16, 5)
    depth = tensors[REGISTRY_KEYS.X_KEY].sum(1)
    torch.testing.assert_close(mean[:, -1], depth.log())
    assert (variance[:, -1] == 0).all()
    assert (variance[:, :-1] > 0).all()


def test_decoding_the_state_is_scvi_s_decoding():
    module = make().eval()
    tensors = batch()
    mean, _ = module.encode_state(tensors)
    inference = {MODULE_KEYS.Z_KEY: mean[:, :-1], MODULE_KEYS.LIBRARY_KEY: mean[:, -1:]}
    expected = module.generative(**module._get_generative_input(tensors, inference))
    torch.testing.assert_close(
        module.decode_state(mean, tensors).mean, expected[MODULE_KEYS.PX_KEY].mean
    )
    torch.testing.assert_close(
        module.decode_state(mean, tensors).mean.sum(1), tensors[REGISTRY_KEYS.X_KEY].sum(1)
    )


def test_nuisances_are_conditions_of_the_denoiser():
    module = make()
    tokens, values = module.denoiser_conditions(batch())
    assert tokens[:4].tolist() == [[1, 1], [2, 2], [3, 1], [1, 2]]
    assert values.shape == (16, 1)
    assert len(module.denoiser.network.conditions.tables) == 2


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
def test_every_likelihood_trains(likelihood, dispersion):
    module = make(gene_likelihood=likelihood, dispersion=dispersion).train()
    loss = module(batch())[2].loss
    loss.backward()
    assert torch.isfinite(loss)
    assert module.decoder.scale.weight.grad.abs().sum() > 0


def test_marginal_likelihood_bounds_the_elbo():
    module = make().eval()
    tensors = batch()
    torch.manual_seed(0)
    elbo = -torch.stack([module(tensors)[2].loss for _ in range(50)]).mean()
    assert module.marginal_ll(tensors, n_mc_samples=200, return_mean=True) > elbo
    per_pass = module.marginal_ll(tensors, n_mc_samples=200, n_mc_samples_per_pass=50)
    assert per_pass.shape == (16,)
