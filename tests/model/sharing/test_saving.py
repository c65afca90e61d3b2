"""What ``save`` writes, ``load`` reads; and what it would not read is not written."""

from __future__ import annotations

import pickletools

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from helpers import SMALL, make_adata, make_mdata

from scgm_scvi import SCGM, MultiSCGM
from scgm_scvi.model.sharing._pickles import _pickle_of
from scgm_scvi.model.sharing._saving import SavingMixin


@pytest.fixture
def small():
    adata = make_adata()
    SCGM.setup_anndata(adata, labels_key="cell_type")
    return SCGM(adata, **SMALL)


def names_in(file) -> set[str]:
    return {a for o, a, _ in pickletools.genops(_pickle_of(file)) if o.name == "GLOBAL"}


def test_no_pickles_of_pandas(model, tmp_path):
    """How they look differs from version to version, so another could not read them."""
    model.save(tmp_path / "model")
    found = names_in(tmp_path / "model" / "model.pt")
    assert not [name for name in found if name.startswith(("pandas", "pyarrow"))]
    loaded = SCGM.load(tmp_path / "model", adata=False)
    pd.testing.assert_frame_equal(loaded.var_, model.var_)
    assert model.history
    for key, table in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[key], table)


STRINGS = [
    np.array(["a", "b"], dtype=object),
    pd.array(["a", "b"], dtype="string"),
    pd.array(["a", None], dtype=pd.StringDtype("python", na_value=np.nan)),
    pd.Categorical(["a", None]),
    pd.array([1, None], dtype="Int64"),
    np.array(["2020", "NaT"], dtype="M8[s]"),
]


@pytest.mark.parametrize("values", STRINGS, ids=lambda v: str(v.dtype))
def test_tables_come_back(small, tmp_path, values):
    index = pd.Index(["x", "y"], name="rows")
    small.notes_ = [pd.DataFrame({"a": values}, index=index), pd.Series(values), pd.Index(values)]
    small.save(tmp_path / "model")
    assert not [n for n in names_in(tmp_path / "model" / "model.pt") if n.startswith("pandas")]
    table, series, index = SCGM.load(tmp_path / "model", adata=False).notes_
    pd.testing.assert_frame_equal(table, small.notes_[0])
    pd.testing.assert_series_equal(series, small.notes_[1])
    pd.testing.assert_index_equal(index, small.notes_[2])


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "match"),
        [
            (pd.Interval(0, 1), r"model\.notes_ holds .*Interval"),
            ([pd.Period("2020")], r"model\.notes_ holds .*Period"),
            (pd.Series(pd.interval_range(0, 3)), r"model\.notes_ holds .*Interval"),
            ([print], r"model\.notes_ holds .*print"),
            ({"f": lambda x: x}, r"model\.notes_ is a dict, which can't be pickled.*lambda"),
        ],
    )
    def test_an_attribute(self, small, tmp_path, value, match):
        """Named, with the older model as it was."""
        small.save(tmp_path / "model")
        before = (tmp_path / "model" / "model.pt").read_bytes()
        small.notes_ = value
        for path, overwrite in ((tmp_path / "new", False), (tmp_path / "model", True)):
            with pytest.raises(TypeError, match=match):
                small.save(path, overwrite=overwrite)
        assert not (tmp_path / "new").exists()
        assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.pt"]
        assert (tmp_path / "model" / "model.pt").read_bytes() == before

    def test_another_format(self, small, tmp_path):
        with pytest.raises(ValueError, match="STACK_GLOBAL"):
            small.save(tmp_path / "model", save_kwargs={"pickle_protocol": 4})
        assert not list(tmp_path.iterdir())

    def test_what_does_not_decode(self, small, tmp_path, monkeypatch):
        monkeypatch.setattr(torch, "load", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            small.save(tmp_path / "model")
        assert not list(tmp_path.iterdir())

    def test_cells_that_cannot_be_written(self, small, tmp_path):
        """Columns that the model never reads are still the cells'."""
        small.save(tmp_path / "model")
        small.adata.obs["bin"] = pd.cut(np.arange(small.adata.n_obs), 3)
        with pytest.raises(TypeError, match="bin"):
            small.save(tmp_path / "model", overwrite=True, save_anndata=True)
        assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.pt"]

    def test_a_place_that_is_taken(self, small, tmp_path):
        (tmp_path / "file").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="is a file; a model is saved to a folder"):
                small.save(tmp_path / "file", overwrite=overwrite)
        assert (tmp_path / "file").read_text() == "mine"
        with pytest.raises(ValueError, match=r"already exists.*overwrite=True"):
            small.save(tmp_path)


def test_beside_other_files(small, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    small.save(str(tmp_path), overwrite=True)
    small.save(tmp_path, prefix="other_", overwrite=True, save_anndata=True, compression="gzip")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("model.pt", "notes.txt", "other_adata.h5ad", "other_model.pt")
    ]
    assert SCGM.load(tmp_path, prefix="other_").adata is not None


def test_cells_in_a_mudata(tmp_path):
    mdata = make_mdata()
    MultiSCGM.setup_mudata(mdata)
    model = MultiSCGM(mdata, **SMALL)
    model.save(tmp_path / "model", save_anndata=True)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["mdata.h5mu", "model.pt"]
    assert MultiSCGM.load(tmp_path / "model").adata.n_obs == mdata.n_obs


def test_without_the_parameters_of_other_models(small, tmp_path):
    """scvi-tools saves with every model what all of Pyro's have learnt in this process."""
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("rate", torch.ones(3), constraint=pyro.distributions.constraints.positive)
        pyro.param("loc", torch.zeros(3))
        small.save(tmp_path / "model")
        assert set(store.keys()) == {"rate", "loc"}
        assert torch.equal(store["rate"], torch.ones(3))
        saved = torch.load(tmp_path / "model" / "model.pt", weights_only=False)
        assert not saved["model_state_dict"]["pyro_param_store"]["params"]
        SCGM.load(tmp_path / "model", adata=False)


def test_all_models_save_so():
    """scvi's own ``save`` comes after, whatever else a class inherits."""
    from scgm_scvi import ATACSCGM
    from scgm_scvi.model.scvi_models._from_scvi import PRETRAINED

    for kind in (SCGM, ATACSCGM, MultiSCGM, *PRETRAINED.values()):
        order = [c for c in kind.__mro__ if "save" in vars(c)]
        assert order.index(SavingMixin) < len(order) - 1
        assert all(c.__module__.startswith("scgm_scvi") for c in order[: order.index(SavingMixin)])
