"""Splits of screens: what is held out is seen by no training cell."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scgm_scvi.metrics import holdout, seen_parts

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
WEAK = SHARED / "data" / "perturbench_norman_mcfaline_counts_6k_500g.h5ad"


def make_screen(names, contexts=("x",), n=4):
    rows = [(name, c) for c in contexts for name in ("ctrl", *names) for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["target", "line"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(np.ones((len(rows), 2), dtype=np.float32), obs=obs)


SINGLES = [f"g{i}" for i in range(20)]
DOUBLES = [f"g{i}+g{j}" for i in range(0, 20, 2) for j in range(1, 20, 4)]
LINES = ("a", "b", "c", "d")


def split_of(adata, **kwargs):
    arguments = {"control_value": "ctrl", **kwargs}
    return holdout(adata, "target", **arguments)


def names_in(adata, split, place):
    return set(adata.obs.loc[(split == place).to_numpy(), "target"].astype(str))


def parts_in(adata, split, place):
    return {p for name in names_in(adata, split, place) for p in name.split("+")} - {"ctrl"}


@pytest.mark.parametrize("seed", range(5))
def test_unseen_perturbations_are_in_no_training_cell(seed):
    adata = make_screen(SINGLES + DOUBLES, LINES[:2])
    split = split_of(adata, seed=seed)
    assert isinstance(split.dtype, pd.CategoricalDtype)
    assert list(split.cat.categories) == ["train", "validation", "test"]
    assert split.index.equals(adata.obs_names)
    control = (adata.obs["target"] == "ctrl").to_numpy()
    assert (split[control] == "train").all()
    test, train = parts_in(adata, split, "test"), parts_in(adata, split, "train")
    singles = names_in(adata, split, "test").intersection(SINGLES)
    assert len(singles) == 4
    assert len(names_in(adata, split, "validation").intersection(SINGLES)) == 2
    assert not singles & train
    # a set is held out as soon as one of its parts is
    seen = seen_parts(adata.obs["target"], split, control_value="ctrl")
    assert set(seen[(split == "test") & ~control]) == {0, 1}
    assert test > singles


@pytest.mark.parametrize("seed", range(5))
def test_combinations_have_0_1_and_2_parts_seen(seed):
    adata = make_screen(SINGLES + DOUBLES)
    split = split_of(adata, kind="combination", seed=seed, test=0.3)
    double = adata.obs["target"].str.contains("+", regex=False).to_numpy()
    seen = seen_parts(adata.obs["target"], split, control_value="ctrl")
    tested = (split == "test").to_numpy()
    assert set(seen[double & tested]) == {0, 1, 2}
    assert set(seen[~double & tested]) == {0}
    assert set(seen[double & (split == "train")]) == {2}
    # of the doubles whose parts all stay, the share that was asked for
    two = set(adata.obs.loc[double & (seen == 2), "target"])
    held = two & names_in(adata, split, "test")
    assert len(held) == pytest.approx(0.3 * len(two), abs=1)


def test_a_context_is_left_with_controls_only():
    adata = make_screen(SINGLES, LINES)
    split = split_of(adata, kind="context", context_key="line", contexts=["b"], validation=0.25)
    control = adata.obs["target"] == "ctrl"
    assert (split[control] == "train").all()
    tested = (split == "test").to_numpy()
    assert (tested == ((adata.obs["line"] == "b") & ~control).to_numpy()).all()
    assert adata.obs.loc[(split == "validation").to_numpy(), "line"].nunique() == 1

    few = split_of(adata, kind="context", context_key="line", contexts="b", few_shot=0.3)
    kept = adata.obs[(few == "train") & (adata.obs["line"] == "b") & ~control]
    assert kept["target"].nunique() == 6
    assert (kept.groupby("target").size() == 4).all()

    drawn = {
        adata.obs.loc[
            (split_of(adata, kind="context", context_key="line", seed=s) == "test").to_numpy(),
            "line",
        ].unique()[0]
        for s in range(20)
    }
    assert drawn == set(LINES)


def test_every_context_has_its_share():
    """Perturbations of one line alone are drawn as often as those of all lines."""
    both = make_screen(SINGLES, ("a", "b"))
    alone = make_screen([f"h{i}" for i in range(10)], ("b",))
    adata = ad.concat([both, alone], index_unique="-")
    for seed in range(10):
        split = split_of(adata, context_key="line", seed=seed)
        test = names_in(adata, split, "test")
        assert len(test) == 6
        assert abs(len(test.intersection(SINGLES)) - 4) <= 1


def test_draws_are_of_the_seed_alone():
    adata = make_screen(SINGLES + DOUBLES, LINES)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for kind in ("perturbation", "combination", "context"):
        arguments = {"kind": kind, "context_key": "line"}
        split = split_of(adata, **arguments)
        again = split_of(adata[order], **arguments)
        pd.testing.assert_series_equal(split, again.loc[split.index])
        assert any(not split_of(adata, **arguments, seed=s).equals(split) for s in (1, 2, 3))


def test_order_and_control_in_a_name_do_not_matter():
    adata = make_screen(["A", "B", "A+B", "B+A", "C+ctrl", "C", "D"])
    for seed in range(10):
        split = split_of(adata, seed=seed, test=0.4, validation=0)
        place = adata.obs.assign(split=split).groupby("target")["split"].first()
        assert place["A+B"] == place["B+A"]
        assert place["C"] == place["C+ctrl"]
        assert (place["A+B"] == "test") == ("test" in (place["A"], place["B"]))


def test_two_small_sets_still_give_one_each():
    split = split_of(make_screen(["A", "B", "C"]), test=0.1, validation=0.1)
    assert set(split) == {"train", "validation", "test"}


def test_bad_input():
    adata = make_screen(SINGLES, LINES)
    with pytest.raises(KeyError, match="perturbation_key: 'targt' is not a column.*Did you"):
        holdout(adata, "targt", control_value="ctrl")
    with pytest.raises(ValueError, match="control_value: 'ctr' is not a value of .*Did you mean"):
        split_of(adata, control_value="ctr")
    with pytest.raises(ValueError, match="kind is 'cell'; it must be one of"):
        split_of(adata, kind="cell")
    with pytest.raises(ValueError, match="needs context_key"):
        split_of(adata, kind="context")
    with pytest.raises(ValueError, match="contexts: 'e' is none. Known: 'a', 'b'"):
        split_of(adata, kind="context", context_key="line", contexts=["e"])
    with pytest.raises(ValueError, match="every context is held out"):
        split_of(adata, kind="context", context_key="line", contexts=LINES)
    with pytest.raises(ValueError, match="contexts and few_shot are of kind='context'"):
        split_of(adata, few_shot=0.1)
    with pytest.raises(ValueError, match="no name is a set such as 'A"):
        split_of(adata, kind="combination")
    with pytest.raises(ValueError, match="test is 2; it must be a share"):
        split_of(adata, test=2)
    with pytest.raises(ValueError, match="their sum must lie between 0 and 1"):
        split_of(adata, test=0.6, validation=0.6)
    without = adata[~((adata.obs["line"] == "b") & (adata.obs["target"] == "ctrl"))]
    with pytest.raises(ValueError, match="context 'b' has no control cells"):
        split_of(without, kind="context", context_key="line", contexts=["b"])
    with pytest.raises(ValueError, match="there is one perturbation, 'A'"):
        split_of(make_screen(["A"]))
    adata.obs.loc["c0", "target"] = np.nan
    with pytest.raises(ValueError, match="'target' is missing for 1 cells"):
        split_of(adata)


@pytest.mark.skipif(not WEAK.exists(), reason="the screen of doubles and lines is not here")
def test_names_of_a_real_screen():
    adata = ad.read_h5ad(WEAK)
    obs = adata.obs
    name = obs["perturbation"].astype(str)
    control = name.value_counts().index[0]
    assert "control" in control
    arguments = {"control_value": control, "context_key": "cell_type"}
    split = holdout(adata, "perturbation", kind="combination", **arguments)
    assert (split[name == control] == "train").all()
    seen = seen_parts(name, split, control_value=control)
    double = name.str.contains("+", regex=False)
    assert (seen[double & (split == "train")] == 2).all()
    split = holdout(adata, "perturbation", kind="context", contexts=["A172"], **arguments)
    assert set(obs.loc[split == "test", "cell_type"]) == {"A172"}
