"""A new kind of condition is one class: registered here, asked of a whole model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import make_types, train_types

from scgm_scvi import SCGM
from scgm_scvi.model import KINDS, ConditionKind

QUIET = {"progress_bar": False, "seed": 0}


class Embedded(ConditionKind):
    """A name that stands for a vector, as a drug does for its structure."""

    argument = "embedded_condition_keys"

    def learn(self, column, given):
        return given

    def width(self, learnt):
        return learnt.shape[1]

    def numbers(self, column, name, learnt):
        known = column.isna() | column.isin(learnt.index)
        if not known.all():
            raise ValueError(f"conditions: {name!r} has no vector {column[~known].iloc[0]!r}.")
        return learnt.reindex(column).to_numpy(float)

    def described(self, numbers, learnt):
        far = ((numbers[:, None] - learnt.to_numpy()[None]) ** 2).sum(axis=2)
        names = learnt.index.to_numpy()[np.nan_to_num(far, nan=np.inf).argmin(axis=1)]
        return pd.Series(names).where(~np.isnan(far).any(axis=1)).to_numpy()


VECTORS = pd.DataFrame(
    [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 0.0]], index=["left", "right", "between"]
)


@pytest.fixture(scope="module")
def model():
    KINDS["embedded"] = Embedded()
    adata = make_types()
    # which of the two programs a cell has follows the vector, not a label
    adata.obs["drug"] = np.where(adata.obs["cell_type"] == "A", "left", "right")
    adata.obs.loc[adata.obs_names[::9], "drug"] = None
    del adata.obs["cell_type"]
    adata.obs["cell_type"] = "all"
    yield train_types(adata, SCGM, embedded_condition_keys={"drug": VECTORS}, epochs=250, steps=300)
    del KINDS["embedded"]


def program(cells):
    """Share of counts in the first twenty genes."""
    x = cells.X.toarray()
    return (x[:, :20].sum(axis=1) / x.sum(axis=1)).mean()


def test_cells_are_generated_by_it(model):
    shares = {}
    for name in ("left", "right"):
        cells = model.generate(40, {"drug": name}, **QUIET)
        assert (cells.obs["drug"] == name).all()
        shares[name] = program(cells)
    assert abs(shares["left"] - shares["right"]) > 0.3
    assert model.generate(5, {}, **QUIET).obs["drug"].isna().all()


def test_a_value_that_training_never_showed_can_be_asked_for(model):
    cells = model.generate(20, {"drug": "between"}, **QUIET)
    assert (cells.obs["drug"] == "between").all()


def test_it_is_one_attribute_and_not_three(model):
    spec = model.condition_spec
    assert spec.steered == ["cell_type", "drug"] and spec.value_widths == [3]
    assert model.module.denoiser.network.conditions.value_widths == [3]
    more = model.generate(20, {"drug": "left"}, guidance_scale={"drug": 2.0}, **QUIET)
    assert more.uns["scgm"]["guidance_scale"] == {"drug": 2.0}


def test_real_cells_are_edited_scored_and_read_with_it(model):
    cells = model.adata[model.adata.obs["drug"] == "left"][:10].copy()
    out = model.edit(cells, {"drug": "right"}, strength=0.9, copy=True, **QUIET)
    before = cells.X[:, :20].sum() / cells.X.sum()
    made = out.layers["scgm_edited"]
    assert abs(made[:, :20].sum() / made.sum() - before) > 0.2
    assert model.denoising_loss(cells, **QUIET).shape == (10,)
    assert model.ood_score(cells, **QUIET).shape == (10,)


def test_saved_and_exported(model, tmp_path):
    want = model.generate(5, {"drug": "left"}, **QUIET).obsm["X_scgm"]
    model.save(tmp_path / "saved")
    model.export(tmp_path / "export")
    for same in (SCGM.load(tmp_path / "saved", adata=False), SCGM.from_export(tmp_path / "export")):
        got = same.generate(5, {"drug": "left"}, **QUIET).obsm["X_scgm"]
        np.testing.assert_array_equal(got, want)


def test_errors_name_the_value_and_the_kind(model, monkeypatch):
    with pytest.raises(ValueError, match="'drug' has no vector 'up'"):
        model.generate(2, {"drug": "up"}, **QUIET)
    adata = make_types()
    adata.obs["drug"] = "up"
    with pytest.raises(ValueError, match="'drug' has no vector 'up'"):
        SCGM.setup_anndata(adata, embedded_condition_keys={"drug": VECTORS})
    assert not adata.uns and "_scvi_batch" not in adata.obs  # nothing is written
    with pytest.raises(TypeError, match="takes no 'embeded_condition_keys'.*embedded_condition"):
        SCGM.setup_anndata(adata, embeded_condition_keys={"drug": VECTORS})
    monkeypatch.delitem(KINDS, "embedded")
    with pytest.raises(KeyError, match="kind 'embedded', which is not registered"):
        model.generate(2, **QUIET)
