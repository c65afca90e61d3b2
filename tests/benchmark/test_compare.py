import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from scgm_scvi import datasets
from scgm_scvi.benchmark import GENERATORS, _compare, compare_generators, write_page
from scgm_scvi.benchmark._page import MEASURES, nearest_to_floor, summary

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
    assert found.failures == {"broken": "ArithmeticError: no luck"}


@pytest.mark.slow
def test_page_and_files(found, tmp_path):
    page = write_page(found, tmp_path / "new" / "folder", title="A <b> & c")
    text = page.read_text()
    assert "<h1>A &lt;b&gt; &amp; c</h1>" in text
    assert text.count("data:image/png;base64,") == 2
    assert "broken failed: ArithmeticError: no luck" in text
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
    assert nearest_to_floor(numbers).iloc[0] == "negative binomial"


def test_global_state_is_left_alone():
    setting = scvi.settings.seed
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with _compare._global_state_kept():
        scvi.settings.seed = 5
        torch.rand(3)
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
    with pytest.raises(RuntimeError, match="all generators failed: broken: ArithmeticError"):
        compare_generators(
            datasets.pbmc68k(), "cell_type", generators=["broken"], progress_bar=False
        )
