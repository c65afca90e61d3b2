import json
import sys

import anndata as ad
import multiome
import multiome_methods
import multiome_scores
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from multiome_methods import LABEL, TRANSLATED, common_features, multivi, with_modalities
from scipy import sparse

from scgm_scvi._mudata import columns_stay

# what columns of MuData will be called one day
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
N_RNA, N_ATAC = 60, 150


def make_cells(n=320, seed=0):
    """Cells of two types, a third of them of the second, measured in both modalities."""
    law, rng = np.random.default_rng(0), np.random.default_rng(seed)
    label = np.where(np.arange(n) % 3 == 2, "b", "a")
    obs = pd.DataFrame({LABEL: pd.Categorical(label)}, index=[f"c{i}" for i in range(n)])
    modalities = {}
    for name, size, shape, depth in (("rna", N_RNA, 1.0, 200), ("atac", N_ATAC, 0.5, 60)):
        share = law.gamma(shape, 1, (2, size))
        share /= share.sum(axis=1, keepdims=True)
        rate = share[(label == "b").astype(int)] * depth * rng.gamma(10, 0.1, (n, 1))
        counts = rng.poisson(rate).astype(np.float32)
        counts[:, -1] = np.arange(n) == 0  # a feature that one cell has
        var = pd.DataFrame(index=[f"{name}{i}" for i in range(size)])
        modalities[name] = AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
    return MuData(modalities)


with columns_stay():
    CELLS = make_cells()
    TRAIN, TEST = multiome.split(CELLS, 0)


def both(mdata):
    return {name: mdata[name] for name in ("rna", "atac")}


@pytest.fixture
def no_forest(monkeypatch):
    monkeypatch.setattr("scgm_scvi.metrics._evaluator.classifier_auc", lambda x, y, seed: 0.5)


def test_split_keeps_the_types_frequencies():
    assert not set(TRAIN.obs_names) & set(TEST.obs_names)
    assert TRAIN.n_obs + TEST.n_obs == CELLS.n_obs
    for part, share in ((TRAIN, 0.6), (TEST, 0.4)):
        found = part["rna"].obs[LABEL].value_counts()
        expected = CELLS["rna"].obs[LABEL].value_counts() * share
        assert (found - expected).abs().max() < 1
        assert list(part["rna"].obs_names) == list(part["atac"].obs_names)
    other, _ = multiome.split(CELLS, 1)
    assert set(other.obs_names) != set(TRAIN.obs_names)


def test_features_are_chosen_on_the_training_cells(monkeypatch):
    monkeypatch.setattr(multiome_scores, "N_GENES", 20)
    rna, whole, common = multiome_scores.panels(TRAIN)
    assert len(rna.features) == 20
    assert len(whole.features) == N_ATAC
    assert set(common.features) == set(common_features(TRAIN["atac"]))
    assert "atac149" not in common.features
    x = TRAIN["rna"].X.toarray()
    variance = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).var(axis=0)
    assert set(rna.features) == {f"rna{i}" for i in np.argsort(-variance)[:20]}
    assert set(np.unique(common.of(TEST["atac"]).X.data)) == {1}
    assert not common.shows({"atac": TEST["atac"][:, :5]})


def test_real_cells_are_coherent_and_shuffled_halves_are_not():
    rna, whole, _ = multiome_scores.panels(TRAIN)
    # the rows of ATAC handed on by one place within a cycle of three: a third are right
    moved = TEST["atac"][np.roll(np.arange(TEST.n_obs), 1)].copy()
    moved.obs = TEST["atac"].obs.copy()
    drawn = {"real": both(TEST), "shuffled": {"rna": TEST["rna"], "atac": moved}}
    table = multiome_scores.coherence(rna, whole, drawn, TRAIN, TEST)
    value = table.set_index(["method", "metric"])["value"]
    assert value["real"].min() > 0.95
    assert value["shuffled", "same"] < 0.6
    assert (table["floor"] == np.tile(value["real"], 2)).all()


def test_translation_of_real_and_of_other_cells():
    _, whole, _ = multiome_scores.panels(TRAIN)
    name = TRANSLATED["atac"]
    wrong = TEST["atac"][np.argsort(TEST["atac"].obs[LABEL].to_numpy())[::-1]].copy()
    drawn = {"real": {name: TEST["atac"]}, "wrong": {name: wrong}, "none": both(TEST)}
    table = multiome_scores.translation(whole, drawn, TRAIN, TEST, 0)
    table = table.set_index(["method", "metric"])
    assert set(table.index.get_level_values(0)) == {"real", "wrong"}
    assert table.loc[("real", "pseudobulk"), "value"] == pytest.approx(1)
    assert table.loc[("wrong", "type_acc"), "value"] < 0.6 < 0.95
    assert table.loc[("real", "type_acc"), "value"] > 0.95
    row = table.loc[("wrong", "pseudobulk")]
    assert row["value"] < row["floor"] < row["train_floor"] < row["ceiling"] < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scvi-tools' own
def test_multivi_draws_what_it_is_said_to(monkeypatch):
    encoded, decoded = [], []
    encode, decode = multiome_methods._encode, multiome_methods._decode

    def kept_encode(*args):
        encoded.append(encode(*args))
        return encoded[-1]

    def kept_decode(model, z, sizes, *args):
        decoded.append((z, sizes))
        return decode(model, z, sizes, *args)

    monkeypatch.setattr(multiome_methods, "_encode", kept_encode)
    monkeypatch.setattr(multiome_methods, "_decode", kept_decode)
    drawn, costs = multivi(TRAIN, TEST, 0, 3)
    assert costs["epochs"] == 3
    assert len(drawn) == 3
    common = {name: common_features(TRAIN[name]) for name in ("rna", "atac")}
    for cells in drawn.values():
        for name in ("rna", "atac"):
            a = cells[name]
            assert list(a.var_names) == list(common[name])
            assert list(a.obs_names) == list(TEST.obs_names)
            assert (a.obs[LABEL].astype(str) == TEST["rna"].obs[LABEL].astype(str)).all()
        assert set(np.unique(cells["atac"].X.data)) == {1}
        assert (cells["rna"].X.data % 1 == 0).all()
    # the label's latents and sizes, or no label at all
    (z_train, sizes), (z_test, sizes_test), *_ = encoded
    known, wanted = (multiome_scores.types(m["rna"]) for m in (TRAIN, TEST))
    (noise, of_any), (z, of_label), own, *_ = decoded
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.1)
    for kind in "ab":
        of_kind = set(map(tuple, sizes[known == kind]))
        assert set(map(tuple, of_label[wanted == kind])) <= of_kind
        assert not set(map(tuple, of_any[wanted == kind])) <= of_kind
        error = z[wanted == kind].mean(axis=0) - z_train[known == kind].mean(axis=0)
        assert np.abs(error).max() < 5 * z.std() / np.sqrt((wanted == kind).sum())
    assert own[0] is z_test
    assert own[1] is sizes_test
    translated = drawn["MULTIVI posterior predictive"]
    assert {*TRANSLATED.values()} <= set(translated)
    blind = with_modalities(TEST, "rna")
    assert blind["atac"].X.nnz == 0
    assert (blind["rna"].X != TEST["rna"].X).nnz == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_forest")
def test_runs_once_and_reports(tmp_path, monkeypatch, capsys):
    CELLS.write_h5mu(tmp_path / "cells.h5mu")
    calls = []

    def count(train, test, seed, epochs):
        calls.append(seed)
        return multiome_methods.independent(train, test, seed, epochs)

    monkeypatch.setitem(multiome_methods.FAMILIES, "independent", count)
    arguments = ["--data", tmp_path / "cells.h5mu", "--out", tmp_path, "--methods", "independent"]
    monkeypatch.setattr(sys, "argv", ["multiome.py", *map(str, arguments), "--seeds", "0", "1"])
    multiome.main()
    first = capsys.readouterr().out
    multiome.main()
    assert calls == [0, 1]
    assert capsys.readouterr().out.strip() in first
    assert (tmp_path / "summary.md").read_text().strip() in first
    run = json.loads((tmp_path / "runs" / "1_independent.json").read_text())
    assert {"value", "floor", "train_floor"} <= set(run["rows"][0])
    for heading in ("## RNA", "## ATAC", "## coherence of RNA and ATAC", "Seeds 0, 1; 64 cells"):
        assert heading in first
    assert "| independent Poisson | 0.500 (0.000) |" in first
    # cells that were kept are measured again where their numbers are gone
    (tmp_path / "runs" / "0_independent.json").unlink()
    multiome.main()
    assert calls == [0, 1]
    kept = tmp_path / "cells" / "0" / "independent" / "independent Poisson"
    cells = {path.stem: ad.read_h5ad(path) for path in kept.glob("*.h5ad")}
    assert set(cells) == {"rna", "atac"}
    assert (cells["rna"].obs[LABEL] == multiome.split(CELLS, 0)[1]["rna"].obs[LABEL]).all()
