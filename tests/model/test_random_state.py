"""No verb moves the global random state, and none depends on it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers import QUIET, make_mdata, make_model, make_multi
from scipy import sparse

VERBS = {
    "generate": lambda m, a: m.generate(4, n_steps=2, **SEED).X,
    "generate, stochastic": lambda m, a: m.generate(4, n_steps=2, sampler="dpmpp_2m_sde", **SEED).X,
    "edit": lambda m, a: m.edit(a, {"stimulation": "IFNb"}, n_steps=2, copy=True, **SEED).layers[
        "scgm_edited"
    ],
    "edit_curve": lambda m, a: m.edit_curve(
        a, {"stimulation": "IFNb"}, strengths=[0.3, 0.8], **SEED
    ),
    "enhance": lambda m, a: m.enhance(a, n_fit_steps=2, copy=True, **SEED).layers["scgm_enhanced"],
    "impute": lambda m, a: m.impute(a[:, 30:].copy(), n_fit_steps=2, **SEED).X,
    "interpolate": lambda m, a: (
        m.interpolate(a, {"cell_type": "CD34+"}, n_points=2, n_steps=2, **SEED).X
    ),
    "augment": lambda m, a: m.augment(a, "cell_type", n_steps=2, **SEED).X,
    "classify": lambda m, a: m.classify(a, "cell_type", n_samples=1, n_levels=2, **SEED),
    "ood_score": lambda m, a: m.ood_score(a, **SEED),
    "log_likelihood": lambda m, a: m.log_likelihood(a, tolerance=0.1, **SEED),
    "denoising_loss": lambda m, a: m.denoising_loss(a, n_levels=2, **SEED),
}
SEED = {"seed": 3, "progress_bar": False}


def state() -> list[bytes]:
    numpy = np.random.get_state()
    return [
        torch.random.get_rng_state().numpy().tobytes(),
        numpy[1].tobytes() + bytes(str(numpy[2:]), "ascii"),
        bytes(str(random.getstate()), "ascii"),
    ]


def twice(verb, *args):
    """What the verb makes in two global states, neither of which it may move."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = state()
        made.append(verb(*args))
        assert [a == b for a, b in zip(before, state(), strict=True)] == [True] * 3
    return [m.toarray() if sparse.issparse(m) else np.asarray(m, dtype=float) for m in made]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs(model, adata, verb):
    np.testing.assert_array_equal(*twice(VERBS[verb], model, adata[:25].copy()))


def test_translate():
    mdata = make_mdata()
    model, rna = make_multi(mdata, epochs=1, steps=2), mdata["rna"][:9].copy()
    made = twice(lambda: model.translate(rna, conditions={}, **SEED).X)
    np.testing.assert_array_equal(*made)


def test_training_stage_two(adata):
    model = make_model(adata, epochs=1, steps=2)
    start = {k: v.clone() for k, v in model.module.state_dict().items()}

    def weights():
        model.module.load_state_dict(start)
        model.train_diffusion(max_steps=3, seed=1, **QUIET)
        return torch.cat([p.ravel() for p in model.module.denoiser.parameters()]).numpy()

    np.testing.assert_array_equal(*twice(weights))
