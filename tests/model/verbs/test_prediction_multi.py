"""Predicted cells of several modalities, of a small screen whose law is known."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from helpers import QUIET, SILENT, SMALL
from mudata import MuData
from scipy import sparse

from scgm_scvi import MultiSCGM
from scgm_scvi._mudata import columns_stay

NAMES = [f"P{i}" for i in range(8)]
KEYS = {"perturbation_key": "target", "control": "control", "dose_key": "dose"}
N_GENES, N_PEAKS = 40, 60


def make_screen(seed=0):
    """Seven perturbations that move genes and peaks as their vectors say; one was not done."""
    rng = np.random.default_rng(seed)
    vectors = pd.DataFrame(rng.normal(size=(8, 2)), index=NAMES)
    law = np.zeros((2, N_GENES + N_PEAKS))
    law[0, :10], law[1, 10:20], law[0, 45:65], law[1, 70:90] = 0.8, -0.8, -0.6, 0.6
    base = np.r_[rng.gamma(2, 2, size=N_GENES), rng.gamma(2, 0.5, size=N_PEAKS)]
    names = np.repeat(["control", *NAMES[:-1]], [160, *[50] * 7])
    change = vectors.reindex(names).fillna(0).to_numpy() @ law
    x = rng.poisson(base * np.exp(change)).astype(np.float32)
    obs = pd.DataFrame({"target": names, "dose": (names != "control").astype(float)})
    obs["donor"] = np.resize(["d1", "d2"], len(obs))
    obs.index = [f"c{i}" for i in range(len(obs))]
    peaks = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(N_PEAKS)]
    with columns_stay():
        mdata = MuData(
            {
                "rna": AnnData(
                    sparse.csr_matrix(x[:, :N_GENES]),
                    obs=obs,
                    var=pd.DataFrame(index=[f"g{j}" for j in range(N_GENES)]),
                ),
                "atac": AnnData(
                    sparse.csr_matrix(x[:, N_GENES:]),
                    obs=obs[[]].copy(),
                    var=pd.DataFrame(index=peaks),
                ),
            }
        )
    return mdata, vectors, law


def part_of(mdata, rows):
    with columns_stay():
        return mdata[rows].copy()


def train(mdata, vectors, **kwargs):
    scvi.settings.seed = 0
    embeddings = {"target": vectors}
    MultiSCGM.setup_mudata(mdata, **KEYS, condition_embeddings=embeddings, batch_key="donor")
    model = MultiSCGM(mdata, **SMALL, **kwargs)
    model.train(max_epochs=3, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    return model


def change_of(cells, controls):
    parts = []
    for key in ("rna", "atac"):
        means = [np.asarray(m[key].X.mean(axis=0)).ravel() for m in (cells, controls)]
        parts.append(np.log(means[0] + 0.1) - np.log(means[1] + 0.1))
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def screen():
    return make_screen()


@pytest.fixture(scope="module")
def model(screen):
    return train(part_of(screen[0], slice(None)), screen[1])


@pytest.fixture(scope="module")
def controls(screen):
    return part_of(screen[0], (screen[0]["rna"].obs["target"] == "control").to_numpy())


def test_both_modalities_are_predicted_of_a_name_that_no_cell_had(model, screen, controls):
    _, vectors, law = screen
    cells = model.predict(controls, ["P1", "P7"], seed=0, **SILENT)
    assert isinstance(cells, MuData) and list(cells.mod) == ["rna", "atac"]
    assert cells["rna"].var_names.equals(controls["rna"].var_names)
    for name, least in (("P1", 0.9), ("P7", 0.8)):
        own = part_of(cells, (cells.obs["target"] == name).to_numpy())
        true, found = vectors.loc[name].to_numpy() @ law, change_of(own, controls)
        for features in (slice(None, N_GENES), slice(N_GENES, None)):
            assert np.corrcoef(true[features], found[features])[0, 1] > least
    expected = pd.DataFrame(cells.uns["scgm"]["expected"])
    assert list(expected["basis"]) == ["seen", "perturbation"]


def test_at_no_dose_the_very_cells_come_back(model, controls):
    cells = model.predict(controls, ["P1"], dose=0, seed=0, **SILENT)
    for key in ("rna", "atac"):
        assert (cells[key].X != controls[key].X).nnz == 0


def test_it_is_written_in_chunks_and_saved(model, controls, tmp_path):
    asked = {"n_cells": 30, "batch_size": 16, "seed": 1, **SILENT}
    path = model.predict(controls, ["P7"], out=tmp_path / "cells.h5mu", **asked)
    model.save(tmp_path / "model")
    loaded = MultiSCGM.load(tmp_path / "model", adata=False)
    with columns_stay():
        written, again = mudata.read_h5mu(path), loaded.predict(controls, ["P7"], **asked)
    for key in ("rna", "atac"):
        assert (written[key].X != again[key].X).nnz == 0


def test_controls_may_be_an_anndata_of_both(model, controls):
    parts = [controls["rna"], controls["atac"]]
    joint = AnnData(
        sparse.hstack([p.X for p in parts], format="csr"),
        var=pd.DataFrame(index=[*parts[0].var_names, *parts[1].var_names]),
        obs=pd.DataFrame({"donor": controls["rna"].obs["donor"]}, index=controls.obs_names),
    )
    a, b = (model.predict(c, ["P7"], seed=0, **SILENT) for c in (joint, controls))
    assert (a["atac"].X != b["atac"].X).nnz == 0


def test_edit_asks_for_what_no_cell_had(model, screen, controls):
    _, vectors, law = screen
    cells = model.edit(controls, {"target": "P7"}, copy=True, seed=0, **SILENT)
    for key, features in (("rna", slice(None, N_GENES)), ("atac", slice(N_GENES, None))):
        means = [
            np.log(np.asarray(x.mean(axis=0)).ravel() + 0.1)
            for x in (cells[key].layers["scgm_edited"], controls[key].X)
        ]
        true = vectors.loc["P7"].to_numpy() @ law[:, features]
        assert np.corrcoef(means[0] - means[1], true)[0, 1] > 0.8


def test_cells_that_lack_a_modality_teach_nothing_and_are_refused(screen, controls):
    mdata, vectors, _ = screen
    some = part_of(mdata, slice(None))
    lacking = np.arange(some.n_obs) % 5 == 0
    x = some["atac"].X.toarray()
    x[lacking] = 0
    some.mod["atac"].X = sparse.csr_matrix(x)
    model = train(some, vectors)
    treated = (mdata["rna"].obs["target"] != "control").to_numpy()
    assert sum(model.fitted_["responses"]["n_cells"]) == (treated & ~lacking).sum()
    own = part_of(some, ~treated)
    with pytest.raises(ValueError, match=r"32 of the cells were not measured .* model.translate"):
        model.predict(own, ["P7"], **SILENT)
    rna = controls["rna"].copy()
    with pytest.raises(ValueError, match="160 of the cells were not measured in all"):
        model.predict(rna, ["P7"], **SILENT)


def test_open_peaks_are_predicted_as_such(screen, controls):
    mdata, vectors, law = screen
    model = train(part_of(mdata, slice(None)), vectors, peak_likelihood="bernoulli")
    cells = model.predict(controls, ["P7"], seed=0, **SILENT)
    assert set(np.unique(cells["atac"].X.toarray())) == {0, 1}
    means = [np.asarray((m["atac"].X > 0).mean(axis=0)).ravel() for m in (cells, controls)]
    true = vectors.loc["P7"].to_numpy() @ law[:, N_GENES:]
    assert np.corrcoef(means[0] - means[1], true)[0, 1] > 0.75


def test_a_query_of_controls_keeps_what_was_learnt(model, controls):
    query = part_of(controls, slice(None))
    query["rna"].obs["donor"] = "d3"
    tuned = MultiSCGM.load_query_data(query, model)
    tuned.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    cells = tuned.predict(query, ["P7"], n_cells=6, seed=0, **SILENT)
    assert set(cells.obs["donor"]) == {"d3"} and cells.n_obs == 6


def test_genes_and_peaks_in_one_anndata(screen):
    mdata, vectors, _ = screen
    parts = [mdata["rna"], mdata["atac"]]
    kinds = np.repeat(["Gene Expression", "Peaks"], [N_GENES, N_PEAKS])
    adata = AnnData(
        None,
        obs=mdata["rna"].obs.copy(),
        var=pd.DataFrame({"modality": kinds}, [*parts[0].var_names, *parts[1].var_names]),
        layers={"counts": sparse.hstack([p.X for p in parts], format="csr")},
    )
    embeddings = {"target": vectors}
    MultiSCGM.setup_anndata(adata, layer="counts", **KEYS, condition_embeddings=embeddings)
    model = MultiSCGM(adata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    controls = adata[(adata.obs["target"] == "control").to_numpy()].copy()
    cells = model.predict(controls, ["P7"], n_cells=5, seed=0, **SILENT)
    assert isinstance(cells, AnnData) and cells.shape == (5, N_GENES + N_PEAKS)


def test_counts_in_a_layer_of_one_modality(screen, controls):
    mdata, vectors, _ = screen
    mdata = part_of(mdata, slice(None))
    rna = mdata["rna"]
    rna.layers["counts"] = rna.X.copy()
    rna.X = rna.X / 2
    MultiSCGM.setup_mudata(
        mdata, rna_layer="counts", **KEYS, condition_embeddings={"target": vectors}
    )
    model = MultiSCGM(mdata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
    own = part_of(mdata, (mdata["rna"].obs["target"] == "control").to_numpy())
    cells = model.predict(own, ["P1"], dose=0, seed=0, **SILENT)
    assert (cells["rna"].X != controls["rna"].X).nnz == 0


def test_errors_name_the_remedy(screen):
    mdata = part_of(screen[0], slice(None))
    with pytest.raises(ValueError, match="no control: name the value"):
        MultiSCGM.setup_mudata(mdata, perturbation_key="target")
    with pytest.raises(ValueError, match=r"mdata.obs\['target'\].* Did you mean 'control'"):
        MultiSCGM.setup_mudata(mdata, perturbation_key="target", control="Control")
    MultiSCGM.setup_mudata(mdata, condition_keys=["target"])
    model = MultiSCGM(mdata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    with pytest.raises(ValueError, match=r"setup_mudata\(..., perturbation_key"):
        model.predict(mdata, ["P1"], **SILENT)
