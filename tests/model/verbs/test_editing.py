"""Edits of real cells: what comes back, what stays, and what is refused."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_adata
from scipy import sparse

from scgm_scvi import SCGM
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.verbs import _edit_record

TO_IFNB = {"stimulation": "IFNb"}  # drawn at random: hardly any effect
TO_B = {"cell_type": "CD19+ B"}


def cells_of(n=8) -> ad.AnnData:
    """Control cells whose conditions are all known."""
    obs = make_adata().obs
    known = (obs["stimulation"] == "control") & obs["dose"].notna() & obs["cell_type"].notna()
    return make_adata()[np.flatnonzero(known)[:n]].copy()


def t_cells() -> ad.AnnData:
    adata = make_adata()
    return adata[adata.obs["cell_type"] == "CD8+ Cytotoxic T"][:20].copy()


def edit(model, adata, conditions=TO_IFNB, **kwargs):
    options = {"seed": 0, "strength": 0.5, "progress_bar": False, "copy": True, **kwargs}
    return model.edit(adata, conditions, **options)


def test_an_edit_of_genes_says_once_a_session_that_it_is_observational(model):
    _edit_record.say_observational.cache_clear()
    with pytest.warns(UserWarning, match="observational.*not what setting the gene would cause"):
        out = edit(model, cells_of(), None, genes={"CD3E": "knockout"})
    assert out.uns["scgm_edited"]["kind"] == "observational"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit(model, cells_of(), None, genes={"CD3E": "knockout"})
    assert "kind" not in edit(model, cells_of()).uns["scgm_edited"]


class TestWhatComesBack:
    @pytest.mark.parametrize("expression", ["counts", "normalized"])
    @pytest.mark.parametrize("method", ["sdedit", "inversion", "shift"])
    def test_layers_latents_obs_and_uns(self, model, method, expression):
        out = edit(model, cells_of(), method=method, expression=expression)
        layer = out.layers["scgm_edited"]
        assert sparse.issparse(layer) == (expression == "counts")
        assert layer.shape == out.shape
        if expression == "counts":
            assert (layer.data == np.rint(layer.data)).all()
        else:
            np.testing.assert_allclose(layer.sum(axis=1), 1e4, rtol=1e-4)
        assert out.obsm["X_scgm_edited"].shape == (8, 12)
        assert (out.obs["scgm_edited_effect"] > 0).all()
        assert "scgm_edited_uncertainty" not in out.obs
        uns = out.uns["scgm_edited"]
        assert uns["method"] == method and uns["strength"] == 0.5
        assert uns["conditions"] == TO_IFNB
        assert len(uns["changed"]["feature"]) == 100
        assert set(uns["changed"]["feature"]) <= set(out.var_names)

    def test_written_in_place_and_nothing_else_is_touched(self, model):
        adata, before = cells_of(), cells_of()
        assert edit(model, adata, copy=False, key_added="e") is None
        assert [k for k in adata.layers if k] == ["e"]  # newer anndata lists X there, as None
        assert "X_e" in adata.obsm and "e" in adata.uns
        assert list(adata.obs) == [*before.obs, "e_effect"]
        pd.testing.assert_frame_equal(adata.obs[list(before.obs)], before.obs)
        np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())

    def test_a_copy_and_a_view_leave_their_source_alone(self, model):
        adata = cells_of()
        out = edit(model, adata)
        assert out is not adata and not adata.layers
        part = edit(model, adata[2:5], copy=False)  # a view can't be written to
        assert part.n_obs == 3 and not part.is_view and not adata.layers

    def test_survives_a_file(self, model, tmp_path):
        out = edit(model, cells_of(), n_samples=2, genes={"CD3E": "knockout"}, preserve=["CD79A"])
        out.write_h5ad(tmp_path / "edited.h5ad")
        again = ad.read_h5ad(tmp_path / "edited.h5ad")
        np.testing.assert_array_equal(
            again.layers["scgm_edited"].toarray(), out.layers["scgm_edited"].toarray()
        )
        assert (
            list(again.uns["scgm_edited"]["changed"]["feature"])
            == (out.uns["scgm_edited"]["changed"]["feature"])
        )
        assert list(again.uns["scgm_edited"]["genes"]) == ["CD3E"]

    def test_features_in_another_order(self, model):
        adata = cells_of()
        turned = adata[:, ::-1].copy()
        straight, back = edit(model, adata), edit(model, turned)
        assert list(back.var_names) == list(turned.var_names)
        np.testing.assert_array_equal(
            straight.layers["scgm_edited"].toarray()[:, ::-1], back.layers["scgm_edited"].toarray()
        )

    def test_same_seed_same_cells(self, model):
        a, b, c = (edit(model, cells_of(), seed=s).obsm["X_scgm_edited"] for s in (1, 1, 2))
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)

    def test_several_samples_tell_the_uncertainty(self, model):
        out = edit(model, cells_of(), n_samples=5, expression="normalized")
        assert (out.obs["scgm_edited_uncertainty"] > 0).all()
        one = edit(model, cells_of(), expression="normalized")
        # the mean of five is not the first of them
        assert not np.allclose(out.layers["scgm_edited"], one.layers["scgm_edited"])

    def test_uncertainty_grows_with_strength(self, model):
        weak, strong = (
            edit(model, cells_of(), n_samples=8, strength=s).obs["scgm_edited_uncertainty"].mean()
            for s in (0.1, 0.9)
        )
        assert weak < strong


class TestWhatStays:
    @pytest.mark.parametrize("method", ["sdedit", "inversion", "shift"])
    def test_strength_0_is_the_reconstruction(self, model, method):
        adata = cells_of()
        out = edit(model, adata, method=method, strength=0, expression="normalized")
        with model._registered(adata) as cells:
            latent = model.get_latent_representation(cells)
        np.testing.assert_allclose(out.obsm["X_scgm_edited"], latent, atol=1e-5)
        tensors, state = model._states(adata)
        with torch.no_grad():
            mean = model.module.decode_state(state, tensors.tensors).mean
        own = (mean / mean.sum(dim=1, keepdim=True) * 1e4).numpy()
        np.testing.assert_allclose(out.layers["scgm_edited"], own, rtol=1e-5, atol=1e-5)
        assert (out.obs["scgm_edited_effect"] < 1e-4).all()

    def test_library_sizes_unless_asked(self, model):
        seen = []
        _, state = model._states(cells_of())
        for edited in (False, True):
            out = edit(model, cells_of(), strength=1.0, edit_library_size=edited)
            size = np.asarray(out.layers["scgm_edited"].sum(axis=1)).ravel()
            seen.append(np.corrcoef(np.log(size), state[:, -1].numpy())[0, 1])
        assert seen[0] > 0.9 > seen[1]

    def test_what_is_not_named(self, model):
        """The target has a cell's own type, dose, batch and covariates."""
        adata = cells_of()
        own, _ = model._states(adata)
        request = Request.parse(model.condition_spec, adata.n_obs, TO_IFNB)
        target = request.over(own, set(TO_IFNB))
        j = model.condition_spec.position("stimulation")
        others = [i for i in range(own.tokens.shape[1]) if i != j]
        assert (target.tokens[:, others] == own.tokens[:, others]).all()
        assert (target.tokens[:, j] != own.tokens[:, j]).all()
        for name in ("values", "batch", "covariates", "numeric"):
            torch.testing.assert_close(
                getattr(target, name), getattr(own, name), equal_nan=True, check_dtype=False
            )

    def test_inversion_there_and_back(self, model):
        from scgm_scvi.model.prior._edited_states import (
            Edit,
            EditedCells,
            edited,
            parse_sampling,
        )

        adata = cells_of(20)
        tensors, state = model._states(adata)
        request = Request.parse(model.condition_spec, adata.n_obs, TO_B)
        target = request.over(tensors, set(TO_B))
        sampling = parse_sampling(model.condition_spec, None, "auto", n_steps=60)
        way = Edit("inversion", 1.0, sampling, edit_library_size=True)
        there = edited(model.prior, EditedCells(tensors, target, state), way, None)
        back = edited(model.prior, EditedCells(target, tensors, there), way, None)
        moved = (there - state).square().mean().sqrt()
        missed = (back - state).square().mean().sqrt()
        assert missed < 0.1 * moved
        assert np.corrcoef(back.numpy().ravel(), state.numpy().ravel())[0, 1] > 0.95


class TestMethods:
    def test_effect_grows_with_strength(self, model):
        for method in ("sdedit", "inversion", "shift"):
            effects = [
                edit(model, t_cells(), TO_B, method=method, strength=s)
                .obs["scgm_edited_effect"]
                .mean()
                for s in (0.05, 0.5, 1.0)
            ]
            assert effects == sorted(effects), method

    def test_translation_is_a_line(self, model):
        latents = [
            edit(model, cells_of(), method="shift", strength=s).obsm["X_scgm_edited"]
            for s in (0.0, 0.5, 1.0)
        ]
        np.testing.assert_allclose(latents[1], (latents[0] + latents[2]) / 2, atol=1e-5)

    def test_conditions_of_each_cell(self, model):
        adata = cells_of()
        wanted = ["IFNb", "control"] * 4
        out = edit(model, adata, {"stimulation": wanted}, method="shift", strength=1.0)
        moved = np.abs(
            out.obsm["X_scgm_edited"] - edit(model, adata, strength=0).obsm["X_scgm_edited"]
        )
        assert (moved[1::2].max(axis=1) < 1e-5).all()  # they are control already
        assert (moved[::2].max(axis=1) > 1e-3).all()

    def test_a_guide_is_followed(self, model):
        def energy(cells):
            return 10 * (cells.latent[:, 0] - 3).square()

        free, guided = (
            edit(model, cells_of(), None if g else TO_IFNB, energy=g, strength=0.8).obsm[
                "X_scgm_edited"
            ]
            for g in (None, energy)
        )
        assert abs(guided[:, 0].mean() - 3) < abs(free[:, 0].mean() - 3)

    def test_genes_reach_their_targets_exactly(self, model):
        genes = {"CD3E": "knockout", "CD79A": 25.0, "LYZ": "fold:2"}
        adata = cells_of()
        own = edit(model, adata, strength=0, expression="normalized").layers["scgm_edited"]
        out = edit(model, adata, None, genes=genes, expression="normalized").layers["scgm_edited"]
        at = {name: adata.var_names.get_loc(name) for name in genes}
        assert (out[:, at["CD3E"]] < 1e-3).all()
        np.testing.assert_allclose(out[:, at["CD79A"]], 25.0, rtol=1e-3)
        np.testing.assert_allclose(out[:, at["LYZ"]], 2 * own[:, at["LYZ"]], rtol=1e-3)
        counts = edit(model, adata, None, genes=genes).layers["scgm_edited"]
        assert counts[:, [at["CD3E"]]].nnz == 0

    def test_an_attribute_left_open(self, model, tmp_path):
        out = edit(model, cells_of(), {"stimulation": None}, strength=None)
        assert out.uns["scgm_edited"]["conditions"] == {"stimulation": "unspecified"}
        out.write_h5ad(tmp_path / "open.h5ad")

    def test_strength_0_intervenes_nowhere(self, model):
        none, some = (
            edit(model, cells_of(), genes=genes, strength=0, expression="normalized")
            for genes in (None, {"CD3E": "knockout"})
        )
        np.testing.assert_array_equal(none.layers["scgm_edited"], some.layers["scgm_edited"])

    def test_a_strength_for_genes_alone(self, model):
        out = edit(model, cells_of(), None, genes={"CD3E": 10.0}, strength=None)
        assert out.uns["scgm_edited"]["strength"] == 0.5

    def test_what_is_preserved_stays(self, model):
        adata = cells_of()
        own = edit(model, adata, strength=0, expression="normalized").layers["scgm_edited"]
        out = edit(model, adata, preserve=["CD3E", "LYZ"], expression="normalized")
        at = [adata.var_names.get_loc(name) for name in ("CD3E", "LYZ")]
        np.testing.assert_allclose(out.layers["scgm_edited"][:, at], own[:, at], rtol=1e-3)


class TestRefusals:
    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"strength": 1.2}, ValueError, "strength is 1.2"),
            ({"strength": -0.1}, ValueError, "from 0 .* to 1"),
            ({"method": "sdedti"}, ValueError, "Did you mean 'sdedit'"),
            ({"method": "inversion", "n_samples": 3}, ValueError, "draws nothing"),
            ({"n_samples": 0}, ValueError, "n_samples"),
            ({"composition": "sum"}, ValueError, "composition"),
            ({"expression": "log"}, ValueError, "expression"),
            ({"conditions": {"stimulus": "IFNb"}}, KeyError, "Did you mean 'stimulation'"),
            ({"conditions": {"stimulation": "IFNg"}}, ValueError, "Did you mean 'IFNb'"),
            ({"conditions": {"stimulation": ["IFNb"] * 3}}, ValueError, "3 values for 8 cells"),
            ({"conditions": None}, ValueError, "Nothing is to be changed"),
            ({"conditions": {}}, ValueError, "Nothing is to be changed"),
            ({"genes": {"CD3Q": 1.0}}, KeyError, "Did you mean"),
            ({"method": "shift", "genes": {"CD3E": 1.0}}, ValueError, "takes no steps"),
            ({"energy": 3}, TypeError, "energy is 3"),
            ({"key_added": ""}, TypeError, "key_added"),
            ({"guidance_scale": -1}, ValueError, "guidance"),
        ],
    )
    def test_clear_errors_and_nothing_written(self, model, kwargs, error, message):
        adata = cells_of()
        conditions = kwargs.pop("conditions", TO_IFNB)
        with pytest.raises(error, match=message):
            edit(model, adata, conditions, copy=False, **kwargs)
        assert not adata.layers and not adata.uns and "X_scgm_edited" not in adata.obsm

    def test_features_the_model_does_not_know(self, model):
        adata = cells_of()
        more = ad.concat([adata, ad.AnnData(adata.X[:, :2].copy(), adata.obs[[]])], axis=1)
        more.obs = adata.obs
        more.var_names = [*adata.var_names, "new1", "new2"]
        with pytest.raises(ValueError, match="2 features that the model does not know"):
            edit(model, more)

    def test_backed(self, model, tmp_path):
        cells_of().write_h5ad(tmp_path / "cells.h5ad")
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        with pytest.raises(ValueError, match="backed"):
            edit(model, backed)
        backed.file.close()

    def test_before_stage_two(self):
        adata = make_adata()
        SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["stimulation"])
        with pytest.raises(RuntimeError, match="Stage two is not trained"):
            SCGM(adata, n_latent=4, n_hidden=8).edit(adata, TO_IFNB)
