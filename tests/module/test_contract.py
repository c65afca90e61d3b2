"""Every module is what stage two takes it for."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.module import (
    SCGM_KEYS,
    SCGMVAE,
    DiffusionPEAKVAE,
    DiffusionVAE,
    LatentDiffusionModule,
    MultimodalVAE,
)

N, WIDTH, N_LATENT = 6, 20, 4


def scvis(module):
    module.init_denoiser(N_LATENT, n_conditions=[3], n_condition_values=1, n_nuisances=[1])
    if isinstance(module, DiffusionVAE):
        module.init_labels([])
    return module


OWN = {"n_latent": N_LATENT, "n_batch": 1, "n_conditions": [3], "n_condition_values": 1}
MODULES = {
    "genes": lambda: SCGMVAE(WIDTH, **OWN),
    "peaks": lambda: MultimodalVAE([WIDTH], ["bernoulli"], **OWN),
    "both": lambda: MultimodalVAE([8, WIDTH - 8], ["nb", "poisson"], **OWN),
    "VAE": lambda: scvis(DiffusionVAE(n_input=WIDTH, n_latent=N_LATENT)),
    "PEAKVAE": lambda: scvis(DiffusionPEAKVAE(n_input_regions=WIDTH, n_latent=N_LATENT)),
}


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]().eval()


@pytest.fixture
def tensors():
    g = torch.Generator().manual_seed(0)
    return {
        REGISTRY_KEYS.X_KEY: 1 + torch.poisson(torch.ones(N, WIDTH), generator=g),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(N, 1),
        SCGM_KEYS.CONDITIONS_KEY: torch.ones(N, 1),
        SCGM_KEYS.CONDITION_VALUES_KEY: torch.zeros(N, 1),
    }


def test_a_module_is_what_stage_two_needs(module, tensors):
    assert isinstance(module, LatentDiffusionModule)
    assert module.n_latent == N_LATENT
    assert module.n_sizes == len(module.widths)
    assert sum(module.widths) == WIDTH
    n_dims = N_LATENT + module.n_sizes
    assert module.denoiser.n_dims == n_dims
    assert module.features(tensors).shape == (N, WIDTH)
    assert [part.shape for part in module.conditions(tensors)] == [(N, 1), (N, 1)]
    assert [part.shape for part in module.denoiser_conditions(tensors)] == [(N, 2), (N, 1)]
    mean, variance = module.encode_state(tensors)
    assert mean.shape == variance.shape == (N, n_dims)
    latent, sizes = module.split_state(mean)
    assert (latent.shape, sizes.shape) == ((N, N_LATENT), (N, module.n_sizes))
    state = mean.clone().requires_grad_()
    px = module.decode_state(state, {k: v for k, v in tensors.items() if k != "X"})
    assert px.mean.shape == (N, WIDTH)
    assert torch.autograd.grad(px.mean.sum(), state)[0].any()
    assert module.scaled_sizes(sizes, torch.full_like(sizes, 0.5)).shape == sizes.shape
    shares = module.proportions(px.mean)
    torch.testing.assert_close(shares.sum(dim=1), torch.full((N,), float(module.n_sizes)))
    torch.testing.assert_close(shares * module.modality_totals(px.mean), px.mean)
    assert module.log_prior(latent).shape == (N,)


def test_another_module_is_not():
    assert not isinstance(torch.nn.Linear(1, 1), LatentDiffusionModule)
