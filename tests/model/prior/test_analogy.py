"""Changes that training never showed for some cells, taken over from those most like them."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from helpers import QUIET, SMALL, make_adata

from scgm_scvi import SCGM
from scgm_scvi.diffusion import classifier_free
from scgm_scvi.model.prior import _analogy_search
from scgm_scvi.model.prior._analogy_search import _candidates, find_analogy
from scgm_scvi.model.prior._borrowing import Borrowing

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
    return own, target, find_analogy(model._profiles(), own, target, {"stimulation"}, 1.5)


def test_only_where_the_target_was_never_seen(unseen):
    _, _, (analogy, borrowed) = analogy_of(unseen, CYTOTOXIC)
    assert analogy is None and borrowed == []


def test_groups_that_were_seen_both_ways_lend_their_change(unseen):
    own, target, (analogy, (borrowed,)) = analogy_of(unseen, NAIVE)
    assert borrowed.group == f"cell_type={NAIVE}"
    assert f"cell_type={NAIVE}" not in borrowed.shares
    assert sum(borrowed.shares.values()) == pytest.approx(1)
    assert (analogy.unseen == 1).all()
    assert analogy.weights.shape == (6, len(borrowed.shares))
    expected = 1.5 * borrowed.rule.size * np.array(list(borrowed.shares.values()))
    np.testing.assert_allclose(analogy.weights, np.tile(expected, (6, 1)), rtol=1e-5)
    column = list(unseen.condition_spec.categorical).index("cell_type")
    types = unseen.condition_spec.categorical["cell_type"]
    other = 1 - column
    for source, after, name in zip(analogy.sources, analogy.targets, borrowed.shares, strict=True):
        for end, like in ((source, own), (after, target)):
            lender = {f"cell_type={types[t - 1]}" for t in end.tokens[:, column].tolist()}
            assert lender == {name}
            torch.testing.assert_close(end.tokens[:, other], like.tokens[:, other])


def test_cells_of_two_groups_borrow_from_other_ones(unseen):
    """Rows that need fewer groups have weight 0 for the rest."""
    own, target, (analogy, _) = analogy_of(unseen, NAIVE)
    rows = analogy.rows(torch.tensor([0, 2]))
    torch.testing.assert_close(rows.weights, analogy.weights[[0, 2]])
    for a, b in zip(rows.sources, analogy.sources, strict=True):
        torch.testing.assert_close(a.tokens, b.tokens[[0, 2]])
    both = own.rows(torch.arange(6))
    codes = list(unseen.condition_spec.categorical["cell_type"])
    mixed = both.with_category("cell_type", codes.index(CYTOTOXIC))
    column = list(unseen.condition_spec.categorical).index("cell_type")
    tokens = own.tokens.clone()
    tokens[3:, column] = mixed.tokens[3:, column]
    some, towards = replace(own, tokens=tokens), replace(target, tokens=tokens.clone())
    towards.tokens[:, 1 - column] = target.tokens[:, 1 - column]
    found, borrowed = find_analogy(unseen._profiles(), some, towards, {"stimulation"}, 1.0)
    assert len(borrowed) == 1
    assert found.unseen.ravel().tolist() == [1, 1, 1, 0, 0, 0]
    assert (found.weights[3:] == 0).all() and (found.weights[:3].sum(dim=1) > 0).all()


def test_of_two_groups_the_nearest_stands_in_and_that_is_said(unseen, monkeypatch):
    monkeypatch.setattr(_analogy_search, "choose_borrowing", lambda groups: None)
    own, _, (analogy, (borrowed,)) = analogy_of(unseen, NAIVE)
    ((stand_in, share),) = borrowed.shares.items()
    assert share == 1 and (analogy.weights == 1.5).all()
    kinds = ["Dendritic", "CD14+ Monocyte", "CD34+"]  # a lymphocyte is nearer than these
    assert stand_in not in [f"cell_type={kind}" for kind in kinds]
    assert str(borrowed) == f"cell_type={NAIVE} as {stand_in}"
    assert "Fewer than 3 groups were seen both ways" in borrowed.doubt


def test_the_denoiser_adds_the_changes(unseen):
    _, target, (analogy, _) = analogy_of(unseen, NAIVE)
    x = torch.randn(6, unseen.module.denoiser.n_dims, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(1.0, dtype=torch.float64)

    def of(attributes):
        conditions = unseen.module.denoiser_conditions(attributes.tensors)
        return classifier_free(unseen.module.denoiser, [(1.0, conditions)])(x, sigma)

    with torch.no_grad():
        expected = of(analogy.own)
        for k, (source, after) in enumerate(zip(analogy.sources, analogy.targets, strict=True)):
            expected = expected + analogy.weights[:, k : k + 1] * (of(after) - of(source))
        found = unseen.prior.denoiser(target, analogy=analogy)(x, sigma)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # rows that were seen are denoised as ever
        mask = torch.tensor([[1.0], [0.0]] * 3)
        mixed = unseen.prior.denoiser(target, analogy=replace(analogy, unseen=mask))(x, sigma)
        torch.testing.assert_close(mixed[::2], expected[::2], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mixed[1::2], of(target)[1::2], atol=1e-5, rtol=1e-5)


DOUBT = "ignore:cell_type=.*. borrowed from others:UserWarning"  # nothing was done to these cells


@pytest.mark.filterwarnings(DOUBT)
def test_edit_tells_whom_it_followed_and_what_to_expect(unseen, tmp_path):
    out = unseen.edit(
        controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
        seed=0, progress_bar=False,
    )  # fmt: skip
    (told,) = out.uns["scgm_edited"]["analogies"]
    assert told.startswith(f"cell_type={NAIVE} as ") and "times" in told
    expected = pd.DataFrame(out.uns["scgm_edited"]["expected"])
    assert list(expected.columns) == [
        *("group", "means", "borrowed", "mean_shift", "identity", "pearson_delta")
    ]
    assert expected["means"].tolist() == ["measured"]
    assert expected["group"].tolist() == [f"cell_type={NAIVE}"]
    assert (expected[["borrowed", "mean_shift", "identity"]] <= 1).all(axis=None)
    out.write_h5ad(tmp_path / "edited.h5ad")  # though its name holds a slash
    again = ad.read_h5ad(tmp_path / "edited.h5ad").uns["scgm_edited"]
    pd.testing.assert_frame_equal(pd.DataFrame(dict(again["expected"]))[expected.columns], expected)
    joint = unseen.edit(
        controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
        composition="joint", seed=0, progress_bar=False,
    )  # fmt: skip
    assert joint.uns["scgm_edited"]["analogies"] == []
    assert not np.allclose(out.obsm["X_scgm_edited"], joint.obsm["X_scgm_edited"])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (None, "Fewer than 3 groups were seen both ways"),
        (
            Borrowing(1.0, 0.2, {"borrowed": 0.5, "identity": 0.6, "mean_shift": 0.4}),
            "have an R² of 0.50, and cells left as they are 0.60",
        ),
    ],
)
def test_edit_warns_where_the_outcome_is_not_to_be_trusted(unseen, monkeypatch, rule, said):
    monkeypatch.setattr(_analogy_search, "choose_borrowing", lambda groups: rule)
    monkeypatch.setattr(_analogy_search, "_as_measured", lambda *args: None)
    with pytest.warns(UserWarning, match=said) as heard:
        unseen.edit(
            controls(unseen, NAIVE), {"stimulation": "IFNb"}, strength=0.8, copy=True,
            seed=0, progress_bar=False,
        )  # fmt: skip
    (doubt,) = [w for w in heard if "seen both ways" in str(w.message)]
    assert doubt.filename == __file__  # at the user's line


@pytest.mark.filterwarnings(DOUBT)
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


def test_the_fewest_groups_that_have_most_of_the_weight():
    found = _analogy_search._most_of(np.array([0.1, 0.5, 0.01, 0.36, 0.03]))
    np.testing.assert_allclose(found, np.array([0.1, 0.5, 0, 0.36, 0]) / 0.96)
    many = _analogy_search._most_of(np.full(20, 0.05))
    assert (many > 0).sum() == 19 and many.sum() == pytest.approx(1)
    np.testing.assert_allclose(_analogy_search._most_of(np.array([0.0, 1.0])), [0, 1])


def test_a_group_is_as_large_as_its_smaller_end():
    design = np.repeat([[1, 1], [1, 2], [2, 1], [2, 2]], [100, 16, 25, 400], axis=0)
    known, free = np.array([[1, 1], [2, 1]]), np.array([True, False])
    found = _analogy_search._sizes(design, known, np.array([3, 2]), free)
    np.testing.assert_array_equal(found, [16, 25])
