"""What a set-up is told of perturbations, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import make_types

from scgm_scvi import SCGM
from scgm_scvi._perturbations import Perturbations

OWN = {"perturbation_key": "target", "control": "control"}


@pytest.fixture
def adata():
    adata = make_types(60)
    adata.obs["target"] = np.resize(["control", "X", "Y", "X+Y"], 60)
    adata.obs["dose"] = np.resize([0.0, 1.0, 10.0, 1.0], 60)
    return adata


def table(*names, width=3):
    return pd.DataFrame(np.arange(len(names) * width).reshape(-1, width), index=list(names))


def test_perturbation_and_dose_are_conditions(adata):
    vectors = table("X", "Z")
    SCGM.setup_anndata(
        adata,
        **OWN,
        labels_key="cell_type",
        dose_key="dose",
        condition_embeddings={"target": vectors},
    )
    model = SCGM(adata, n_latent=4)
    spec = model.condition_spec
    assert list(spec.categorical) == ["cell_type", "target"] and list(spec.numeric) == ["dose"]
    assert spec.perturbations.parts("Y+X+control") == ("X", "Y")
    assert spec.perturbations.parts("control") == ()
    assert list(spec.perturbations.vectors.index) == ["X", "Z"]
    vectors.iloc[0] = -1  # the model's own are a copy
    assert spec.perturbations.vectors.loc["X"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"perturbation_key": "target"}, ValueError, "no control: name the value"),
        ({"control": "control"}, ValueError, "name perturbation_key too"),
        ({"dose_key": "dose"}, ValueError, "name perturbation_key too"),
        ({**OWN, "control": "Control"}, ValueError, "Did you mean 'control'"),
        ({**OWN, "perturbation_key": "tagret"}, KeyError, "Did you mean 'target'"),
        ({**OWN, "perturbation_separator": ""}, ValueError, "separator is empty"),
        ({**OWN, "perturbation_key": ["target"]}, TypeError, "pass one string"),
        ({**OWN, "perturbation_separator": 1}, TypeError, "perturbation_separator is 1, a int"),
        ({**OWN, "dose_key": ["dose"]}, TypeError, "dose_key is"),
        ({**OWN, "control": ["control"]}, TypeError, "pass the one value"),
        ({**OWN, "condition_embeddings": table("X")}, TypeError, "pass a dict"),
        ({**OWN, "condition_embeddings": {"target": [1]}}, TypeError, "is a list"),
        (
            {**OWN, "condition_embeddings": {"traget": table("X")}},
            KeyError,
            "Did you mean 'target'",
        ),
        ({**OWN, "condition_embeddings": {"target": table("X", "X")}}, ValueError, "more than one"),
        ({**OWN, "condition_embeddings": {"target": table("Q")}}, ValueError, "none of the values"),
        ({**OWN, "condition_embeddings": {"target": table()}}, ValueError, "no vector"),
        (
            {**OWN, "condition_embeddings": {"target": table("X", "Y").replace(4, np.nan)}},
            ValueError,
            "NaN or infinite values for 'Y'",
        ),
        (
            {**OWN, "condition_embeddings": {"target": table("X").assign(name="a")}},
            TypeError,
            "columns 'name' hold no numbers",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(adata, kwargs, error, match):
    before = adata.copy()
    with pytest.raises(error, match=match):
        SCGM.setup_anndata(adata, **kwargs)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.uns and not adata.obsm


def test_a_set_in_two_orders_is_refused(adata):
    adata.obs.loc["cell0", "target"] = "Y+X"
    with pytest.raises(ValueError, match=r"'X\+Y' for the same|Write both 'X\+Y'"):
        SCGM.setup_anndata(adata, **OWN)


def test_a_negative_dose_is_refused(adata):
    adata.obs["dose"] -= 5
    with pytest.raises(ValueError, match="doses are not negative"):
        SCGM.setup_anndata(adata, **OWN, dose_key="dose")


def test_a_name_that_nothing_is_known_of_is_told_the_nearest():
    perturbations = Perturbations("target", "control", embeddings={"target": table("STAT1")})
    with pytest.raises(ValueError, match=r"'STAT2' of the set .* Did you mean 'STAT1'"):
        perturbations.require_known(["STAT2+IRF9"], ["IRF9"])
    assert perturbations.require_known(["IRF9+STAT1", "control"], ["IRF9"]) == [
        ("IRF9", "STAT1"),
        (),
    ]


@pytest.mark.parametrize("name", ["", " ", "+"])
def test_an_empty_name_is_no_control(adata, name):
    adata.obs.loc[adata.obs_names[:3], "target"] = name
    with pytest.raises(ValueError, match=r"for 3 cells, which names nothing.*NaN"):
        SCGM.setup_anndata(adata, **OWN)


def test_a_control_with_the_separator_in_it_is_the_control(adata):
    own = {"perturbation_key": "target", "control": "non_targeting", "perturbation_separator": "_"}
    names = {"control": "non_targeting", "X+Y": "X_Y"}
    adata.obs["target"] = adata.obs["target"].replace(names)
    SCGM.setup_anndata(adata, **own)
    perturbations = Perturbations("target", "non_targeting", "_")
    assert perturbations.parts("non_targeting") == () and perturbations.parts("Y_X") == ("X", "Y")
    adata.obs.loc["cell1", "target"] = "X_non_targeting"
    with pytest.raises(ValueError, match="'X_non_targeting' .* perturbation_separator, such as"):
        SCGM.setup_anndata(adata, **own)


def test_a_perturbed_cell_without_a_dose_is_refused(adata):
    adata.obs.loc[adata.obs["target"] == "control", "dose"] = np.nan
    SCGM.setup_anndata(adata, **OWN, dose_key="dose")
    adata.obs.loc[["cell1", "cell2"], "dose"] = np.nan
    with pytest.raises(ValueError, match=r"2 perturbed cells have no dose in adata.obs\['dose'\]"):
        SCGM.setup_anndata(adata, **OWN, dose_key="dose")


def test_vectors_that_are_never_read_are_named(adata, recwarn):
    own = {**OWN, "condition_embeddings": {"target": table("X", "control", "C+D", "F ")}}
    with pytest.warns(UserWarning, match=r"never read: 'control', 'C\+D', 'F '"):
        SCGM.setup_anndata(adata, **own)
    recwarn.clear()
    SCGM.setup_anndata(adata, **OWN, condition_embeddings={"target": table("X", "Z")})
    assert not [w for w in recwarn if "never read" in str(w.message)]
