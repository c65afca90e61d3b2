import sys

import frontier
import matplotlib
import numpy as np
import pandas as pd
import pytest
from frontier import Point, Scale
from helpers import QUIET, SMALL

from scgm_scvi import SCGM
from scgm_scvi.datasets import pbmc68k
from scgm_scvi.diffusion import SAMPLERS
from scgm_scvi.metrics import _evaluator, evaluate_generation

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _no_forests(monkeypatch):
    """A number from the same arguments, without the seconds that forests take."""

    def auc(real, generated, *, seed):
        return float(np.abs(real[:-1] - generated[1:]).mean() + seed)

    for module in (frontier, _evaluator):
        monkeypatch.setattr(module, "classifier_auc", auc)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that knows next to nothing, and the cells to hold it against."""
    folder = tmp_path_factory.mktemp("frontier")
    adata = pbmc68k()[:, :100]
    adata = adata[adata.obs["cell_type"].isin(["CD14+ Monocyte", "Dendritic"])]
    expressed = np.ravel(adata[::2].X.sum(axis=0)) > 0
    train, test = adata[::2, expressed].copy(), adata[1::2, expressed].copy()
    train.write_h5ad(folder / "small_train.h5ad")
    test.write_h5ad(folder / "small_test.h5ad")
    SCGM.setup_anndata(train, labels_key="cell_type")
    model = SCGM(train, **SMALL)
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 2, **QUIET}, **QUIET)
    model.save(folder / "model")
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch, capsys):
    paths = ["--model", files / "model", "--train", files / "small_train.h5ad"]
    paths += ["--test", files / "small_test.h5ad", "--label-key", "cell_type", "--out", tmp_path]

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["frontier.py", *map(str, paths), *arguments])
        frontier.main()
        return tmp_path / "frontier.csv", capsys.readouterr().out

    return main


def test_metrics_are_those_of_evaluate_generation():
    adata = pbmc68k()[:, :40]
    cells, test, ref = adata[::6], adata[1::6], adata[2::6]
    scale = Scale.of(test, ref, "cell_type")
    table = evaluate_generation(cells, test, pca_reference=ref, condition_key="cell_type")
    table = table.set_index("metric")
    found = pd.DataFrame({"value": scale.score(cells), "floor": scale.score(None)})
    pd.testing.assert_frame_equal(
        found, table.loc[found.index, ["value", "floor"]], check_names=False, rtol=1e-9
    )
    assert set(found.index) == set(frontier.METRICS)


def test_a_run_counts_evaluations_and_goes_on_where_it_stopped(run):
    points = ["--points", "heun:3", "pc:2", "dpmpp_2m:4:karras:0.03:20"]
    path, text = run(*points, "--seeds", "0", "1")
    rows = pd.read_csv(path)
    assert dict(zip(rows["sampler"], rows["evaluations"], strict=True)) == {
        "heun": 5,
        "pc": 44,
        "dpmpp_2m": 4,
    }
    assert rows.groupby("sampler")["w2"].nunique().eq(2).all()  # the seeds differ
    assert rows["w2_floor"].nunique() == 1
    assert "dpmpp_2m karras 0.03 to 20" in text
    for suffix in (".md", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 0
    before = path.read_text()
    run(*points, "--seeds", "0", "1", "2")
    assert path.read_text().startswith(before)
    assert len(pd.read_csv(path)) == len(rows) + 3


def test_a_point_that_yields_no_cells_stops_nothing(run, monkeypatch):
    points = ["--seeds", "0", "--points", "euler:2", "heun:8"]
    generate = SCGM.generate

    def failing(self, *args, sampler, **kwargs):
        if sampler == "euler":
            raise RuntimeError("lost to infinity")
        return generate(self, *args, sampler=sampler, **kwargs)

    monkeypatch.setattr(SCGM, "generate", failing)
    path, text = run(*points)
    rows = pd.read_csv(path).set_index("sampler")
    assert rows["w2"].isna().to_dict() == {"euler": True, "heun": False}
    assert "lost to infinity" in text
    assert "| heun | 15 |" in text
    assert "| euler |" not in text


def test_long_points_are_measured_with_one_seed():
    assert Point("pc", 500).is_long
    assert not Point("dpmpp_2m", 500).is_long


def test_a_point_names_a_sampler_and_its_grid():
    assert Point.parse("euler:7").kwargs["sampling_kwargs"] == {}
    assert Point.parse("euler:7:karras:0.03").kwargs == {
        "sampler": "euler",
        "n_steps": 7,
        "sampling_kwargs": {"grid": "karras", "sigma_min": 0.03},
    }


def test_every_sampler_has_points():
    points = frontier.default_points()
    assert {p.sampler for p in points} == set(SAMPLERS)
    assert Point("heun", 6) in points  # 11 evaluations, where 12 are asked for
    assert Point("pc", 500) in points


def test_the_table_is_of_means_over_the_floor(tmp_path):
    row = {"split": "a", "sampler": "euler", "n_steps": 4, "grid": "", "evaluations": 4}
    row |= {"sigma_min": np.nan, "sigma_max": np.nan, "latents_per_second": 1234.5}
    row |= {"rf_auc_pca": 0.6, "label_w2": 3.0, "rf_auc_pca_floor": 0.5, "w2_floor": 8.0}
    row |= {"label_w2_floor": 2.0}
    pd.DataFrame([row | {"seed": 0, "w2": 8.0}, row | {"seed": 1, "w2": 10.0}]).to_csv(
        tmp_path / "frontier.csv", index=False
    )
    text = frontier.report(tmp_path / "frontier.csv")
    cells = [c.strip() for c in text.splitlines()[-1].strip("|").split("|")]
    assert cells == ["euler", "4", "0.600 ± 0.000", "1.125 ± 0.125", "1.500", "1,234", "2"]
