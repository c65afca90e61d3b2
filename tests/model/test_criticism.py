"""scvi-tools' criticism of a model: it can be asked for, and leaves the model as it was."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from anndata import AnnData
from helpers import QUIET, SMALL, assert_whole, generated, make_types, train_types
from scvi.criticism import PosteriorPredictiveCheck, create_criticism_report

from scgm_scvi import SCGM

pytestmark = [
    pytest.mark.slow,  # numba compiles
    pytest.mark.filterwarnings("ignore:n_top_genes_fallback"),
    pytest.mark.filterwarnings("ignore:Comparing two sparse matrices"),
]


def make_readable(kind: str = "dense") -> AnnData:
    """Counts as scvi-tools' checks can read them: of sparse ones, integers alone."""
    adata = make_types(80)
    adata.X = adata.X.toarray() if kind == "dense" else adata.X.astype(np.int64)
    return adata


@pytest.mark.parametrize(("kind", "other"), [("dense", False), ("integers", True)])
def test_report(tmp_path, monkeypatch, kind, other):
    # wanted even where there are labels, and nothing is clustered
    monkeypatch.setitem(sys.modules, "leidenalg", ModuleType("leidenalg"))
    cells = make_readable(kind)
    model = train_types(cells, epochs=2, steps=3)
    before = generated(model)
    asked = make_readable(kind) if other else None
    create_criticism_report(model, asked, save_folder=str(tmp_path), n_samples=2)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert "Validation Value" in report["cell_wise_cv"]
    assert "Spearman" in report["gene_wise_cv"]
    assert [line.split(" ")[1] for line in report["diff_exp"].splitlines()[2:]] == ["A", "B"]
    assert list(cells.varm["lfc_model"]) == ["A", "B"]
    assert cells.obs["cv_cell_ratio"].between(0, 1).all()
    if other:
        assert list(asked.obs) == ["cell_type", "donor"]
        assert not asked.varm
        assert not asked.uns
    assert_whole(model, before, tmp_path)


@pytest.mark.skipif(find_spec("leidenalg") is None, reason="clusters with leidenalg")
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scanpy, about leidenalg
def test_report_without_labels(tmp_path):
    adata = make_readable()
    SCGM.setup_anndata(adata, batch_key="donor")
    model = SCGM(adata, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 3, **QUIET}, **QUIET)
    before = generated(model)
    create_criticism_report(model, save_folder=str(tmp_path), n_samples=2)
    assert json.loads((tmp_path / "metrics.json").read_text())["diff_exp"].count("\n") > 1
    assert_whole(model, before, tmp_path)


def test_checks(tmp_path):
    cells = make_readable()
    model = train_types(cells, epochs=2, steps=3)
    before = generated(model)
    checks = PosteriorPredictiveCheck(cells, {"model1": model}, n_samples=4)
    assert checks.samples_dataset["model1"].shape == (*cells.shape, 4)
    checks.coefficient_of_variation("cells")
    checks.coefficient_of_variation("features")
    checks.zero_fraction()
    checks.calibration_error()
    assert set(checks.metrics) == {"cv_gene", "cv_cell", "zero_fraction", "calibration"}
    assert np.isfinite(checks.metrics["zero_fraction"]["model1"]).all()
    assert_whole(model, before, tmp_path)
