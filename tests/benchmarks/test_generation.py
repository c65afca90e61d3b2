import subprocess
import sys
from pathlib import Path

import anndata as ad
import generation
import numpy as np
import pandas as pd
import pytest

from scgm_scvi.datasets import pbmc68k


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Run the command with workers that only leave files; gives what they were asked."""
    asked = []

    def run_worker(action, task, log):
        asked.append((action, task))
        if action == "generate":
            if (task["split"], task["family"]) == ("b", "pca_gaussian"):
                return False
            folder = Path(task["out"])
            folder.mkdir(parents=True)
            (folder / f"method of {task['family']}.h5ad").touch()
        else:
            rows = [(task["split"], task["seed"], m, "all", "w2", 1.0) for m in task["cells"]]
            columns = ["split", "seed", "method", "condition", "metric", "value"]
            table = pd.DataFrame(rows, columns=columns)
            table.assign(floor=1.0, train_floor=1.0, n=9).to_csv(task["out"], index=False)
        return True

    monkeypatch.setattr(generation, "run_worker", run_worker)
    monkeypatch.setattr("report.report", lambda folder: "")
    adata = pbmc68k()
    (tmp_path / "splits").mkdir()
    for name in "ab":
        for part in ("train", "test"):
            adata.write_h5ad(tmp_path / "splits" / f"{name}_{part}.h5ad")

    def run(*arguments):
        asked.clear()
        paths = ["--splits", str(tmp_path / "splits"), "--out", str(tmp_path / "out")]
        command = ["generation.py", *paths, "--label-key", "cell_type", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            generation.main()
        return list(asked), ended.value.code, tmp_path / "out"

    return run


def test_a_run_goes_on_where_it_stopped(calls):
    few = ("--names", "a", "--seeds", "0", "1", "--methods", "gaussian_copula")
    asked, code, out = calls(*few)
    assert code == 0
    assert sorted(action for action, _ in asked) == ["evaluate"] * 2 + ["generate"] * 2
    assert set(asked[0][1]["files"]) == {"train", "test"}  # there is no ref
    assert calls(*few)[0] == []
    # another method is generated, and measured alone
    asked, _, _ = calls(*few, "negative_binomial")
    assert [sorted(t["cells"]) for a, t in asked if a == "evaluate"] == [
        ["method of negative_binomial"]
    ] * 2
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 4
    assert not table.duplicated(["split", "seed", "method"]).any()
    # cells that were not measured are not generated again
    (out / "results.csv").unlink()
    asked, _, _ = calls(*few, "negative_binomial")
    assert [(a, len(t["cells"])) for a, t in asked] == [("evaluate", 2)] * 2


def test_a_method_that_fails_does_not_stop_the_others(calls):
    methods = ("--methods", "gaussian_copula", "pca_gaussian", "--seeds", "0")
    asked, code, out = calls(*methods)
    assert code == 1
    table = pd.read_csv(out / "results.csv")
    assert sorted(zip(table["split"], table["method"], strict=True)) == [
        ("a", "method of gaussian_copula"),
        ("a", "method of pca_gaussian"),
        ("b", "method of gaussian_copula"),
    ]
    # it is tried again
    assert [t["family"] for a, t in calls(*methods)[0]] == ["pca_gaussian"]


def test_quick_takes_a_few_cells_of_labels_that_were_trained_on(calls, monkeypatch):
    monkeypatch.setattr(generation, "QUICK_CELLS", 12)
    asked, _, _ = calls("--quick", "--methods", "gaussian_copula")
    train, test = (ad.read_h5ad(asked[0][1]["files"][part]) for part in ("train", "test"))
    assert train.n_obs == 12
    assert 0 < test.n_obs <= 12
    assert set(test.obs["cell_type"]) <= set(train.obs["cell_type"])
    assert (train.X != pbmc68k()[train.obs_names].X).nnz == 0
    assert {t["seed"] for _, t in asked} == {0}


def test_settings_are_not_mixed_in_a_folder(calls):
    calls("--names", "a", "--seeds", "0", "--methods", "gaussian_copula")
    asked, code, _ = calls("--names", "a", "--quick", "--methods", "gaussian_copula")
    assert asked == []
    assert "begun with other quick" in code


def test_missing_column(calls):
    asked, code, _ = calls("--label-key", "group")
    assert asked == []
    assert "a_train.h5ad: obs has no column 'group'" in code


@pytest.mark.slow
def test_peak_of_memory_is_not_that_of_the_parent():
    code = "import worker; print(worker.peak_memory_mb())"
    folder = Path(generation.__file__).parent
    block = np.ones(500 * 2**17)  # 500 MB
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert 50 < float(printed.stdout) < block.nbytes / 2**20
