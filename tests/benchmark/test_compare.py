import os
import random
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from scgm_scvi import datasets
from scgm_scvi.benchmark import GENERATORS, _compare, compare_generators, write_page
from scgm_scvi.benchmark._page import (
    MEASURES,
    nearest_to_floor,
    remarks,
    require_empty,
    summary,
)

SIMPLE = ["gaussian_copula", "negative_binomial"]


def broken(train, labels_key, seed, quick):
    raise ArithmeticError("no luck")


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GENERATORS, "broken", broken)
        return compare_generators(
            datasets.pbmc68k(),
            "cell_type",
            generators=[*SIMPLE, "broken"],
            seeds=(3, 4),
            n_top_genes=200,
            progress_bar=False,
        )


@pytest.mark.slow
def test_every_method_is_measured_for_each_seed_beside_the_same_floors(found):
    table = found.table
    assert set(map(tuple, table[["seed", "method"]].drop_duplicates().to_numpy())) == {
        (s, m) for s in (3, 4) for m in ("Gaussian copula", "negative binomial")
    }
    floors = table.groupby(["seed", "metric"])["floor"].nunique()
    assert (floors <= 1).all()
    assert set(MEASURES) <= set(table["metric"])
    assert len(found.costs) == 4
    assert (found.costs["train_seconds"] >= 0).all()


@pytest.mark.slow
def test_cells_have_the_types_of_the_held_out_ones(found):
    for cells in found.cells.values():
        pd.testing.assert_frame_equal(cells.obs, found.split.test.obs)
        assert list(cells.var_names) == list(found.split.test.var_names)


@pytest.mark.slow
def test_a_generator_that_fails_is_told_of(found):
    assert found.failures == {f"broken, seed {s}": "ArithmeticError: no luck" for s in (3, 4)}


@pytest.mark.slow
def test_page_and_files(found, tmp_path):
    page = write_page(found, tmp_path / "new" / "folder", title="A <b> & c")
    text = page.read_text()
    assert "<h1>A &lt;b&gt; &amp; c</h1>" in text
    assert text.count("data:image/png;base64,") == 2
    assert "broken, seed 3 failed: ArithmeticError: no luck" in text
    assert "http" not in text  # nothing is loaded from elsewhere
    held_out = ad.read_h5ad(page.parent / "cells" / "held_out.h5ad")
    made = ad.read_h5ad(page.parent / "cells" / "Gaussian_copula.h5ad")
    assert held_out.shape == made.shape
    again = pd.read_csv(page.parent / "metrics.csv")
    assert len(again) == len(found.table)
    with pytest.raises(FileExistsError, match="give another folder"):
        write_page(found, page.parent)


@pytest.mark.slow
def test_what_is_nearest_to_the_floor(found):
    numbers = summary(found.table)
    assert list(numbers.index[2:]) == ["Gaussian copula", "negative binomial"]
    rows = found.table[(found.table["metric"] == "w2") & (found.table["condition"] == "all")]
    for method, of in rows.groupby("method"):
        assert numbers.loc[method, "w2"] == pytest.approx(of["value"].mean())
    numbers.iloc[:, 0] = [0.5, 0.5, 0.45, 0.54]
    nearest = nearest_to_floor(numbers).iloc[:, 0]
    assert nearest.to_dict() == {"Gaussian copula": False, "negative binomial": True}


def test_global_state_is_left_alone():
    setting = scvi.settings.seed
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    environment, flag = dict(os.environ), torch.backends.cudnn.deterministic
    with _compare._global_state_kept():
        scvi.settings.seed = 5
        torch.rand(3)
    assert dict(os.environ) == environment
    assert torch.backends.cudnn.deterministic == flag
    assert scvi.settings.seed == setting
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"generators": ["scVI"]}, "'scVI' is none. Did you mean 'scvi'"),
        ({"generators": []}, "must each name at least one"),
        ({"seeds": []}, "must each name at least one"),
    ],
)
def test_refused_before_anything_is_trained(arguments, said):
    with pytest.raises(ValueError, match=said):
        compare_generators(datasets.pbmc68k(), "cell_type", **arguments)


def test_all_fail(monkeypatch):
    monkeypatch.setitem(GENERATORS, "broken", broken)
    with pytest.raises(
        RuntimeError, match="all generators failed: broken, seed 0: ArithmeticError"
    ):
        compare_generators(
            datasets.pbmc68k(), "cell_type", generators=["broken"], progress_bar=False
        )


def made(change):
    """A generator whose cells are those of the negative binomial, changed."""

    def generator(train, labels_key, seed, quick):
        (method,) = GENERATORS["negative_binomial"](train, labels_key, seed, quick).values()
        return {"changed": lambda conditions, seed: change(method(conditions, seed))}

    return generator


def with_nan(cells):
    cells.X.data[0] = np.nan
    return cells


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a[:, :10].copy(), "205 cells of 10 genes, and 205 of the 200 genes"),
        (lambda a: a[:50].copy(), "gives 50 cells"),
        (lambda a: a[:, ::-1].copy(), "in their order"),
        (lambda a: a.X, "gives csr_matrix, and an AnnData is needed"),
        (with_nan, "negative, infinite or NaN"),
    ],
)
def test_cells_that_cannot_be_compared_fail_alone(monkeypatch, change, said):
    monkeypatch.setitem(GENERATORS, "odd", made(change))
    found = compare_generators(
        datasets.pbmc68k(),
        "cell_type",
        generators=["odd", "negative_binomial"],
        n_top_genes=200,
        progress_bar=False,
    )
    assert said in found.failures["odd, seed 0"]
    assert list(found.cells) == ["negative binomial"]


def test_generators_do_not_meet(monkeypatch):
    def spoils(train, labels_key, seed, quick):
        train.X.data[:] = 1
        return {}

    def double(train, labels_key, seed, quick):
        return GENERATORS["negative_binomial"](train, labels_key, seed, quick)

    def reserved(train, labels_key, seed, quick):
        (method,) = double(train, labels_key, seed, quick).values()
        return {"held_out": method}

    for name, generator in {"spoils": spoils, "double": double, "reserved": reserved}.items():
        monkeypatch.setitem(GENERATORS, name, generator)
    arguments = {"n_top_genes": 200, "progress_bar": False}
    alone = compare_generators(
        datasets.pbmc68k(), "cell_type", generators="negative_binomial", **arguments
    )
    names = ["spoils", "negative_binomial", "double", "reserved"]
    found = compare_generators(datasets.pbmc68k(), "cell_type", generators=names, **arguments)
    pd.testing.assert_frame_equal(alone.table, found.table)
    assert found.failures == {
        "spoils, seed 0": "ValueError: it gives no method",
        "double, seed 0": "ValueError: another generator has the method 'negative binomial'",
        "reserved, seed 0": "ValueError: a method can't be called 'held_out'",
    }


def test_names_that_files_and_figures_trip_over(monkeypatch, tmp_path):
    names = ["a/b", "a b", "a_b", "$x_{$", "_hidden"]

    def odd(train, labels_key, seed, quick):
        (method,) = GENERATORS["negative_binomial"](train, labels_key, seed, quick).values()
        return {
            name: lambda conditions, seed, i=i: method(conditions, seed + i)
            for i, name in enumerate(names)
        }

    monkeypatch.setitem(GENERATORS, "odd", odd)
    adata = datasets.pbmc68k()
    types = adata.obs["cell_type"].cat.categories
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(
        {types[0]: "_b", types[1]: "$\\x_{", types[2]: "a/b"}
    )
    adata.obs.index.name = "cell_type"
    found = compare_generators(
        adata, "cell_type", generators=["odd"], n_top_genes=200, progress_bar=False
    )
    page = write_page(found, tmp_path / "out")
    assert len(list((page.parent / "cells").iterdir())) == len(names) + 1
    link = tmp_path / "link"
    (tmp_path / "target").mkdir()
    link.symlink_to(tmp_path / "target")
    part = tmp_path / "other.part"
    part.mkdir()
    (part / "mine.txt").write_text("mine")
    for folder in (link, tmp_path / "other"):
        assert write_page(found, folder).exists()
    assert (part / "mine.txt").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileExistsError, match="give another folder"):
        require_empty(file)
    with pytest.raises(OSError, match="can't be written to"):
        require_empty(file / "below")


def test_a_page_says_what_it_is_worth(found):
    assert "broken, seed 3 failed: ArithmeticError: no luck" in remarks(found)
    assert any("standard deviation over runs" in r for r in remarks(found))
    quick = replace(found, quick=True)
    assert remarks(quick)[0].startswith("QUICK: ")
    one = replace(found, table=found.table[found.table["seed"] == 3])
    alone = replace(found, table=one.table[one.table["method"] == "Gaussian copula"])
    assert remarks(alone) == remarks(one)  # a row a metric
    without = replace(found, table=found.table[found.table["metric"] != "de_slope"])
    assert any("Differential expression is not compared" in r for r in remarks(without))
    assert any(r.startswith("One run") for r in remarks(one))


def test_a_measure_without_a_floor_and_a_single_method(found):
    table = found.table.copy()
    table.loc[table["metric"] == "w2", "floor"] = np.nan
    assert "w2" not in summary(table)
    single = summary(table[table["method"] == "Gaussian copula"])
    assert not nearest_to_floor(single).any(axis=None)
    numbers = summary(table)
    numbers.iloc[:, 0] = [0.5, 0.5, 0.45, 0.55]
    assert nearest_to_floor(numbers).iloc[:, 0].all()  # as near as each other


@pytest.mark.parametrize("seeds", [(-1,), (1.5,), 5])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(ValueError, match="seeds "):
        compare_generators(datasets.pbmc68k(), "cell_type", seeds=seeds)
