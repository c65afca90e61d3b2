"""Trajectories: where they begin and end, what lies between, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SMALL, make_adata
from scipy import sparse

from scgm_scvi import SCGM
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling

FIXED = {"donor": "d3", "plate": "p1"}
CD34, B = {"cell_type": "CD34+", **FIXED}, {"cell_type": "CD19+ B", **FIXED}


def interpolate(model, *args, **kwargs):
    return model.interpolate(*args, progress_bar=False, **{"seed": 0, **kwargs})


def latents(cells, n):
    """Latents ``(n_trajectories, n, n_latent)``."""
    return cells.obsm["X_scgm"].reshape(-1, n, cells.obsm["X_scgm"].shape[1])


def cells_of(*rows) -> ad.AnnData:
    return make_adata()[list(rows)].copy()


def labelled(n=6) -> ad.AnnData:
    """Cells whose conditions are all known."""
    obs = make_adata().obs
    known = obs["stimulation"].notna() & obs["dose"].notna() & obs["cell_type"].notna()
    return make_adata()[np.flatnonzero(known)[:n]].copy()


class TestWhatComesBack:
    @pytest.mark.parametrize("expression", ["counts", "normalized"])
    def test_between_conditions(self, model, expression):
        cells = interpolate(model, CD34, B, 5, n_cells=3, expression=expression)
        assert cells.shape == (15, model.adata.n_vars)
        assert sparse.issparse(cells.X) == (expression == "counts")
        pd.testing.assert_frame_equal(cells.var, model.adata.var)
        assert cells.obsm["X_scgm"].shape == (15, 12)
        assert cells.obsm["X_scgm"].dtype == np.float32
        # a trajectory's cells belong together
        names = ["trajectory_0", "trajectory_1", "trajectory_2"]
        assert list(cells.obs["scgm_trajectory"]) == np.repeat(names, 5).tolist()
        assert list(cells.obs["scgm_trajectory"].cat.categories) == names
        np.testing.assert_allclose(cells.obs["scgm_position"], np.tile(np.linspace(0, 1, 5), 3))
        assert list(cells.obs_names[4:6]) == ["trajectory_0_4", "trajectory_1_0"]
        assert (cells.obs["donor"] == "d3").all()
        if expression == "normalized":
            np.testing.assert_allclose(cells.X.sum(axis=1), 1e4, rtol=1e-4)

    def test_order_of_cells_and_of_their_attributes_is_one(self, model):
        """Latents, counts and attributes are put in order together."""
        kwargs = {"n_cells": 4, "expression": "normalized"}
        cells = interpolate(model, CD34, B, 3, **kwargs)
        alone = interpolate(model, CD34, CD34, 2, **kwargs)
        np.testing.assert_allclose(latents(cells, 3)[:, 0], latents(alone, 2)[:, 0], atol=1e-5)
        first = cells.obs["scgm_position"].to_numpy() == 0
        assert (cells.obs["cell_type"][first] == "CD34+").all()
        assert (cells.obs["cell_type"][cells.obs["scgm_position"] == 1] == "CD19+ B").all()
        mito = cells.obs["mito"].to_numpy().reshape(4, 3)  # drawn once a trajectory
        assert (mito == mito[:, :1]).all()
        assert len(np.unique(mito)) == 4

    def test_names_are_those_of_the_cells(self, model):
        source = cells_of(5, 2)
        cells = interpolate(model, source, {"cell_type": "CD34+"}, 2)
        assert list(cells.obs["scgm_trajectory"].unique()) == list(source.obs_names)
        back = interpolate(model, {"cell_type": "CD34+"}, source, 2)
        assert list(back.obs["scgm_trajectory"].unique()) == list(source.obs_names)
        target = cells_of(7, 8)
        both = interpolate(model, source, target, 2)
        assert list(both.obs["scgm_trajectory"].unique()) == list(source.obs_names)

    @pytest.mark.filterwarnings("ignore:Observation names are not unique")
    def test_names_that_are_not_unique(self, model):
        source = cells_of(5, 2)
        source.obs_names = ["twin", "twin"]
        cells = interpolate(model, source, {"cell_type": "CD34+"}, 2)
        assert list(cells.obs["scgm_trajectory"].unique()) == ["trajectory_0", "trajectory_1"]

    def test_survives_disk(self, model, tmp_path):
        frame = pd.DataFrame({"cell_type": ["CD34+", "CD19+ B"]})
        for source, described in (
            (cells_of(1, 2), "2 cells"),
            (frame, "conditions of each cell"),
            ({"dose": np.float32(2)}, "dose"),
        ):
            cells = interpolate(model, source, {"dose": 5}, 2, n_cells=2)
            cells.write_h5ad(tmp_path / "cells.h5ad")
            back = ad.read_h5ad(tmp_path / "cells.h5ad")
            uns = back.uns["scgm"]
            assert uns["seed"] == 0
            assert uns["n_steps"] == 36
            assert uns["interpolate"]["n_points"] == 2
            assert described in uns["interpolate"]["source"]
            assert (back.X != cells.X).nnz == 0
            assert list(back.obs["scgm_trajectory"]) == list(cells.obs["scgm_trajectory"])

    def test_seed(self, model):
        a, b, c = (interpolate(model, CD34, B, 3, n_cells=4, seed=s) for s in (0, 0, 1))
        assert (a.X != b.X).nnz == 0
        np.testing.assert_array_equal(a.obsm["X_scgm"], b.obsm["X_scgm"])
        pd.testing.assert_frame_equal(a.obs, b.obs)
        assert np.abs(a.obsm["X_scgm"] - c.obsm["X_scgm"]).max() > 1e-3
        fresh = [
            interpolate(model, CD34, B, 2, n_cells=1, seed=None).uns["scgm"]["seed"]
            for _ in range(2)
        ]
        assert fresh[0] != fresh[1]

    def test_cells_given_stay_as_they_are(self, model):
        whole = make_adata()
        source = whole[:3]
        before, obs = source.X.copy(), source.obs.copy()
        interpolate(model, source, {"cell_type": "CD34+"}, 2)
        assert source.is_view
        assert np.abs(source.X - before).max() == 0
        pd.testing.assert_frame_equal(source.obs, obs)
        assert not whole.uns.get("_scvi_uuid")


class TestBetweenConditions:
    def test_ends_are_cells_of_either_condition(self, model):
        """From the same noise, with the code that generates."""
        cells = latents(interpolate(model, CD34, B, 3, n_cells=5), 3)
        for position, conditions in ((0, CD34), (2, B)):
            request = Request.parse(model.condition_spec, 5, conditions)
            tensors = request.draw_nuisances(model.fitted_["design"], np.random.default_rng(0))
            sampling = Sampling.parse(model.condition_spec, n_steps=36)
            state = model.prior.sample(tensors, sampling, torch.Generator().manual_seed(0))
            np.testing.assert_allclose(cells[:, position], state[:, :-1], atol=1e-4)
        assert np.abs(cells[:, 0] - cells[:, 2]).max() > 0.01

    def test_steps_are_even(self, model):
        cells = latents(interpolate(model, CD34, B, 9, n_cells=20), 9)
        length = np.linalg.norm(np.diff(cells, axis=1), axis=2)
        whole = np.linalg.norm(cells[:, -1] - cells[:, 0], axis=1)
        assert (length.max(axis=1) < 3 * length.mean(axis=1)).all()
        assert (length.sum(axis=1) < 1.5 * whole).all()  # no detours
        distance = np.linalg.norm(cells - cells[:, :1], axis=2)
        assert (np.diff(distance.mean(axis=0)) > 0).all()

    def test_a_dose_passes_every_dose_between(self, model, monkeypatch):
        seen = []
        network = type(model.module.denoiser.network)
        forward = network.forward
        monkeypatch.setattr(
            network, "forward", lambda self, *a: seen.append(a[3]) or forward(self, *a)
        )
        source, target = {"dose": 1.0, **CD34}, {"dose": 9.0, **CD34}
        cells = interpolate(model, source, target, 5, n_cells=2)
        dose = cells.obs["dose"].to_numpy().reshape(2, 5)
        np.testing.assert_allclose(dose, np.tile([1, 3, 5, 7, 9], (2, 1)))
        # the same value reaches the network from both ends
        values = torch.stack(seen).reshape(5, -1)
        want = torch.tensor([[1.0], [3.0], [5.0], [7.0], [9.0]]).expand_as(values)
        torch.testing.assert_close(values, want)
        # so that a cell in between is one of that dose
        middle = {"dose": 5.0, **CD34}
        alone = interpolate(model, middle, middle, 2, n_cells=2)
        np.testing.assert_allclose(latents(cells, 5)[:, 2], latents(alone, 2)[:, 0], atol=1e-4)

    def test_a_dose_that_one_end_leaves_open(self, model):
        cells = interpolate(model, {"dose": 1.0, **CD34}, CD34, 3, n_cells=40)
        dose = cells.obs["dose"].to_numpy().reshape(40, 3)
        assert (dose[:, 0] == 1).all()
        assert np.isnan(dose[:, 2]).all()
        assert 5 < np.isnan(dose[:, 1]).sum() < 35

    def test_categories_turn_evenly(self, model):
        cells = interpolate(model, CD34, {**B, "donor": "d1"}, 5, n_cells=200, n_steps=5)
        for column, name in (("cell_type", "CD19+ B"), ("donor", "d1")):
            passed = (cells.obs[column] == name).to_numpy().reshape(200, 5)
            assert (np.diff(passed.astype(int), axis=1) >= 0).all()  # once, and not back
            np.testing.assert_allclose(passed.mean(axis=0), [0, 0.25, 0.5, 0.75, 1], atol=0.1)

    def test_numbers_follow_from_the_conditions(self, model):
        for source, target, n in (
            ({"dose": [1.0, 2.0]}, {"dose": 5.0}, 2),
            ({"dose": 5.0}, {"dose": [1.0, 2.0, 3.0]}, 3),
            (pd.DataFrame({"dose": [1.0, 2.0]}), {"dose": 5.0}, 2),
            ({"dose": 5.0}, pd.DataFrame({"dose": [1.0, 2.0]}), 2),
        ):
            cells = interpolate(model, source, target, 2, n_steps=3)
            assert cells.n_obs == 2 * n
        assert cells.obs["dose"].tolist() == [5, 1, 5, 2]


class TestFromCells:
    def test_ends(self, model):
        """Begins at the cell itself, and ends at its partner."""
        a, b = cells_of(1, 2, 3, 4), cells_of(5, 6, 7, 8)
        cells = latents(interpolate(model, a, b, 5, n_steps=150), 5)
        spread = model.adata.obsm["X_scgm"].std()
        for position, rows in ((0, [1, 2, 3, 4]), (-1, [5, 6, 7, 8])):
            error = cells[:, position] - model.adata.obsm["X_scgm"][rows]
            assert np.abs(error).max() < 0.05 * spread

    def test_round_trip_improves_with_steps(self, model):
        a = cells_of(*range(20))

        def error(n_steps):
            cells = latents(interpolate(model, a, {}, 2, n_steps=n_steps), 2)
            return np.abs(cells[:, 0] - model.adata.obsm["X_scgm"][:20]).mean()

        assert error(80) < error(20) / 3

    def test_steps_are_even(self, model):
        cells = latents(interpolate(model, cells_of(*range(10)), cells_of(*range(20, 30)), 9), 9)
        length = np.linalg.norm(np.diff(cells, axis=1), axis=2)
        assert (length.max(axis=1) < 3 * length.mean(axis=1)).all()

    def test_only_what_is_named_changes(self, model):
        source = labelled()
        keep = ["stimulation", "donor", "plate", "mito", "dose"]
        cells = interpolate(model, source, {"cell_type": "CD19+ B"}, 3)
        for position in range(3):
            at = cells.obs[position::3]
            for column in keep:
                want = source.obs[column].to_numpy()
                if want.dtype.kind == "f":
                    np.testing.assert_allclose(at[column], want, rtol=1e-6)
                else:
                    assert (at[column].astype(str) == want.astype(str)).all()
        assert (cells.obs["cell_type"][2::3] == "CD19+ B").all()
        assert (
            cells.obs["cell_type"][::3].astype(str).to_numpy()
            == source.obs["cell_type"].astype(str).to_numpy()
        ).all()

    def test_a_nuisance_may_be_named(self, model):
        cells = interpolate(model, labelled(), {"donor": "d2"}, 2)
        assert (cells.obs["donor"][1::2] == "d2").all()

    def test_naming_a_missing_value_leaves_it_open(self, model):
        cells = interpolate(model, labelled(), {"stimulation": None}, 2)
        assert cells.obs["stimulation"][1::2].isna().all()
        assert cells.obs["stimulation"][::2].notna().all()

    @pytest.mark.parametrize("nothing", [{}, None])
    def test_naming_nothing_stays_with_the_cell(self, model, nothing):
        source = labelled()
        cells = latents(interpolate(model, source, nothing, 3), 3)
        np.testing.assert_allclose(cells[:, 0], cells[:, 2], atol=1e-4)
        np.testing.assert_allclose(cells[:, 0], cells[:, 1], atol=1e-4)

    def test_backwards_is_the_same_way(self, model):
        source = labelled()
        there = latents(interpolate(model, source, {"cell_type": "CD19+ B"}, 3), 3)
        back = latents(interpolate(model, {"cell_type": "CD19+ B"}, source, 3), 3)
        np.testing.assert_allclose(there, back[:, ::-1], atol=1e-4)

    def test_a_frame_has_a_row_a_cell(self, model):
        source = labelled(2)
        frame = pd.DataFrame({"cell_type": ["CD34+", "CD19+ B"]}, index=source.obs_names)
        cells = interpolate(model, source, frame, 2)
        assert list(cells.obs["cell_type"][1::2]) == ["CD34+", "CD19+ B"]
        alone = interpolate(model, source, {"cell_type": ["CD34+", "CD19+ B"]}, 2)
        np.testing.assert_array_equal(cells.obsm["X_scgm"], alone.obsm["X_scgm"])

    def test_guidance(self, model):
        source = labelled()
        plain, strong = (
            latents(interpolate(model, source, {"cell_type": "CD34+"}, 2, guidance_scale=w), 2)
            for w in (1.0, 3.0)
        )
        assert np.abs(plain[:, 1] - strong[:, 1]).max() > 1e-3

    def test_a_model_without_conditions(self, adata):
        SCGM.setup_anndata(adata)
        model = SCGM(adata, **SMALL)
        quiet = {"enable_progress_bar": False}
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **quiet}, **quiet)
        cells = interpolate(model, adata[:3], adata[3:6], 3)
        assert cells.n_obs == 9
        assert set(cells.obs) == {"scgm_trajectory", "scgm_position"}


@pytest.mark.parametrize(
    ("source", "target", "kwargs", "error", "match"),
    [
        ({}, {}, {}, ValueError, "n_cells is missing"),
        ({}, {}, {"n_cells": 2, "n_points": 1}, ValueError, "n_points is 1; .*two ends"),
        ({}, {}, {"n_cells": 2, "n_points": 2.5}, ValueError, r"n_points is 2\.5"),
        ({}, {}, {"n_cells": 0}, ValueError, "n_cells is 0"),
        ({}, {}, {"n_cells": 2, "n_steps": 0}, ValueError, "n_steps is 0"),
        ({}, {}, {"n_cells": 2, "expression": "tpm"}, ValueError, "expression is 'tpm'"),
        ({}, {}, {"n_cells": 2, "guidance_scale": -1}, ValueError, "guidance_scale is -1"),
        ({"cell_typ": "x"}, {}, {"n_cells": 2}, KeyError, "Did you mean 'cell_type'"),
        ({}, {"cell_type": "CD34"}, {"n_cells": 2}, ValueError, "Did you mean 'CD34+"),
        ({}, ["CD34+"], {"n_cells": 2}, TypeError, "conditions is a list"),
        ({"dose": [1, 2]}, {"dose": [1, 2, 3]}, {}, ValueError, "dose has 3 values for 2 cells"),
        (
            pd.DataFrame({"dose": [1, 2]}),
            pd.DataFrame({"dose": [1, 2, 3]}),
            {},
            ValueError,
            "3 values for 2 cells",
        ),
        (slice(0, 3), slice(3, 5), {}, ValueError, "source has 3 cells and target 2; .*as many"),
        (slice(0, 3), {}, {"n_cells": 2}, ValueError, "n_cells is 2, but 3 cells are given"),
        (slice(0, 3), {"dose": [1, 2]}, {}, ValueError, "dose has 2 values for 3 cells"),
    ],
)
def test_bad_requests(model, source, target, kwargs, error, match):
    source, target = (make_adata()[e] if isinstance(e, slice) else e for e in (source, target))
    with pytest.raises(error, match=match):
        interpolate(model, source, target, **kwargs)


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Stage two is not trained"):
        SCGM(adata, **SMALL).interpolate({}, {}, n_cells=2)


def test_values_of_conditions_are_kept_apart(model):
    """What a trajectory is made of is not changed on the way: positions do not depend on n."""
    coarse, fine = (latents(interpolate(model, CD34, B, n, n_cells=3), n) for n in (3, 5))
    np.testing.assert_allclose(coarse, fine[:, ::2], atol=1e-5)


def test_in_chunks_the_trajectories_are_the_same(model):
    whole, parts = (interpolate(model, CD34, B, 3, n_cells=5, batch_size=b) for b in (5, 2))
    np.testing.assert_allclose(parts.obsm["X_scgm"], whole.obsm["X_scgm"], atol=1e-4)
    pd.testing.assert_frame_equal(parts.obs, whole.obs)
