"""Fine-tuning: what stays, what trains, what is said of features, and what is refused."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from helpers import QUIET, make_adata, make_model

from scgm_scvi import SCGM
from scgm_scvi.model.training import _replaying


@pytest.fixture(autouse=True)
def _few_replayed(monkeypatch):
    monkeypatch.setattr(_replaying, "_N_REPLAYED", 60)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "model"
    model.save(path)
    return path


def make_query(n: int = 120) -> AnnData:
    """A new donor, some cells of a new type, and no stimulation."""
    query = make_adata()[::5][:n].copy()
    query.obs["donor"] = "new"
    query.obs["cell_type"] = query.obs["cell_type"].astype(str)
    query.obs.iloc[:40, query.obs.columns.get_loc("cell_type")] = "novel"
    del query.obs["stimulation"]  # unspecified throughout
    return query


def tuned(reference, query=None, *, epochs=2, steps=5, **kwargs) -> SCGM:
    model = SCGM.load_query_data(make_query() if query is None else query, reference, **kwargs)
    scvi.settings.seed = 0
    model.train(max_epochs=epochs, diffusion_kwargs={"max_steps": steps, **QUIET}, **QUIET)
    return model


def generate(model, n=6, conditions=None, **kwargs):
    return model.generate(n, conditions, seed=0, progress_bar=False, n_steps=5, **kwargs)


def known_states(model, reference):
    """States that the model gives the reference's cells."""
    return model._states(reference.adata[:50])[1]


@pytest.mark.parametrize("mode", ["full", "adapter", "surgery"])
def test_before_training_the_query_model_is_the_reference(model, saved, mode):
    query = SCGM.load_query_data(make_query(), saved, mode=mode)
    torch.testing.assert_close(known_states(query, model), known_states(model, model))
    tensors, states = model._states(model.adata[:50])
    torch.testing.assert_close(
        query.module.decode_state(states, tensors.tensors).mean,
        model.module.decode_state(states, tensors.tensors).mean,
    )
    with pytest.raises(RuntimeError, match=r"not fine-tuned yet.*train\(\)"):
        query.generate(5)


@pytest.mark.parametrize("mode", ["full", "adapter", "surgery"])
def test_a_new_donor_and_a_new_type_are_generated(saved, mode):
    query = tuned(saved, mode=mode)
    assert query.is_diffusion_trained
    cells = generate(query, conditions={"cell_type": "novel"})
    assert (cells.obs["donor"] == "new").all()  # its own cells come first
    assert list(cells.obs["cell_type"].cat.categories)[-1] == "novel"
    known = generate(query, 40, {"cell_type": "CD34+", "donor": "d3"})  # replayed ones still are
    assert known.obs["donor"].unique().tolist() == ["d3"]
    assert query.adata.obsm["X_scgm"].shape == (120, 12)


def changed(query, state):
    """Names of weights that the reference has and that differ, new categories left out."""
    out = []
    for key, value in query.module.state_dict().items():
        if key in state:
            dims = [slice(n) for n in state[key].shape]
            if not torch.equal(value[tuple(dims)], state[key]):
                out.append(key)
    return out


def test_surgery_changes_nothing_but_new_categories(model, saved):
    query = tuned(saved, mode="surgery", epochs=3, steps=20)
    moved = changed(query, model.module.state_dict())
    # the new donor's column stands before the plates': only these layers look different
    assert all("decoder.px_decoder" in key and key.endswith("weight") for key in moved)
    torch.testing.assert_close(known_states(query, model), known_states(model, model))
    tensors, states = model._states(model.adata[:50])
    torch.testing.assert_close(
        query.module.decode_state(states, tensors.tensors).mean,
        model.module.decode_state(states, tensors.tensors).mean,
    )
    fresh = SCGM.load_query_data(make_query(), saved, mode="surgery").module.state_dict()
    for key in (
        "condition_embedding.tables.0.weight",
        "px_r_shifts.0.weight",
        "denoiser.network.conditions.tables.2.weight",
    ):
        assert not torch.equal(query.module.state_dict()[key][-1], fresh[key][-1])


def test_adapters_train_a_few_weights_and_can_be_merged(saved, model):
    query = tuned(saved, mode="adapter", adapter_rank=2, epochs=3, steps=20)
    moved = changed(query, model.module.state_dict())
    assert all("decoder.px_decoder" in key and key.endswith("weight") for key in moved)
    ups = {k: v for k, v in query.module.state_dict().items() if k.endswith("adapter_up")}
    assert {k.split(".")[0] for k in ups} >= {"z_encoder", "decoder", "denoiser"}
    assert all(v.any() for v in ups.values() if v.shape[0] > 3)
    before = generate(query, expression="normalized")
    query.merge_adapters()
    assert not [k for k in query.module.state_dict() if "adapter" in k]
    after = generate(query, expression="normalized")
    np.testing.assert_allclose(after.X, before.X, rtol=1e-3, atol=1e-3)


def test_adapters_are_saved_and_the_model_can_be_a_reference_again(saved, tmp_path):
    query = tuned(saved, mode="adapter")
    query.save(tmp_path / "query", save_anndata=True)
    loaded = SCGM.load(tmp_path / "query")
    np.testing.assert_array_equal(
        generate(loaded, expression="normalized").X, generate(query, expression="normalized").X
    )
    assert loaded.fine_tuning_ == query.fine_tuning_
    loaded.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    frozen = {k: v for k, v in query.module.state_dict().items() if k not in loaded._new_entries()}
    moved = changed(loaded, frozen)
    assert moved
    assert all("adapter_" in key for key in moved)  # what froze, stays so after loading
    other = make_query()
    other.obs["donor"] = "newer"
    again = tuned(tmp_path / "query", other, mode="adapter")
    assert again.condition_spec.batch["donor"].tolist() == ["d1", "d2", "d3", "new", "newer"]


def test_the_reference_is_not_changed(saved):
    reference = SCGM.load(saved, adata=False)
    state, attributes = copy.deepcopy(reference.module.state_dict()), reference.init_params_
    before = copy.deepcopy(attributes)
    tuned(reference, mode="adapter")
    assert all(torch.equal(v, state[k]) for k, v in reference.module.state_dict().items())
    assert reference.init_params_ == before
    assert reference.fine_tuning_ is None
    assert reference.is_diffusion_trained


def test_minified_reference_will_do(tmp_path):
    adata = make_adata()
    reference = make_model(adata, epochs=2, steps=5)
    mean, variance = reference.get_latent_representation(return_dist=True)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mean, variance
    reference.minify_adata()
    assert reference.adata.X.nnz == 0
    for_memory = tuned(reference)
    reference.save(tmp_path / "model", save_anndata=True)
    for_disk = tuned(tmp_path / "model")
    assert len(generate(for_memory)) == len(generate(for_disk)) == 6


def test_features_missing_and_extra_are_matched_and_reported(saved, model, caplog):
    query = make_query()
    names = query.var_names.copy()
    fewer = query[:, np.random.default_rng(0).permutation(query.n_vars)[: query.n_vars * 7 // 10]]
    extra = AnnData(np.ones((query.n_obs, 2), dtype=np.float32), var=pd.DataFrame(index=["a", "b"]))
    extra.obs_names = query.obs_names
    wide = fewer.copy()
    wide = AnnData(
        np.concatenate([wide.X.toarray(), extra.X], axis=1),
        obs=wide.obs,
        var=pd.DataFrame(index=[*wide.var_names, "a", "b"]),
    )
    kept = wide.copy()
    with caplog.at_level(logging.WARNING, logger="scvi.scgm_scvi"):
        result = SCGM.load_query_data(wide, saved)
    np.testing.assert_array_equal(wide.X, kept.X)  # the user's object is as it was
    assert list(wide.obs) == list(kept.obs)
    assert result.adata.var_names.equals(names)
    x = pd.DataFrame(result.adata.X.toarray(), columns=names)
    np.testing.assert_array_equal(x[fewer.var_names], fewer.X.toarray())
    missing = names.difference(fewer.var_names, sort=False)
    assert not x[missing].any().any()
    report = result.fine_tuning_
    assert report["missing"] == list(missing)
    assert (report["n_shared"], report["n_dropped"]) == (fewer.n_vars, 2)
    assert set(report["missing_variable"]) < set(missing)
    message = " ".join(caplog.text.split())
    assert f"{fewer.n_vars} of the reference's {len(names)} features, 2 dropped" in message
    assert report["missing_variable"][0] in message


def test_missing_features_are_filled_in_for_the_encoder(model, saved, tmp_path):
    cells = model.adata[:200].copy()
    names = np.random.default_rng(0).permutation(cells.var_names)[: cells.n_vars * 7 // 10]
    panel = cells[:, cells.var_names.isin(names)].copy()
    panel.obs["donor"] = "new"
    query = SCGM.load_query_data(panel, saved, mode="surgery")
    true, filled = model._states(cells)[1][:, :-1], query._states(None)[1][:, :-1]
    fill, query.module.z_encoder.fill = query.module.z_encoder.fill, None
    zeros = query._states(None)[1][:, :-1]
    query.module.z_encoder.fill = fill
    assert np.linalg.norm(filled - true) < 0.9 * np.linalg.norm(zeros - true)
    query.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    np.testing.assert_allclose(query.adata.obsm["X_scgm"], filled, rtol=1e-5, atol=1e-6)
    query.save(tmp_path / "query")
    again = SCGM.load(tmp_path / "query", query.adata.copy())
    np.testing.assert_array_equal(again.get_latent_representation(), query.adata.obsm["X_scgm"])
    whole = SCGM.load_query_data(make_query(), tmp_path / "query")  # nothing is missing here
    assert whole.module.z_encoder.fill is None
    assert whole.init_params_["non_kwargs"]["n_memory"] == 0


def test_variable_features_are_those_that_vary(model, saved):
    query = SCGM.load_query_data(make_query(), saved)
    found = query._variable(list(query.get_var_names()))
    x = model.adata.X.toarray()
    spread = np.log1p(1e4 * x / x.sum(1, keepdims=True)).var(0)
    rank = pd.Series(spread, index=model.adata.var_names).rank(pct=True)
    assert rank[found[:50]].mean() > 0.6 > rank[found].mean() - 0.2


def test_a_missing_continuous_condition_is_unspecified(saved):
    query = make_query()
    del query.obs["dose"]
    result = tuned(saved, query)
    assert "dose" not in query.obs
    assert result.adata.obs["dose"].isna().all()
    cells = generate(result, conditions={"dose": 3.0})  # what the reference knew
    assert (cells.obs["dose"] == 3).all()


def test_replay_keeps_what_the_reference_knew(model, saved, monkeypatch):
    """The same training with and without: the denoiser's loss of the reference's own cells."""
    monkeypatch.setattr(_replaying, "_N_REPLAYED", 300)
    monkeypatch.setattr("scgm_scvi.model.training._fine_tuning._LR", {"full": 5e-3})
    query = make_query()
    query = query[query.obs["cell_type"] == "novel"].copy()
    query.X = query.X.tocsr().power(2)  # unlike anything before

    def elbo(ratio):
        tuned_model = tuned(saved, query.copy(), epochs=60, steps=100, replay=ratio)
        return -tuned_model.get_elbo(model.adata[:200].copy(), batch_size=200)

    with_replay, without = float(elbo(2.0)), float(elbo(0.0))
    assert with_replay > without + 5, (with_replay, without)


def test_other_objects_are_refused_with_a_reason(saved, tmp_path):
    query = make_query()
    fresh = make_adata()
    scvi.model.SCVI.setup_anndata(fresh)
    with pytest.raises(TypeError, match=r"reference_model is a SCVI.*from_scvi_model"):
        SCGM.load_query_data(query, scvi.model.SCVI(fresh))
    with pytest.raises(TypeError, match="reference_model is a dict"):
        SCGM.load_query_data(query, {})
    with pytest.raises(TypeError, match="adata is a DataFrame"):
        SCGM.load_query_data(query.obs, saved)
    SCGM.setup_anndata(fresh)
    with pytest.raises(ValueError, match=r"reference_model is not trained.*train\(\)"):
        SCGM.load_query_data(query, SCGM(fresh, n_latent=4, n_hidden=8))
    with pytest.raises(FileNotFoundError, match=r"holds no 'model\.pt'"):
        SCGM.load_query_data(query, tmp_path)


def test_features_of_another_organism_are_refused_before_anything_is_written(saved):
    mouse = make_query()
    mouse.var_names = mouse.var_names.str.capitalize()
    before = list(mouse.obs), list(mouse.uns), list(mouse.obsm)
    with pytest.raises(ValueError, match=r"upper and lower case.*another organism.*orthologs"):
        SCGM.load_query_data(mouse, saved)
    mouse.var_names = [f"ENSMUSG{i:011d}" for i in range(mouse.n_vars)]
    with pytest.raises(ValueError, match=r"has 0 of the \d+ features.*another kind"):
        SCGM.load_query_data(mouse, saved, min_shared=0)
    assert before == (list(mouse.obs), list(mouse.uns), list(mouse.obsm))


def test_too_few_features_are_refused_unless_asked_for(saved):
    query = make_query()[:, :300].copy()
    with pytest.raises(ValueError, match=r"has 300 of the \d+ features.*min_shared is 50%"):
        SCGM.load_query_data(query, saved)
    assert SCGM.load_query_data(query, saved, min_shared=0.3).adata.n_vars > 300


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "lora"}, "mode is 'lora'; use one of 'full', 'adapter', 'surgery'"),
        ({"replay": -1}, "replay is -1"),
        ({"min_shared": "half"}, "min_shared is 'half'"),
        ({"mode": "adapter", "adapter_rank": 0}, "adapter_rank is 0"),
    ],
)
def test_arguments_that_make_no_sense(saved, kwargs, message):
    query = make_query()
    with pytest.raises(ValueError, match=message):
        SCGM.load_query_data(query, saved, **kwargs)
    assert "_scvi_uuid" not in query.uns


def test_surgery_without_anything_new_is_refused(saved):
    query = make_adata()[:100].copy()
    with pytest.raises(ValueError, match=r"no new batch, type or other category.*'adapter'"):
        SCGM.load_query_data(query, saved, mode="surgery")
    assert not query.uns


def test_a_query_without_the_batch_column_is_refused(saved):
    query = make_query()
    del query.obs["donor"]
    with pytest.raises(KeyError, match="'donor' is not a column"):
        SCGM.load_query_data(query, saved)


def test_replay_needs_stage_two(adata):
    SCGM.setup_anndata(adata, batch_key="donor", labels_key="cell_type")
    reference = SCGM(adata, n_latent=4, n_hidden=8)
    reference.train(max_epochs=1, diffusion=False, **QUIET)
    with pytest.raises(ValueError, match=r"stage two is not trained.*replay=0"):
        SCGM.load_query_data(make_query(), reference)
    query = tuned(reference, replay=0, mode="adapter")  # then stage two is trained from nothing
    assert query.is_diffusion_trained
    assert generate(query).n_obs == 6
