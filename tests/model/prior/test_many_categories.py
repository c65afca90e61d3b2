"""Of very many categories those that matter are looked at closely, and the answer is the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from helpers import QUIET, SMALL

from scgm_scvi import SCGM
from scgm_scvi.model.prior import _class_evidence
from scgm_scvi.model.requests._attributes import Attributes

N, PER = 120, 6
FAST = {"n_samples": 2, "n_levels": 4, "progress_bar": False}


@pytest.fixture(scope="module")
def many():
    """Types that differ: a few cells of each are enough to tell them."""
    rng = np.random.default_rng(0)
    programs = rng.gamma(0.3, size=(N, 60)) * 20
    labels = np.arange(N).repeat(PER)
    x = rng.poisson(programs[labels]).astype(np.float32)
    x[:, 0] += 1
    names = [f"cell{i}" for i in range(len(labels))]
    types = [f"t{i:03d}" for i in labels]
    adata = AnnData(x, obs=pd.DataFrame({"type": types}, index=names))
    SCGM.setup_anndata(adata, labels_key="type")
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=12, diffusion_kwargs={"max_steps": 200, **QUIET}, **QUIET)
    return model


@pytest.fixture
def counted(many, monkeypatch):
    """Rows that the denoiser's network has seen."""
    rows = []
    network = many.module.denoiser.network
    hook = network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    yield rows
    hook.remove()


@pytest.mark.parametrize(("most", "share", "tolerance"), [(None, 1.5, 1e-3), (32, 0.8, 0.1)])
def test_the_answer_is_that_of_a_close_look_at_all(
    many, counted, monkeypatch, most, share, tolerance
):
    cells = np.random.default_rng(0).choice(many.adata.n_obs, 40, replace=False)
    many._classifier_weights("type", {"n_samples": 2, "n_levels": 4})
    if most is not None:
        monkeypatch.setattr(_class_evidence, "_MOST_CANDIDATES", most)
    counted.clear()
    short = many.classify(indices=cells, **FAST)
    n_short = sum(counted)
    monkeypatch.setattr(_class_evidence, "_N_CANDIDATES", N)
    counted.clear()
    close = many.classify(indices=cells, **FAST)
    assert n_short <= share * sum(counted)  # half of it is the short look at all
    assert (short.idxmax(axis=1) == close.idxmax(axis=1)).all()
    np.testing.assert_allclose(short, close, atol=tolerance)
    np.testing.assert_allclose(short.sum(axis=1), 1)
    labels = many.adata.obs["type"].iloc[cells]
    assert (short.idxmax(axis=1) == labels).mean() > 0.5  # far above chance, so it means something


def test_a_short_look_of_everything_is_the_same_up_to_scatter(many):
    """Categories that come together agree with categories that come one by one."""
    (tensors,) = many._make_data_loader(adata=many.adata, indices=np.arange(7), batch_size=7)
    mean, _ = many.module.encode_state(tensors)
    prior, x = many.prior, many.module.features(tensors)
    own = Attributes.of(prior.spec, tensors)
    latent, features = _class_evidence._screening(prior, own, x, mean, "type", seed=0)
    as_each = [own.with_category("type", np.full(7, c)) for c in range(N)]
    with torch.no_grad():
        one_by_one = _class_evidence._feature_evidence(prior, x, mean, as_each)
    torch.testing.assert_close(features, one_by_one, rtol=1e-4, atol=1e-2)
    assert latent.shape == (7, N)


def test_few_categories_are_all_looked_at(many, monkeypatch):
    calls = []
    monkeypatch.setattr(_class_evidence, "_screening", lambda *a, **k: calls.append(a) or 1 / 0)
    monkeypatch.setattr(_class_evidence, "_N_CANDIDATES", N)
    many.classify(indices=[0, 1], **FAST)
    assert not calls
