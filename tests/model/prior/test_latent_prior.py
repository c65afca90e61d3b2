"""The prior as an object: a module, what it knows, and no cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgm_scvi.model.prior._edited_states import Edit, EditedCells, edited
from scgm_scvi.model.prior._latent_prior import LatentPrior
from scgm_scvi.model.prior._posterior import fit_posterior
from scgm_scvi.model.requests._kinds import NumericCondition
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import SCGMVAE

N_GENES, N_LATENT = 30, 5


@pytest.fixture(scope="module")
def prior() -> LatentPrior:
    torch.manual_seed(0)
    module = SCGMVAE(
        N_GENES,
        n_batch=2,
        n_latent=N_LATENT,
        n_hidden=16,
        n_conditions=[2],
        n_condition_values=1,
        denoiser_kwargs={"n_hidden": 16, "n_layers": 1},
    ).eval()
    for p in module.denoiser.parameters():  # it starts from the identity
        p.data += 0.1 * torch.randn_like(p)
    spec = ConditionSpec(
        categorical={"type": np.array(["A", "B"])},
        numeric={"dose": NumericCondition("continuous")},
        batch={"donor": np.array(["d1", "d2"])},
        covariates={},
        numeric_covariates=[],
    )
    design = {
        "tokens": np.array([[1, 1], [1, 1], [2, 2], [2, 2]]),  # every A is of d1, every B of d2
        "values": np.zeros((4, 1), np.float32),
        "numeric": np.zeros((4, 0), np.float32),
    }
    return LatentPrior(module, spec, design)


def asked(prior, n, **conditions):
    request = Request.parse(prior.spec, n, conditions)
    return request.draw_nuisances(prior.design, np.random.default_rng(0))


def test_cells_of_attributes_alone(prior):
    cells = asked(prior, 6, type="B")
    assert cells.batch.ravel().tolist() == [1] * 6
    sampling = Sampling.parse(prior.spec, n_steps=5)
    state = prior.sample(cells, sampling, prior.generator(0))
    assert state.shape == (6, N_LATENT + 1) and state.dtype == torch.float32
    torch.testing.assert_close(state, prior.sample(cells, sampling, prior.generator(0)))
    counts = prior.express(state, cells, "counts", 0)
    assert counts.shape == (6, N_GENES) and (counts.data == np.rint(counts.data)).all()
    shares = prior.express(state, cells, "normalized", 0)
    np.testing.assert_allclose(shares.sum(axis=1), 1e4, rtol=1e-4)
    assert prior.latents(state).shape == (6, N_LATENT)


def test_noise_there_and_back(prior):
    cells = asked(prior, 4, type="A")
    sampling = Sampling.parse(prior.spec, sampler="heun", n_steps=60)
    state = torch.randn(4, N_LATENT + 1, generator=prior.generator(1))
    noise = prior.invert(state, cells, sampling)
    back = prior.descend(noise, cells, sampling, prior.generator(0))
    torch.testing.assert_close(back, state, atol=0.05, rtol=0.05)


def test_guidance_moves_away_from_the_unconditional(prior):
    cells, x = asked(prior, 3, type="A", dose=2.0), torch.randn(3, N_LATENT + 1).double()
    sigma = torch.tensor(1.0, dtype=torch.float64)
    with torch.no_grad():
        plain, nothing = prior.denoiser(cells), prior.denoiser(cells.without({"type", "dose"}))
        twice = prior.denoiser(cells, Sampling.parse(prior.spec, guidance_scale=2.0))
        a, b, c = (d(x, sigma) for d in (plain, nothing, twice))
    torch.testing.assert_close(c, 2 * a - b, atol=1e-5, rtol=1e-5)


def test_strength_nothing_is_the_state_itself(prior):
    own, target = asked(prior, 3, type="A"), asked(prior, 3, type="B")
    state = torch.randn(3, N_LATENT + 1)
    for method in ("sdedit", "inversion", "shift"):
        edit = Edit(method, 0.0, Sampling.parse(prior.spec), edit_library_size=True)
        same = edited(prior, EditedCells(own, target, state), edit, prior.generator(0))
        torch.testing.assert_close(same, state)


def test_a_posterior_of_counts(prior):
    cells = asked(prior, 3, type="A")
    x = torch.poisson(torch.full((3, N_GENES), 2.0))
    tensors = {**cells.tensors, "X": x}
    start = fit_posterior(prior, tensors, 0, prior.generator(0))
    fitted = fit_posterior(prior, tensors, 30, prior.generator(0))
    with torch.no_grad():
        before, after = (q.decode(q.mean).log_prob(x).sum() for q in (start, fitted))
    assert after > before
    assert (fitted.std > 0).all() and fitted.latents.shape == (3, N_LATENT)


def test_cells_that_go_astray_are_told_of(prior):
    sampling = Sampling.parse(prior.spec, n_steps=3, guidance_scale=1e8)
    with pytest.raises(RuntimeError, match="cells went off to infinity.*n_steps"):
        prior.sample(asked(prior, 2, type="A"), sampling, prior.generator(0))
