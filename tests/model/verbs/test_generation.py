"""Generated cells: what comes back, that requests are honoured, and that bad ones are refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from helpers import QUIET, SMALL, make_model
from scipy import sparse

from scgm_scvi import SCGM
from scgm_scvi.diffusion import SAMPLERS


def generate(model, *args, **kwargs):
    return model.generate(*args, progress_bar=False, **kwargs)


def test_what_comes_back(model):
    cells = generate(model, 30, {"cell_type": "CD34+", "stimulation": "IFNb", "dose": 2.5}, seed=3)
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert (cells.X.data == np.rint(cells.X.data)).all()
    assert (cells.X.data > 0).all()
    pd.testing.assert_frame_equal(cells.var, model.adata.var)
    assert cells.obsm["X_scgm"].shape == (30, 12)
    assert cells.obsm["X_scgm"].dtype == np.float32
    assert (cells.obs["cell_type"] == "CD34+").all()
    assert (cells.obs["stimulation"] == "IFNb").all()
    assert (cells.obs["dose"] == 2.5).all()
    assert list(cells.obs["cell_type"].cat.categories) == ["CD34+"]
    uns = cells.uns["scgm"]
    assert uns["sampler"] == "dpmpp_2m"
    assert uns["seed"] == 3
    assert {"model", "n_steps", "guidance_scale", "version"} <= set(uns)


def test_survives_disk_and_scanpy(model, tmp_path):
    cells = generate(model, 60, {"cell_type": ["CD34+", "CD19+ B"] * 30}, seed=0)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = sc.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.X != cells.X).nnz == 0
    assert back.uns["scgm"]["guidance_scale"] == 1.0
    sc.pp.normalize_total(back)
    sc.pp.log1p(back)
    sc.pp.pca(back, n_comps=5)
    sc.pp.neighbors(back)
    assert back.obsm["X_pca"].shape == (60, 5)


def test_unspecified_stays_unspecified(model):
    obs = generate(model, 5, seed=0).obs
    assert obs["cell_type"].isna().all()
    assert obs["stimulation"].isna().all()
    assert obs["dose"].isna().all()
    # nuisances have to be something
    assert obs["donor"].notna().all()
    assert obs["plate"].notna().all()
    assert obs["mito"].notna().all()


def test_rows_of_a_frame(model):
    wanted = model.adata.obs[["stimulation", "cell_type"]].iloc[:40]
    cells = generate(model, conditions=wanted, seed=0)
    assert list(cells.obs_names) == list(wanted.index)
    for column in wanted:
        got, want = cells.obs[column].astype(object), wanted[column].astype(object)
        assert (got.isna() == want.isna()).all()
        assert (got[want.notna()] == want[want.notna()]).all()


def test_nuisances_follow_the_conditions(model):
    drawn = generate(model, 40, {"cell_type": "CD34+"}, seed=0).obs["donor"]
    assert (drawn == "d3").all()  # the only donor with such cells
    named = generate(model, 10, {"cell_type": "CD34+", "donor": "d1"}, seed=0).obs["donor"]
    assert (named == "d1").all()
    several = generate(model, 200, {"cell_type": "Dendritic"}, seed=0).obs["donor"]
    assert set(several) == {"d1", "d2", "d3"}


def test_seed(model):
    a, b, c = (generate(model, 20, seed=s) for s in (1, 1, 2))
    assert (a.X != b.X).nnz == 0
    np.testing.assert_array_equal(a.obsm["X_scgm"], b.obsm["X_scgm"])
    assert (a.X != c.X).nnz > 0
    fresh = [generate(model, 5).uns["scgm"]["seed"] for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_global_random_state_is_left_alone(model):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    generate(model, 5, seed=9)
    assert torch.equal(before[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_n_steps_is_honoured(model, sampler, monkeypatch):
    calls = []
    forward = type(model.module.denoiser).forward
    monkeypatch.setattr(
        type(model.module.denoiser),
        "forward",
        lambda self, *a: calls.append(len(a[0])) or forward(self, *a),
    )
    n_steps = 40 if sampler == "euler_maruyama" else 7  # which refuses coarser grids
    evaluations = {"heun": 2 * n_steps - 1, "pc": 22 * n_steps}
    cells = generate(model, 4, sampler=sampler, n_steps=n_steps, seed=0)
    assert len(calls) == evaluations.get(sampler, n_steps)
    assert set(calls) == {4}
    assert cells.uns["scgm"]["n_steps"] == n_steps


def test_default_needs_at_most_36_evaluations(model, monkeypatch):
    calls = []
    forward = type(model.module.denoiser).forward
    monkeypatch.setattr(
        type(model.module.denoiser),
        "forward",
        lambda self, *a: calls.append(1) or forward(self, *a),
    )
    generate(model, 4, seed=0)
    assert len(calls) <= 36


def test_guidance_of_one_is_the_conditional_model(model):
    conditions = {"cell_type": "CD34+", "stimulation": "IFNb"}
    plain = generate(model, 8, conditions, seed=0)
    per_attribute = generate(
        model, 8, conditions, guidance_scale={"cell_type": 1.0, "stimulation": 1.0}, seed=0
    )
    np.testing.assert_array_equal(plain.obsm["X_scgm"], per_attribute.obsm["X_scgm"])
    strong = generate(model, 8, conditions, guidance_scale=3.0, seed=0)
    assert np.abs(strong.obsm["X_scgm"] - plain.obsm["X_scgm"]).max() > 1e-3


def test_guidance_of_zero_is_the_unconditional_latent(model):
    latent = [
        generate(model, 8, c, guidance_scale=w, seed=0).obsm["X_scgm"]
        for c, w in (
            ({"cell_type": "CD34+", "donor": "d3", "plate": "p1"}, 0.0),
            ({"donor": "d3", "plate": "p1"}, 1.0),
        )
    ]
    np.testing.assert_allclose(*latent, atol=1e-5)


def test_normalized_expression(model):
    cells = generate(model, 6, expression="normalized", seed=0)
    np.testing.assert_allclose(cells.X.sum(axis=1), 1e4, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("expression", ["counts", "normalized"])
def test_chunks_on_disk_are_the_cells_in_memory(model, tmp_path, suffix, expression):
    conditions = model.adata.obs[["cell_type"]].iloc[:50]
    options = {"seed": 4, "batch_size": 16, "expression": expression}
    memory = generate(model, conditions=conditions, **options)
    path = generate(model, conditions=conditions, out=tmp_path / f"cells.{suffix}", **options)
    disk = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    if expression == "counts":
        assert (memory.X != disk.X).nnz == 0
    else:
        np.testing.assert_array_equal(memory.X, disk.X)
    np.testing.assert_array_equal(memory.obsm["X_scgm"], disk.obsm["X_scgm"])
    values = [cells.obs.astype(object) for cells in (memory, disk)]  # a file has more categories
    pd.testing.assert_frame_equal(*values, check_names=False)
    pd.testing.assert_index_equal(memory.var_names, disk.var_names, check_names=False)
    assert disk.uns["scgm"]["seed"] == 4
    assert not list(tmp_path.glob("*.part"))


def test_nothing_is_overwritten(model, tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"cells\.h5ad' exists already"):
        generate(model, 5, out=path)
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match=r"must end in \.h5ad or \.zarr"):
        generate(model, 5, out=tmp_path / "cells.csv")
    with pytest.raises(FileNotFoundError, match="folder"):
        generate(model, 5, out=tmp_path / "no" / "cells.h5ad")


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({}, ValueError, "n_cells is missing"),
        ({"n_cells": 0}, ValueError, "n_cells is 0"),
        ({"n_cells": 2.5}, ValueError, r"n_cells is 2\.5"),
        ({"n_cells": {"cell_type": "CD34+"}}, ValueError, "n_cells is {'cell_type'"),
        (
            {"n_cells": 5, "conditions": {"cell_type": "CD34"}},
            ValueError,
            r"'CD34' is not a known category of 'cell_type'. Known: 'CD4\+/CD25 T Reg'.*"
            r"Did you mean 'CD34\+'\?",
        ),
        (
            {"n_cells": 5, "conditions": {"celltype": "CD34+"}},
            KeyError,
            "knows no attribute 'celltype'.*Did you mean 'cell_type'",
        ),
        (
            {"n_cells": 5, "conditions": {"cell_type": ["CD34+"] * 3}},
            ValueError,
            "cell_type has 3 values for 5 cells",
        ),
        ({"n_cells": 5, "conditions": {"dose": "much"}}, ValueError, "'dose' takes numbers"),
        ({"n_cells": 5, "conditions": {"dose": np.inf}}, ValueError, "'dose' holds infinite"),
        ({"n_cells": 5, "conditions": ["CD34+"]}, TypeError, "conditions is a list"),
        ({"n_cells": 5, "sampler": "huen"}, ValueError, "'huen' is unknown.*Did you mean 'heun'"),
        ({"n_cells": 5, "n_steps": 0}, ValueError, "n_steps is 0"),
        ({"n_cells": 5, "guidance_scale": -1}, ValueError, "guidance_scale is -1"),
        ({"n_cells": 5, "guidance_scale": {"dos": 2}}, KeyError, "Did you mean 'dose'"),
        # a batch is drawn, not guided: a scale for it must not be ignored in silence
        ({"n_cells": 5, "guidance_scale": {"donor": 2}}, KeyError, "no attribute 'donor'"),
        ({"n_cells": 5, "expression": "tpm"}, ValueError, "expression is 'tpm'"),
        ({"n_cells": 5, "batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_requests(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        generate(model, **kwargs)


def test_a_bad_request_leaves_no_file(model, tmp_path):
    with pytest.raises(ValueError, match="unknown"):
        generate(model, 5, sampler="nope", out=tmp_path / "cells.h5ad")
    assert not list(tmp_path.iterdir())


def test_before_stage_two(adata):
    SCGM.setup_anndata(adata)
    model = SCGM(adata, **SMALL)
    with pytest.raises(RuntimeError, match=r"Stage two is not trained.*model\.train\(\)"):
        model.generate(5)
    with pytest.raises(RuntimeError, match="Stage one is not trained"):
        model.train_diffusion()


def test_stale_after_stage_one_is_trained_again(adata):
    model = make_model(adata, epochs=1, steps=10)
    assert model.is_diffusion_trained
    model.train(max_epochs=1, diffusion=False, **QUIET)
    assert not model.is_diffusion_trained
    with pytest.raises(RuntimeError, match=r"Stage two is stale.*train_diffusion\(\)"):
        model.generate(5)
    model.train_diffusion(max_steps=5, **QUIET)
    assert generate(model, 5).n_obs == 5


def test_cells_do_not_depend_on_their_neighbours(model):
    """The same latent decodes to the same mean, whatever else is decoded with it."""
    tensors = next(iter(model._make_data_loader(adata=model.adata, batch_size=32)))
    mean, _ = model.module.encode_state(tensors)
    together = model.module.decode_state(mean, tensors).mean
    alone = model.module.decode_state(
        mean[:1], {k: v[:1] for k, v in tensors.items() if v is not None}
    ).mean
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-6)
