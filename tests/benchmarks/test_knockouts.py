"""Observational knock-outs against real ones, of cells whose law is known."""

from __future__ import annotations

import sys

import knockouts
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

GENES = [f"g{i}" for i in range(60)]


def cells(n, lost=None, seed=0):
    """g0 goes with g1 to g9 by the cell's state; what loses g0 gains g10 to g19."""
    rng = np.random.default_rng(seed)
    rate = np.full((n, 60), 4.0)
    rate[:, :10] *= np.exp(rng.normal(size=(n, 1)))
    if lost is not None:
        rate[:, GENES.index(lost)] = 0
        rate[:, 10:20] *= 2
    counts = sparse.csr_matrix(rng.poisson(rate), dtype=np.float32)
    index = [f"{lost}_{i}" for i in range(n)]
    return AnnData(counts, obs=pd.DataFrame(index=index), var=pd.DataFrame(index=GENES))


def test_a_regression_takes_off_what_goes_with_the_gene():
    change = knockouts.regression(cells(600), "g0")
    assert (change[:10] < -1).all() and np.abs(change[10:]).max() < 0.6
    true = np.zeros(60)
    true[10:20] = 1.0
    found = knockouts.scores(change, true)
    assert found["r"] < 0.3 and found["r2"] < 0.1
    assert knockouts.scores(true, true) == {"r": pytest.approx(1), "signs": 1.0, "r2": 1.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pair_of_files_from_the_command_line(tmp_path, monkeypatch, capsys):
    for name, lost in (("control", None), ("knockout", "g0")):
        cells(120, lost, seed=1).write_h5ad(tmp_path / f"{name}.h5ad")
    options = ["--control", tmp_path / "control.h5ad", "--knockout", tmp_path / "knockout.h5ad"]
    options += ["--gene", "g0", "--strengths", "0.5", "--top", "20"]
    options += ["--epochs", "2", "--steps", "3", "--out", tmp_path / "scores.csv"]
    monkeypatch.setattr(sys, "argv", ["knockouts.py", *map(str, options)])
    knockouts.main()
    table = pd.read_csv(tmp_path / "scores.csv").set_index("method")
    assert list(table.index) == ["regression", "knockout, 0.5", "other gene, 0.5", "replicate"]
    assert table.loc["replicate", "r"] > 0.5 > table.loc["regression", "r"]
    assert "Mean over genes" in capsys.readouterr().out


def test_a_screen_has_a_pair_for_each_target(tmp_path):
    parts = [cells(60), cells(40, "g0", 1), cells(10, "g1", 2)]
    target = np.repeat(["none", "g0", "g1"], [60, 40, 10])
    x = sparse.vstack([p.X for p in parts]).tocsr()
    obs = pd.DataFrame({"target": target}, index=[f"c{i}" for i in range(110)])
    AnnData(x, obs=obs, var=parts[0].var).write_h5ad(tmp_path / "screen.h5ad")
    args = type(
        "Args",
        (),
        {
            "screen": tmp_path / "screen.h5ad",
            "perturbation_key": "target",
            "control_value": "none",
            "genes": None,
        },
    )
    control, real = knockouts.pairs(args)
    found = dict(real)
    assert control.n_obs == 60 and list(found) == ["g0"]  # of g1 there are too few
    assert found["g0"].n_obs == 40


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["knockouts.py", "--control", "a.h5ad"])
    with pytest.raises(SystemExit):
        knockouts.main()
    assert "--knockout" in capsys.readouterr().err
