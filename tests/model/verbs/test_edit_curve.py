"""Effect and identity by strength, and the strength that is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import make_adata
from scipy.stats import spearmanr

from scgm_scvi import SCGM
from scgm_scvi.model.verbs._edit_curve import _choice

TO_B = {"cell_type": "CD19+ B"}


def monocytes(n=60):
    adata = make_adata()
    return adata[adata.obs["cell_type"] == "CD14+ Monocyte"][:n].copy()


@pytest.mark.parametrize("method", ["sdedit", "inversion", "shift"])
def test_effect_grows_with_strength(model, method):
    curve = model.edit_curve(monocytes(), TO_B, method=method, progress_bar=False)
    assert list(curve) == [
        *("strength", "sigma", "effect", "identity", "identity_generated", "similarity", "chosen")
    ]
    assert len(curve) == 10 and curve.chosen.sum() == 1
    assert spearmanr(curve.strength, curve.effect)[0] > 0.95
    assert spearmanr(curve.strength, curve.similarity)[0] < (0.1 if method == "shift" else -0.9)


def test_ends_of_the_scale(model):
    """Nothing happens at strength 0; from scratch the target's cells are made."""
    curve = model.edit_curve(monocytes(), TO_B, strengths=[1, 0], progress_bar=False)
    assert list(curve.strength) == [0, 1]
    assert curve.effect[0] == pytest.approx(0, abs=1e-6)
    assert curve.effect[1] == pytest.approx(1, abs=0.2)
    assert curve.similarity[0] == pytest.approx(1, abs=1e-6)
    assert abs(curve.similarity[1]) < 0.3


def test_same_seed_same_curve(model):
    a, b = (model.edit_curve(monocytes(), TO_B, strengths=[0.5], progress_bar=False) for _ in "ab")
    pd.testing.assert_frame_equal(a, b)


def test_held_out_cells_of_the_model_by_default(model):
    held_out = model.adata[np.asarray(model.validation_indices)]
    curves = [
        model.edit_curve(cells, TO_B, strengths=[0.5], progress_bar=False)
        for cells in (None, held_out, model.adata)
    ]
    pd.testing.assert_frame_equal(curves[0], curves[1])
    assert curves[0].similarity[0] != curves[2].similarity[0]
    with pytest.raises(ValueError, match="loaded without data"):
        saved = SCGM.__new__(SCGM)
        saved.__dict__.update({**model.__dict__, "_adata": None})
        saved.edit_curve(None, TO_B, progress_bar=False)


def test_the_choice_is_kept_and_reported(model, monkeypatch):
    adata = monocytes(10)
    monkeypatch.setitem(model.fitted_, "edit_strengths", {})
    model.edit(adata, TO_B, seed=0, progress_bar=False)
    chosen = adata.uns["scgm_edited"]["strength"]
    curve = model.edit_curve(None, TO_B, progress_bar=False)
    assert chosen == curve.strength[curve.chosen].item()
    assert list(model.fitted_["edit_strengths"].values()) == [chosen]

    def never(*args, **kwargs):
        raise AssertionError("the curve was drawn again")

    monkeypatch.setattr(model, "edit_curve", never)
    model.edit(adata, TO_B, seed=0, progress_bar=False)


def curve_of(effect, identity, generated=0.8):
    n = len(effect)
    return pd.DataFrame(
        {
            "strength": np.linspace(1 / n, 1, n),
            "effect": effect,
            "identity": identity,
            "identity_generated": generated,
        }
    )


@pytest.mark.parametrize(
    ("method", "effect", "identity", "row"),
    [
        ("inversion", [0.1, 0.96, 1.0], [0.9, 0.9, 0.9], 1),  # nearly all of it
        ("inversion", [0.1, 0.5, 1.0], [0.9, 0.9, 0.9], 2),
        ("sdedit", [0.1, 0.5, 1.0], [0.9, 0.9, 0.9], 1),  # never from scratch
        ("inversion", [0.1, 0.5, 1.0], [0.9, 0.9, 0.2], 1),  # identity is lost
        ("inversion", [0.1, 0.5, 1.0], [0.1, 0.1, 0.1], 2),  # it is lost anyway
        ("inversion", [0.1, 0.5, 1.0], [np.nan] * 3, 2),  # there is none
        ("inversion", [-0.9, -0.5, -0.7], [0.9, 0.9, 0.9], 1),  # every edit leads away
        ("inversion", [np.nan] * 3, [0.9, 0.9, 0.9], 0),
    ],
)
def test_the_rule_of_choice(method, effect, identity, row):
    generated = np.nan if np.isnan(identity[0]) else 0.8
    assert _choice(curve_of(effect, identity, generated), method) == row


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"conditions": {}}, ValueError, "conditions is empty"),
        ({"conditions": {"cell": "B"}}, KeyError, "cell_type"),
        ({"strengths": []}, ValueError, "strengths is empty"),
        ({"strengths": [2.0]}, ValueError, "strength is 2.0"),
        ({"method": "edit"}, ValueError, "method 'edit' is unknown"),
        ({"n_cells": 0}, ValueError, "n_cells"),
        ({"conditions": {"cell_type": "CD14+ Monocyte"}}, ValueError, "No cell is left"),
    ],
)
def test_refusals(model, kwargs, error, message):
    conditions = kwargs.pop("conditions", TO_B)
    with pytest.raises(error, match=message):
        model.edit_curve(monocytes(5), conditions, progress_bar=False, **kwargs)


def test_a_saved_model_keeps_the_choice(model, tmp_path, monkeypatch):
    monkeypatch.setitem(model.fitted_, "edit_strengths", {"some edit": 0.7})
    model.save(tmp_path / "model")
    assert SCGM.load(tmp_path / "model", adata=False).fitted_["edit_strengths"] == {
        "some edit": 0.7
    }
