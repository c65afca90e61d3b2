"""Changes that training never showed for some cells, taken over from those most like them."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, SMALL, make_adata

from scgm_scvi import SCGM
from scgm_scvi.diffusion import classifier_free
from scgm_scvi.model.prior import _analogy_search
from scgm_scvi.model.prior._analogy import Analogy
from scgm_scvi.model.prior._analogy_search import _candidates, find_analogy

NAIVE, CYTOTOXIC = "CD8+/CD45RA+ Naive Cytotoxic", "CD8+ Cytotoxic T"


@pytest.fixture(scope="module")
def unseen() -> SCGM:
    """A model that never saw a stimulated naive T cell."""
    adata = make_adata()
    adata.obs["stimulation"] = np.where(np.arange(adata.n_obs) % 2, "IFNb", "control")
    out = (adata.obs["cell_type"] == NAIVE) & (adata.obs["stimulation"] == "IFNb")
    adata = adata[~out].copy()
    scvi.settings.seed = 0  # whatever ran before
    SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["stimulation"])
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=8, diffusion_kwargs={"max_steps": 150, **QUIET}, **QUIET)
    return model


def controls(model, kind):
    obs = model.adata.obs
    return model.adata[(obs["cell_type"] == kind) & (obs["stimulation"] == "control")][:6].copy()


def analogy_of(model, kind):
    own, _ = model._states(controls(model, kind))
    codes = list(model.condition_spec.categorical["stimulation"])
    target = own.with_category("stimulation", codes.index("IFNb"))
    return own, target, find_analogy(model.prior, own, target, {"stimulation"}, 1.5)


def test_only_where_the_target_was_never_seen(unseen):
    _, _, (analogy, described) = analogy_of(unseen, CYTOTOXIC)
    assert analogy is None and described == {}


def test_the_nearest_that_was_seen_both_ways_stands_in(unseen):
    own, target, (analogy, described) = analogy_of(unseen, NAIVE)
    ((source, stand_in),) = described.items()
    assert source == f"cell_type={NAIVE}"
    kinds = ["Dendritic", "CD14+ Monocyte", "CD34+"]  # a lymphocyte is nearer than these
    assert stand_in not in [f"cell_type={kind}" for kind in kinds]
    assert (analogy.unseen == 1).all() and analogy.scale == 1.5
    column = list(unseen.condition_spec.categorical).index("cell_type")
    assert (analogy.source.tokens[:, column] == analogy.target.tokens[:, column]).all()
    assert (analogy.source.tokens[:, column] != own.tokens[:, column]).all()
    other = 1 - column
    torch.testing.assert_close(analogy.source.tokens[:, other], own.tokens[:, other])
    torch.testing.assert_close(analogy.target.tokens[:, other], target.tokens[:, other])


def test_the_denoiser_adds_the_change(unseen):
    _, target, (analogy, _) = analogy_of(unseen, NAIVE)
    x = torch.randn(6, unseen.module.denoiser.n_dims, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(1.0, dtype=torch.float64)

    def of(attributes):
        conditions = unseen.module.denoiser_conditions(attributes.tensors)
        return classifier_free(unseen.module.denoiser, [(1.0, conditions)])(x, sigma)

    with torch.no_grad():
        expected = of(analogy.own) + 1.5 * (of(analogy.target) - of(analogy.source))
        found = unseen.prior.denoiser(target, analogy=analogy)(x, sigma)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # rows that were seen are denoised as ever
        mask = torch.tensor([[1.0], [0.0]] * 3)
        some = Analogy(mask, analogy.own, analogy.source, analogy.target, 1.5)
        mixed = unseen.prior.denoiser(target, analogy=some)(x, sigma)
        torch.testing.assert_close(mixed[::2], expected[::2], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mixed[1::2], of(target)[1::2], atol=1e-5, rtol=1e-5)


def test_edit_tells_whom_it_followed(unseen, tmp_path):
    out = unseen.edit(
        controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
        seed=0, progress_bar=False,
    )  # fmt: skip
    (told,) = out.uns["scgm_edited"]["analogies"]
    assert told.startswith(f"cell_type={NAIVE} as cell_type=")
    out.write_h5ad(tmp_path / "edited.h5ad")  # though its name holds a slash
    joint = unseen.edit(
        controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
        composition="joint", seed=0, progress_bar=False,
    )  # fmt: skip
    assert joint.uns["scgm_edited"]["analogies"] == []
    assert not np.allclose(out.obsm["X_scgm_edited"], joint.obsm["X_scgm_edited"])


def test_the_scale_is_the_users(unseen):
    latents = [
        unseen.edit(
            controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
            guidance_scale=scale, seed=0, progress_bar=False,
        ).obsm["X_scgm_edited"]
        for scale in (None, 1.25, {"stimulation": 1.25}, 3.0)
    ]  # fmt: skip
    np.testing.assert_allclose(latents[0], latents[1])
    np.testing.assert_allclose(latents[0], latents[2])
    assert not np.allclose(latents[0], latents[3])


def test_candidates_are_seen_both_ways():
    # kind, stimulation: kind 1 seen both ways, 2 as control only, 3 stimulated only, 4 both ways
    design = np.array([[1, 1], [1, 2], [2, 1], [3, 2], [4, 1], [4, 2], [0, 1], [0, 2]])
    free = np.array([True, False])
    found = _candidates(design, np.array([2, 1]), np.array([2, 2]), free)
    np.testing.assert_array_equal(found, [[1, 1], [4, 1]])
    nothing = _candidates(design[:4], np.array([3, 1]), np.array([3, 3]), free)
    assert len(nothing) == 0


def test_the_fewer_the_farther(unseen, monkeypatch):
    """Of two that are alike, the one with more cells stands in."""
    design = np.repeat([[1, 1], [1, 2], [2, 1], [2, 2]], [100, 16, 25, 400], axis=0)
    known, free = np.array([[1, 1], [2, 1]]), np.array([True, False])
    found = _analogy_search._sizes(design, known, np.array([3, 2]), free)
    np.testing.assert_array_equal(found, [16, 25])
    monkeypatch.setattr(_analogy_search, "_SCARCITY", 1e6)  # then only the number matters
    _, _, (_, described) = analogy_of(unseen, NAIVE)
    assert list(described.values()) == ["cell_type=Dendritic"]  # the most frequent type
