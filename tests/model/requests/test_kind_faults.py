"""Kinds of conditions registered in another order, wrongly, or of columns that vary in nothing."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
from helpers import BRIEF, SMALL, make_types

from scgm_scvi import SCGM, MultiSCGM
from scgm_scvi.model import KINDS, ConditionKind

QUIET = {"progress_bar": False, "seed": 0}


class Scaled(ConditionKind):
    """A number, read as one and its square."""

    def __init__(self, argument: str, factor: float = 1.0) -> None:
        self.argument = argument
        self.factor = factor

    def width(self, learnt):
        return 2

    def numbers(self, column, name, learnt):
        x = column.to_numpy(float) * self.factor
        return np.stack([x, x**2], axis=1)

    def described(self, numbers, learnt):
        return numbers[:, 0] / self.factor


@pytest.fixture
def cells():
    adata = make_types()
    rng = np.random.default_rng(0)
    for name in ("first", "second", "third"):
        adata.obs[name] = rng.uniform(0, 1, adata.n_obs)
    return adata


def trained(adata, **conditions):
    SCGM.setup_anndata(adata, labels_key="cell_type", **conditions)
    model = SCGM(adata, n_latent=6, n_hidden=24, denoiser_kwargs=SMALL["denoiser_kwargs"])
    model.train(**BRIEF)
    return model


def test_order_of_registration_changes_nothing(cells, tmp_path, monkeypatch):
    kinds = {"ones": Scaled("one_keys"), "tens": Scaled("ten_keys", 10.0)}
    for name, kind in kinds.items():
        monkeypatch.setitem(KINDS, name, kind)
    model = trained(
        cells, one_keys=["first"], ten_keys=["second"], continuous_condition_keys=["third"]
    )
    want = model.generate(4, {"first": 0.2, "second": 0.7, "third": 0.1}, **QUIET)
    loss = model.denoising_loss(**QUIET)
    model.save(tmp_path / "m")
    for name in kinds:
        monkeypatch.delitem(KINDS, name)
    for name in ("tens", "ones"):  # in another session, imported the other way round
        monkeypatch.setitem(KINDS, name, kinds[name])
    again = SCGM.load(tmp_path / "m", adata=cells.copy())
    got = again.generate(4, {"first": 0.2, "second": 0.7, "third": 0.1}, **QUIET)
    np.testing.assert_array_equal(got.obsm["X_scgm"], want.obsm["X_scgm"])
    np.testing.assert_array_equal(again.denoising_loss(**QUIET), loss)


def test_a_number_that_never_varied_says_nothing(cells):
    cells.obs["first"] = 0.5
    model = trained(cells, continuous_condition_keys=["first"])
    at, off = (model.generate(4, {"first": x}, **QUIET).obsm["X_scgm"] for x in (0.5, 0.6))
    assert np.abs(at - off).max() < 1.0


def test_wrong_entries_are_named_before_anything_is_written(cells, monkeypatch):
    monkeypatch.setitem(KINDS, "odd", Scaled("layer"))
    with pytest.raises(ValueError, match=r"KINDS\['odd'\] has the argument 'layer'"):
        SCGM.setup_anndata(cells)
    monkeypatch.setitem(KINDS, "odd", Scaled)
    with pytest.raises(TypeError, match=r"KINDS\['odd'\] .* enter an instance"):
        SCGM.setup_anndata(cells)
    assert not cells.uns and "_scvi_batch" not in cells.obs


@pytest.mark.parametrize("cls", [SCGM, MultiSCGM])
def test_no_argument_of_a_set_up_is_free_for_a_kind(cells, monkeypatch, cls):
    setups = [cls.setup_anndata, getattr(cls, "setup_mudata", cls.setup_anndata)]
    taken = {name for setup in setups for name in inspect.signature(setup).parameters}
    for name in taken - {"kwargs"}:
        monkeypatch.setitem(KINDS, "odd", Scaled(name))
        with pytest.raises(ValueError, match=f"has the argument '{name}', which means something"):
            SCGM.setup_anndata(cells)


def test_a_number_beyond_those_of_networks(cells):
    cells.obs["second"] = cells.obs["second"].astype(float)
    model = trained(cells.copy(), continuous_condition_keys=["second"])
    with pytest.raises(ValueError, match="'second' holds infinite values"):
        model.generate(1, {"second": 1e300}, **QUIET)
    cells.obs["second"] *= 1e300
    with pytest.raises(ValueError, match="'second' holds infinite values"):
        SCGM.setup_anndata(cells, continuous_condition_keys=["second"])
    assert not cells.uns and "_scvi_batch" not in cells.obs


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        (lambda c, *_: np.zeros(len(c)), TypeError, r"Scaled.numbers makes .* shape \(240,\)"),
        (lambda c, *_: np.full((len(c), 2), "a"), TypeError, r"Scaled.numbers makes .* dtype <U1"),
        (lambda c, *_: np.full((len(c), 2), np.inf), ValueError, "'first' holds infinite"),
        (
            lambda c, *_: np.tile([np.nan, 1.0], (len(c), 1)),
            ValueError,
            "'first' holds .* missing in part",
        ),
    ],
)
def test_numbers_that_no_network_can_read(cells, monkeypatch, numbers, error, message):
    kind = Scaled("one_keys")
    kind.numbers = numbers
    monkeypatch.setitem(KINDS, "ones", kind)
    with pytest.raises(error, match=message):
        SCGM.setup_anndata(cells, one_keys=["first"])
    assert not cells.uns and "_scvi_batch" not in cells.obs


def test_a_condition_that_no_cell_has(cells, monkeypatch):
    monkeypatch.setitem(KINDS, "ones", Scaled("one_keys"))
    cells.obs["first"] = np.nan
    with pytest.raises(ValueError, match="first"):
        SCGM.setup_anndata(cells, one_keys=["first"])


def test_a_kind_of_two_dimensions_is_named(cells, monkeypatch):
    kind = Scaled("one_keys")
    monkeypatch.setitem(KINDS, "ones", kind)
    model = trained(cells, one_keys=["first"])
    kind.described = lambda numbers, learnt: numbers
    with pytest.raises(TypeError, match="Scaled.described makes 2 dimensions"):
        model.generate(2, {"first": 0.2}, **QUIET)


def test_values_that_no_file_holds(cells, monkeypatch):
    monkeypatch.setitem(KINDS, "ones", Scaled("one_keys"))
    model = trained(cells.copy(), continuous_condition_keys=["second"])
    cells.obs["first"] = [(float(x), 1.0) for x in cells.obs["first"]]
    with pytest.raises(
        ValueError, match=r"one_keys: adata.obs\['first'\] holds values of type tuple"
    ):
        SCGM.setup_anndata(cells, one_keys=["first"])
    with pytest.raises((TypeError, ValueError), match="'second'"):
        model.generate(1, pd.DataFrame({"second": [[0.25, 1.0]]}), **QUIET)
