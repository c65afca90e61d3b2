"""scvi-tools' own tools find what they ask a model for, and no question changes the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from golden.make_golden import make_data
from helpers import QUIET, assert_whole, generated, make_adata
from scvi import REGISTRY_KEYS

from scgm_scvi import SCGM

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = {"n_latent": 4, "n_hidden": 8, "denoiser_kwargs": {"n_hidden": 8, "n_layers": 1}}
KEYS = {"batch_key": "donor", "labels_key": "cell_type"}


def make_small() -> AnnData:
    adata = make_adata()[::4].copy()
    return adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 20].copy()


def make_trained(adata: AnnData, **setup) -> SCGM:
    scvi.settings.seed = 0
    SCGM.setup_anndata(adata, **{**KEYS, **setup})
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    return model


@pytest.fixture
def trained() -> SCGM:
    return make_trained(make_small())


def labels_of(model: SCGM) -> list:
    return model.get_state_registry(REGISTRY_KEYS.LABELS_KEY)["categorical_mapping"].tolist()


@pytest.mark.parametrize("key", ["label", "proteins", "mu"])
def test_a_field_that_there_is_not(trained, tmp_path, key):
    before = generated(trained)
    with pytest.raises(KeyError, match=f"no field '{key}'.*Fields: 'X', 'batch'"):
        trained.get_state_registry(key)
    for ask in (trained.adata_manager.get_state_registry, trained.data_registry):
        with pytest.raises((KeyError, AttributeError)):
            ask(key)
    assert_whole(trained, before, tmp_path)


def test_labels(trained):
    state = trained.get_state_registry("labels")
    assert state.original_key == "cell_type"
    known = trained.condition_spec.categorical["cell_type"]
    assert labels_of(trained) == known.tolist()
    assert trained.summary_stats.n_labels == len(known)
    codes = trained.adata_manager.get_from_registry("labels").ravel()
    assert known[codes].tolist() == trained.adata.obs["cell_type"].tolist()


@pytest.mark.parametrize("unlabeled", [None, "Unknown"])
def test_labels_that_are_missing(unlabeled):
    adata = make_small()
    types = adata.obs["cell_type"].astype(str)
    gap = np.arange(adata.n_obs) < 9
    adata.obs["cell_type"] = types.mask(gap, unlabeled or np.nan)
    adata.obs.loc[adata.obs_names[0], "cell_type"] = np.nan
    SCGM.setup_anndata(adata, **KEYS, unlabeled_category=unlabeled)
    model = SCGM(adata, **SMALL)
    known = model.condition_spec.categorical["cell_type"].tolist()
    assert unlabeled not in known
    assert labels_of(model) == [*known, *([] if unlabeled is None else [unlabeled])]
    codes = model.adata_manager.get_from_registry("labels").ravel()
    assert (codes[gap] == (-1 if unlabeled is None else len(known))).all()
    assert np.array(known)[codes[~gap]].tolist() == types[~gap].tolist()


def test_no_labels():
    adata = make_small()
    SCGM.setup_anndata(adata)
    model = SCGM(adata, **SMALL)
    assert model.get_state_registry("labels").original_key == "_scvi_labels"
    assert labels_of(model) == [0]


def test_labels_of_a_query(trained):
    query = make_small()[:60].copy()
    first = trained.condition_spec.categorical["cell_type"][0]
    types = query.obs["cell_type"].astype(str)
    query.obs["cell_type"] = types.where(types != types.iloc[0], "new").mask(types == first)
    tuned = SCGM.load_query_data(query, trained, replay=0)
    assert labels_of(tuned) == [*labels_of(trained), "new"]
    assert labels_of(tuned) == tuned.condition_spec.categorical["cell_type"].tolist()
    bare = make_small()[:60].copy()
    del bare.obs["cell_type"]
    tuned = SCGM.load_query_data(bare, trained, replay=0)
    assert labels_of(tuned) == labels_of(trained)
    tuned.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)


def test_the_module_does_not_look_at_labels(trained):
    batch = next(iter(trained._make_data_loader(adata=trained.adata, batch_size=20)))
    other = {**batch, REGISTRY_KEYS.LABELS_KEY: torch.full_like(batch["labels"], -1)}
    a, b = (trained.module.encode_state(t)[0] for t in (batch, other))
    assert torch.equal(a, b)
    one, two = (trained.module.decode_state(a, t).mean for t in (batch, other))
    assert torch.equal(one, two)


def test_minified(trained, tmp_path):
    before = generated(trained)
    for key, value in zip(
        ("X_latent_qzm", "X_latent_qzv"),
        trained.get_latent_representation(return_dist=True),
        strict=True,
    ):
        trained.adata.obsm[key] = value
    trained.minify_adata()
    assert labels_of(trained) == trained.condition_spec.categorical["cell_type"].tolist()
    with pytest.raises(KeyError, match="no field 'label'"):
        trained.get_state_registry("label")
    trained.save(tmp_path / "m", save_anndata=True)
    again = SCGM.load(tmp_path / "m")
    assert labels_of(again) == labels_of(trained)
    np.testing.assert_array_equal(generated(again), before)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("kind", ["saved", "export"])
def test_models_of_before_have_labels(tmp_path, kind, with_data):
    adata = make_data() if with_data else None
    place = GOLDEN / "0.1.0" / kind
    if kind == "saved":
        model = SCGM.load(place, adata=adata if with_data else False)
    else:
        model = SCGM.from_export(place, adata)
    key = model.get_setup_arg("labels_key")
    assert model.get_state_registry("labels").original_key == key
    assert labels_of(model) == model.condition_spec.categorical[key].tolist()
    with pytest.raises(KeyError, match="no field"):
        model.get_state_registry("proteins")
    model.save(tmp_path / "again")
    assert labels_of(SCGM.load(tmp_path / "again", adata=False)) == labels_of(model)


def test_solo(trained, tmp_path):
    before = generated(trained)
    with pytest.warns(UserWarning, match="restrict_to_batch"):
        solo = scvi.external.SOLO.from_scvi_model(trained)
    assert solo.adata.n_obs == 3 * trained.adata.n_obs
    assert solo.adata.n_vars == 5  # latents and depth
    some = scvi.external.SOLO.from_scvi_model(trained, restrict_to_batch="d1")
    assert some.adata.n_obs == 3 * (trained.adata.obs["donor"] == "d1").sum()
    assert_whole(trained, before, tmp_path)


def test_no_scanvi_of_it(trained, tmp_path):
    before, columns = generated(trained), list(trained.adata.obs)
    with pytest.raises(TypeError, match=r"A SCGM can't be what .* starts from.*scvi\.model\.SCVI"):
        scvi.model.SCANVI.from_scvi_model(trained, "Unknown")
    assert list(trained.adata.obs) == columns
    assert_whole(trained, before, tmp_path)


def test_what_was_set_up_is_shown(trained, capsys, tmp_path):
    before = generated(trained)
    trained.view_registry()
    trained.view_setup_method_args()
    assert "cell_type" in capsys.readouterr().out
    trained.update_setup_method_args({"layer": None})
    assert_whole(trained, before, tmp_path)
    with pytest.raises(ValueError, match="loaded without data"):
        SCGM.load(tmp_path / "model", adata=False).view_registry()


def test_labels_keep_an_order_of_their_own():
    adata = make_small()
    names = sorted(adata.obs["cell_type"].unique(), reverse=True)
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"], [*names, "unused"])
    SCGM.setup_anndata(adata, **KEYS)
    assert labels_of(SCGM(adata, **SMALL)) == names
