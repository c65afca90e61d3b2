"""Categories of cells that a model makes: those in use, in their order."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers import QUIET, SMALL, make_adata, make_mdata, make_multi

from scgm_scvi import SCGM

KINDS = ["CD34+", "CD19+ B"]


def test_scanpy_takes_generated_cells(model):
    cells = model.generate(60, {"cell_type": KINDS * 30}, seed=0, progress_bar=False)
    known = model.condition_spec.categorical["cell_type"]
    assert list(cells.obs["cell_type"].cat.categories) == [k for k in known if k in KINDS]
    assert not len(model.generate(3, progress_bar=False).obs["cell_type"].cat.categories)
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "cell_type")
    assert set(cells.uns["rank_genes_groups"]["names"].dtype.names) == set(KINDS)
    sc.pp.pca(cells, n_comps=5)
    sc.tl.dendrogram(cells, "cell_type")
    assert sc.pl.dotplot(cells, cells.var_names[:2], "cell_type", return_fig=True) is not None


def test_other_verbs(model, adata):
    some = adata[adata.obs["cell_type"].isin(KINDS)].copy()
    some.obs["cell_type"] = pd.Categorical(some.obs["cell_type"], [*KINDS, "another"])
    real = some.copy()
    real.obs["cell_type"] = real.obs["cell_type"].cat.remove_unused_categories()
    more = model.augment(real, "cell_type", {KINDS[0]: 80}, seed=0, progress_bar=False)
    assert set(more.obs["cell_type"].cat.categories) == set(KINDS)
    way = model.interpolate(
        *({"cell_type": kind} for kind in KINDS),
        n_points=2,
        n_cells=3,
        n_steps=2,
        progress_bar=False,
    )
    assert set(way.obs["cell_type"].cat.categories) == set(KINDS)


def test_files_keep_all(model, tmp_path):
    path = tmp_path / "cells.h5ad"
    model.generate(5, {"cell_type": KINDS[0]}, out=path, batch_size=2, seed=0, progress_bar=False)
    categories = ad.read_h5ad(path).obs["cell_type"].cat.categories
    assert list(categories) == list(model.condition_spec.categorical["cell_type"])


def test_multiome():
    mdata = make_mdata()
    model = make_multi(mdata, epochs=1, steps=2)
    cells = model.generate(4, {"cell_type": KINDS[0]}, n_steps=2, progress_bar=False)
    for obs in (cells.obs, cells["rna"].obs, cells["atac"].obs):
        assert list(obs["cell_type"].cat.categories) == [KINDS[0]]
    rna = mdata["rna"][mdata["rna"].obs["cell_type"] == KINDS[0]].copy()
    rna.obs["cell_type"] = pd.Categorical(rna.obs["cell_type"], KINDS)
    peaks = model.translate(rna, seed=0, progress_bar=False)
    assert list(peaks.obs["cell_type"].cat.categories) == [KINDS[0]]


@pytest.fixture(scope="module")
def ordered():
    adata = make_adata()[:120, :40].copy()
    adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    adata = adata[:90].copy()
    stages = ["young", "middle", "old"]  # no alphabet has this order
    adata.obs["stage"] = pd.Categorical(stages * 30, stages, ordered=True)
    SCGM.setup_anndata(adata, condition_keys=["stage", "phase"])
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    return model


def test_order_is_kept(ordered, tmp_path):
    table = {"stage": ["old", "young"]}
    stage = ordered.generate(None, table, progress_bar=False).obs["stage"]
    assert stage.cat.ordered
    assert list(stage.cat.categories) == ["young", "old"]
    assert not ordered.generate(1, {"phase": "G1"}, progress_bar=False).obs["phase"].cat.ordered
    ordered.export(tmp_path / "shared")
    again = SCGM.from_export(tmp_path / "shared").generate(None, table, progress_bar=False)
    assert again.obs["stage"].cat.ordered
    new = ordered.adata[:60].copy()
    new.obs["stage"] = pd.Categorical(["young", "ancient"] * 30)
    query = SCGM.load_query_data(new, ordered, replay=0)
    assert query.condition_spec.ordered == []  # where the new one belongs is not known
