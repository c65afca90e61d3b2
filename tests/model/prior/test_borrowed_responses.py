"""Changes that training never showed of some cells, borrowed from groups of which it did."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from helpers import QUIET, SMALL, make_adata

from scgm_scvi import SCGM
from scgm_scvi.model.prior import _borrowed_responses
from scgm_scvi.model.prior._borrowed_responses import _candidates
from scgm_scvi.model.prior._borrowing import Borrowing
from scgm_scvi.model.prior._group_means import GroupMeans

NAIVE, CYTOTOXIC = "CD8+/CD45RA+ Naive Cytotoxic", "CD8+ Cytotoxic T"
IFNB = {"stimulation": "IFNb"}


@pytest.fixture(scope="module")
def unseen() -> SCGM:
    """A model that never saw a stimulated naive T cell."""
    adata = make_adata()
    adata.obs["stimulation"] = np.where(np.arange(adata.n_obs) % 2, "IFNb", "control")
    rng = np.random.default_rng(0)
    is_stimulated = (adata.obs["stimulation"] == "IFNb").to_numpy()
    x = adata.X.toarray()
    x[is_stimulated, :20] += rng.poisson(3.0, (is_stimulated.sum(), 20))
    adata.X = x
    out = (adata.obs["cell_type"] == NAIVE) & is_stimulated
    adata = adata[~out].copy()
    scvi.settings.seed = 0  # whatever ran before
    SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["stimulation"])
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=8, diffusion_kwargs={"max_steps": 150, **QUIET}, **QUIET)
    return model


def controls(model, kind):
    obs = model.adata.obs
    return model.adata[(obs["cell_type"] == kind) & (obs["stimulation"] == "control")][:6].copy()


def edit(model, cells, conditions=IFNB, **options):
    options = {"copy": True, "seed": 0, "progress_bar": False, **options}
    return model.edit(cells, conditions, **options)


def borrowed_of(model, kind):
    cells = controls(model, kind)
    own, _ = model._states(cells)
    codes = list(model.condition_spec.categorical["stimulation"])
    target = own.with_category("stimulation", codes.index("IFNb"))
    run = model._run(0, None, False)
    return model._borrow(cells, own, target, {"stimulation"}, 1.0, run)


def mean_log(x):
    x = np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=float)
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)


def test_only_where_the_target_was_never_seen(unseen):
    borrowed = borrowed_of(unseen, CYTOTOXIC)
    assert borrowed.found.kinds == [] and (borrowed.found.row == -1).all()
    assert edit(unseen, controls(unseen, CYTOTOXIC)).uns["scgm_edited"]["borrowed"] == []


def test_groups_that_were_seen_both_ways_lend_their_change(unseen):
    (kind,) = borrowed_of(unseen, NAIVE).found.kinds
    assert kind.group == f"cell_type={NAIVE}"
    assert f"cell_type={NAIVE}" not in kind.shares
    assert sum(kind.shares.values()) == pytest.approx(1)
    adata, obs = unseen.adata, unseen.adata.obs
    expected = 0.0
    for name, share in kind.shares.items():
        of = {
            s: adata.X[((obs["cell_type"] == name[10:]) & (obs["stimulation"] == s)).to_numpy()]
            for s in ("control", "IFNb")
        }
        expected = expected + share * (mean_log(of["IFNb"]) - mean_log(of["control"]))
    np.testing.assert_allclose(kind.change, kind.rule.size * expected, atol=1e-4)


def test_cells_own_counts_are_moved_as_borrowed(unseen):
    obs = unseen.adata.obs
    cells = unseen.adata[(obs["cell_type"] == NAIVE).to_numpy()].copy()
    out = edit(unseen, cells)
    (kind,) = borrowed_of(unseen, NAIVE).found.kinds
    found = mean_log(out.layers["scgm_edited"]) - mean_log(cells.X)
    assert np.corrcoef(found, kind.change)[0, 1] > 0.9
    assert 1 < found[:20].mean() / kind.change[:20].mean() < 1.5  # as far as the decoder is right
    assert out.uns["scgm_edited"]["method"] == "response"
    same = edit(unseen, cells)
    np.testing.assert_array_equal(
        same.layers["scgm_edited"].toarray(), out.layers["scgm_edited"].toarray()
    )


def test_cells_that_were_seen_and_others_in_one_edit(unseen):
    some = [controls(unseen, kind) for kind in (CYTOTOXIC, NAIVE)]
    cells = ad.concat([some[0][:3], some[1], some[0][3:]])
    out = edit(unseen, cells, strength=0.5)
    assert len(out.uns["scgm_edited"]["borrowed"]) == 1
    assert out.uns["scgm_edited"]["method"] == "sdedit"
    # the order is kept: moved cells keep most of their counts
    moved = edit(unseen, some[1])
    found = out.layers["scgm_edited"].toarray()[3:9]
    kept = (found == some[1].X).mean(axis=1)
    assert (kept > 0.7).all() and moved.n_obs == 6


@pytest.mark.filterwarnings("ignore:genes:UserWarning")
def test_genes_are_met_and_others_stay_where_cells_borrow(unseen):
    cells, (first, second, *_) = controls(unseen, NAIVE), unseen.adata.var_names[[0, 1, 50]]
    out = edit(unseen, cells, preserve=[first])
    np.testing.assert_array_equal(out[:, first].layers["scgm_edited"].toarray(), cells[:, first].X)
    forced = edit(unseen, cells, genes={second: "knockout"}, strength=0.3)
    assert not forced[:, second].layers["scgm_edited"].toarray().any()
    assert forced.layers["scgm_edited"][:, 2:20].mean() > cells.X[:, 2:20].mean()


def test_several_samples_tell_how_far_borrowing_was_wrong(unseen):
    cells = controls(unseen, NAIVE)
    one, many = (edit(unseen, cells, n_samples=n) for n in (1, 5))
    assert "scgm_edited_uncertainty" not in one.obs
    assert (many.obs["scgm_edited_uncertainty"] > 0).all()
    np.testing.assert_array_equal(
        one.layers["scgm_edited"].toarray(), many.layers["scgm_edited"].toarray()
    )


def test_of_two_groups_the_nearest_lends_and_that_is_said(unseen, monkeypatch):
    monkeypatch.setattr(_borrowed_responses, "choose_borrowing", lambda groups: None)
    (kind,) = borrowed_of(unseen, NAIVE).found.kinds
    ((lender, share),) = kind.shares.items()
    assert share == 1
    others = ["Dendritic", "CD14+ Monocyte", "CD34+"]  # a lymphocyte is nearer than these
    assert lender not in [f"cell_type={other}" for other in others]
    assert str(kind) == f"cell_type={NAIVE} as {lender}"
    assert "Fewer than 3 groups were seen both ways" in kind.doubt
    with pytest.warns(UserWarning, match="Fewer than 3 groups were seen both ways"):
        edit(unseen, controls(unseen, NAIVE))


def test_edit_tells_who_lent_and_what_to_expect(unseen, tmp_path):
    out = edit(unseen, controls(unseen, NAIVE))
    (told,) = out.uns["scgm_edited"]["borrowed"]
    assert told.startswith(f"cell_type={NAIVE} as ") and "times" in told
    expected = pd.DataFrame(out.uns["scgm_edited"]["expected"])
    assert list(expected.columns) == [
        *("group", "borrowed", "mean_shift", "identity", "pearson_delta")
    ]
    assert expected["group"].tolist() == [f"cell_type={NAIVE}"]
    assert (expected["borrowed"] > expected["identity"]).all()
    out.write_h5ad(tmp_path / "edited.h5ad")  # though its name holds a slash
    again = ad.read_h5ad(tmp_path / "edited.h5ad").uns["scgm_edited"]
    pd.testing.assert_frame_equal(pd.DataFrame(dict(again["expected"]))[expected.columns], expected)
    joint = edit(unseen, controls(unseen, NAIVE), composition="joint", strength=0.8)
    assert joint.uns["scgm_edited"]["borrowed"] == []
    assert not np.allclose(out.obsm["X_scgm_edited"], joint.obsm["X_scgm_edited"])


def test_edit_warns_where_the_outcome_is_not_to_be_trusted(unseen, monkeypatch):
    rule = Borrowing(
        1.0,
        0.2,
        {"borrowed": 0.5, "identity": 0.6, "mean_shift": 0.4, "pearson_delta": 0.1},
        np.zeros((1, unseen.adata.n_vars)),
    )
    monkeypatch.setattr(_borrowed_responses, "choose_borrowing", lambda groups: rule)
    with pytest.warns(UserWarning, match="R² of 0.50, and cells left as they are 0.60") as heard:
        edit(unseen, controls(unseen, NAIVE))
    (doubt,) = [w for w in heard if "seen both" in str(w.message)]
    assert doubt.filename == __file__  # at the user's line


def test_what_plays_no_part_is_said(unseen):
    with pytest.warns(UserWarning, match="strength=0.8 plays no part"):
        edit(unseen, controls(unseen, NAIVE), strength=0.8)


def test_a_model_without_its_cells_answers_the_same(unseen, tmp_path):
    cells = controls(unseen, NAIVE)
    unseen.save(tmp_path / "model", overwrite=True)
    again = SCGM.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(
        edit(again, cells).layers["scgm_edited"].toarray(),
        edit(unseen, cells).layers["scgm_edited"].toarray(),
    )


def test_the_scale_is_the_users(unseen):
    cells = controls(unseen, NAIVE)
    totals = [
        edit(unseen, cells, guidance_scale=scale).layers["scgm_edited"][:, :20].sum()
        for scale in (0.5, None, {"stimulation": 1.5})
    ]
    assert totals == sorted(totals) and totals[0] < totals[2]


def test_what_nothing_stands_in_for_is_asked_of_networks_and_that_is_said(unseen):
    cells = controls(unseen, NAIVE)
    asked = {"stimulation": "IFNb", "cell_type": NAIVE}  # no attribute is left to differ in
    with pytest.warns(UserWarning, match="training had no such cells"):
        out = edit(unseen, cells, asked, strength=0.5)
    assert out.uns["scgm_edited"]["method"] == "sdedit"


def test_a_curve_has_no_strengths_of_what_is_moved(unseen):
    with pytest.raises(ValueError, match="whatever the strength"):
        unseen.edit_curve(controls(unseen, NAIVE), IFNB, progress_bar=False)
    curve = unseen.edit_curve(
        controls(unseen, NAIVE), IFNB, composition="joint", strengths=[0.5], progress_bar=False
    )
    assert len(curve) == 1


def test_changes_are_of_the_same_batch():
    tokens = np.array([[1], [1], [2], [2]])
    means = np.array([[0.0], [10.0], [1.0], [11.0]], dtype=np.float32)
    groups = GroupMeans(tokens, np.array([0, 1, 0, 1]), np.array([90, 10, 10, 90]), means)
    # pooled, the batch would pass for a change of 9
    np.testing.assert_allclose(groups.change(tokens[0], tokens[2]), [1.0])
    few = GroupMeans(tokens, np.array([0, 1, 0, 1]), np.array([90, 2, 10, 90]), means)
    whole = 20 / 92
    np.testing.assert_allclose(
        few.change(tokens[0], tokens[2]), [(10 * 1 + 90 * (11 - whole)) / 100], rtol=1e-6
    )


def test_features_that_a_lender_did_not_measure_change_nothing():
    rng = np.random.default_rng(0)
    pairs = np.array([[k, s] for k in (1, 2, 3, 4) for s in (1, 2)])
    means = rng.normal(size=(8, 5)).astype(np.float32)
    means[2:4, 0] = np.nan
    groups = GroupMeans(pairs, np.zeros(8, dtype=int), np.full(8, 50), means)
    ends = [np.array([k, 2]) for k in (2, 3, 4)]
    known = np.array([[k, 1] for k in (2, 3, 4)])
    found = _borrowed_responses._lenders(groups, known, ends, np.full(3, 50))
    assert np.isfinite(found.before).all() and found.change[0, 0] == 0
    assert found.change[1, 0] == pytest.approx(means[5, 0] - means[4, 0], rel=1e-5)


def test_candidates_are_seen_both_ways():
    # kind, stimulation: kind 1 seen both ways, 2 as control only, 3 stimulated only, 4 both ways
    design = np.array([[1, 1], [1, 2], [2, 1], [3, 2], [4, 1], [4, 2], [0, 1], [0, 2]])
    free = np.array([True, False])
    found = _candidates(design, np.array([2, 1]), np.array([2, 2]), free)
    np.testing.assert_array_equal(found, [[1, 1], [4, 1]])
    nothing = _candidates(design[:4], np.array([3, 1]), np.array([3, 3]), free)
    assert len(nothing) == 0
