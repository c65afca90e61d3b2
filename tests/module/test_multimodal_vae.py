import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scgm_scvi.distributions import log_likelihood
from scgm_scvi.module import SCGM_KEYS, MissingSizes, MultimodalVAE

BLOCKS = [12, 30]


def minibatch(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    rate = torch.full((n, BLOCKS[0]), 2.0), torch.full((n, BLOCKS[1]), 0.3)
    x, atac = (torch.poisson(r, generator=g) for r in rate)
    x[:, 0] += 1
    atac[:, 0] += 1
    return {
        REGISTRY_KEYS.X_KEY: x,
        REGISTRY_KEYS.ATAC_X_KEY: atac,
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(n, 1),
        SCGM_KEYS.CONDITIONS_KEY: torch.ones(n, 1, dtype=torch.long),
    }


def module(likelihoods=("nb", "poisson"), **kwargs):
    torch.manual_seed(0)
    options = {"n_batch": 1, "n_hidden": 16, "n_latent": 4, "n_conditions": [2], **kwargs}
    return MultimodalVAE(BLOCKS, list(likelihoods), **options)


@pytest.mark.parametrize("peaks", ["poisson", "nb", "bernoulli"])
def test_every_weight_learns(peaks):
    vae, tensors = module(("nb", peaks)), minibatch(64)
    vae(tensors)[2].loss.backward()
    still = [
        k
        for k, p in vae.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # the loadings start at zero, so that what they are multiplied by has no gradient yet
    assert [k for k in still if "dispersion_factors" not in k] == []


def test_a_block_that_was_not_measured_says_nothing_and_is_not_asked_for():
    vae, tensors = module().eval(), minibatch()
    rna = {**tensors, REGISTRY_KEYS.ATAC_X_KEY: torch.zeros(6, BLOCKS[1])}
    inference, generative, losses = vae(rna)
    assert inference["shown"].tolist() == [[True, False]] * 6
    px = generative["px"].parts[0]
    expected = -log_likelihood(px, rna[REGISTRY_KEYS.X_KEY])
    found = losses.reconstruction_loss["reconstruction_loss"]
    assert torch.allclose(found, expected, rtol=1e-5)


def test_blocks_are_hidden_in_training_alone_and_never_all():
    vae, tensors = module(modality_dropout=1.0), minibatch(200)
    shown = vae.inference(**vae._get_inference_input(tensors))["shown"]
    assert (shown.sum(dim=1) == 1).all()
    assert 0.3 < shown[:, 0].float().mean() < 0.7
    vae.eval()
    assert vae.inference(**vae._get_inference_input(tensors))["shown"].all()


def test_what_a_cell_has_beside_it_changes_nothing():
    vae, tensors = module(), minibatch()
    alone = {k: v[2:3] for k, v in tensors.items()}
    for together, by_itself in zip(vae.encode_state(tensors), vae.encode_state(alone), strict=True):
        assert torch.allclose(together[2:3], by_itself, atol=1e-5)


def test_states_end_with_the_log_sizes_of_the_blocks():
    vae, tensors = module(), minibatch()
    _, sizes = vae.split_state(vae.encode_state(tensors)[0])
    counts = tensors[REGISTRY_KEYS.X_KEY].sum(1), tensors[REGISTRY_KEYS.ATAC_X_KEY].sum(1)
    assert torch.allclose(sizes, torch.stack(counts, dim=1).log())
    state = torch.cat([torch.zeros(6, 4), sizes], dim=1)
    mean = vae.decode_state(state, tensors).mean.split(BLOCKS, dim=1)
    for part, total in zip(mean, counts, strict=True):
        assert torch.allclose(part.sum(1), total, rtol=1e-4)


def test_bernoulli_blocks_see_only_what_is_open():
    vae, tensors = module(("nb", "bernoulli")).eval(), minibatch()
    more = {**tensors, REGISTRY_KEYS.ATAC_X_KEY: tensors[REGISTRY_KEYS.ATAC_X_KEY] * 5}
    for a, b in zip(vae.encode_state(tensors), vae.encode_state(more), strict=True):
        assert torch.equal(a, b)
    sample = vae.decode_state(vae.encode_state(tensors)[0], tensors).sample()[:, BLOCKS[0] :]
    assert set(sample.unique().tolist()) <= {0.0, 1.0}


def test_unknown_sizes_are_told_from_the_latent_and_the_other_size():
    rng = np.random.default_rng(0)
    latent = torch.as_tensor(rng.normal(size=(500, 3)), dtype=torch.float32)
    first = torch.as_tensor(rng.normal(size=500), dtype=torch.float32)
    noise = torch.as_tensor(rng.normal(size=500), dtype=torch.float32)
    sizes = torch.stack([8 + first, 6 + latent[:, 0] + 0.5 * first + 0.1 * noise], dim=1)
    measured = torch.ones(500, 2, dtype=torch.bool)
    measured[400:, 1] = False
    missing = MissingSizes(3, 2)
    missing.fit(latent, sizes, measured)
    given = torch.where(measured, sizes, torch.tensor(-99.0))
    mean, variance = missing(latent, given, measured)
    assert torch.equal(mean[measured], sizes[measured])
    assert (variance[measured] == 0).all()
    error = mean[400:, 1] - sizes[400:, 1]
    assert error.square().mean() == pytest.approx(0.01, rel=0.4)
    assert variance[450, 1] == pytest.approx(0.01, rel=0.4)
