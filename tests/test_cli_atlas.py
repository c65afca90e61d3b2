"""What the command line says and does about atlases, in this process."""

import numpy as np
import pytest
from atlas_truth import truth, write_10x_h5

from scgm_scvi import SCGM, cli

PLAN = """
[urls]
local = "files"
[qc]
min_counts = 0
min_genes = 0
max_mitochondrial = 1.0
[training]
genes = 40
[[dataset]]
source = "local"
id = "a.h5"
obs = { cell_type = "B cell", tissue = "blood", disease = "normal" }
[[dataset]]
source = "local"
id = "b.h5"
obs = { cell_type = "T cell", tissue = "lung", disease = "COVID-19" }
[[dataset]]
source = "local"
id = "c.h5"
"""


def scgm(*words):
    cli.app([str(w) for w in words], result_action="return_value")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    (folder / "files").mkdir()
    for i, name in enumerate("ab"):
        write_10x_h5(truth(150, 120, seed=i), folder / "files" / f"{name}.h5")
    (folder / "plan.toml").write_text(PLAN)
    scgm("atlas", "build", folder / "plan.toml", "--out", folder / "scgdb")
    return folder / "scgdb"


@pytest.mark.slow
def test_build_info_and_train(store, tmp_path, capsys):
    scgm("atlas", "build", store.parent / "plan.toml", "--out", store)
    said = capsys.readouterr().out
    assert "stored: local a.h5: 150 cells" in said
    assert "set aside: local c.h5" in said
    assert "300 cells of 2 datasets" in said

    scgm("atlas", "info", store)
    said = capsys.readouterr().out
    assert "COVID-19" in said
    assert "blood" in said
    assert "300 cells of 2 datasets" in said
    assert "no dataset 'c.h5'" in said

    steps = ["--max-steps", 5, "--diffusion-steps", 5, "--batch-size", 32]
    conditions = ["--labels", "cell_type", "--conditions", "tissue", "disease"]
    scgm("train", store, "--out", tmp_path / "model", *conditions, *steps)
    model = SCGM.load(tmp_path / "model", adata=False)
    asked = {"cell_type": "B cell", "disease": "COVID-19"}
    cells = model.generate(5, asked, seed=0, progress_bar=False)
    assert cells.n_vars == 40
    assert set(cells.obs["disease"]) == {"COVID-19"}
    assert np.isfinite(cells.X.toarray()).all()
    with pytest.raises(FileExistsError, match="is there already"):
        scgm("train", store, "--out", tmp_path / "model")


@pytest.mark.slow
def test_train_takes_a_file_too(tmp_path):
    truth(200, 60).write_h5ad(tmp_path / "cells.h5ad")
    steps = ["--max-steps", 20, "--diffusion-steps", 5]
    out = tmp_path / "model"
    scgm("train", tmp_path / "cells.h5ad", "--out", out, "--labels", "cell_type", *steps)
    cells = SCGM.load(out, adata=False).generate(3, progress_bar=False)
    assert cells.n_vars == 60


@pytest.mark.slow
def test_list(store, capsys):
    scgm("atlas", "list", "--source", "tisch", "--disease", "carcinoma")
    said = capsys.readouterr().out
    assert "carcinoma" in said
    assert "melanoma" not in said
    scgm("atlas", "list", "--source", "local", "--url", store.parent / "files")
    assert "2 datasets" in capsys.readouterr().out
    scgm("atlas", "list", "--plan", "scgdb")
    assert "552 datasets, 55,059,765 cells" in capsys.readouterr().out
    scgm("atlas", "list", "--disease", "covid")
    said = capsys.readouterr().out
    assert "COVID-19" in said
    assert 20 < int(said.rsplit("\n\n", 1)[1].split()[0]) < 200
    scgm("atlas", "list", "--plan", store.parent / "plan.toml", "--disease", "covid")
    assert "1 datasets" in capsys.readouterr().out


def test_what_can_be_mended_is_said_without_a_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["scgm", "atlas", "info", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="scgm: .*nowhere"):
        cli.main()
