"""Whatever columns and matrices cells come with: they train, or set-up refuses and writes nothing."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import QUIET, SMALL
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mudata import MuData
from scipy import sparse

from scgm_scvi import SCGM, MultiSCGM
from scgm_scvi._mudata import columns_stay

N, G = 48, 30
TRAIN = {"max_epochs": 1, "batch_size": 24, "diffusion_kwargs": {"max_steps": 2, **QUIET}, **QUIET}


def _spread(values, n, dtype=object) -> np.ndarray:
    out = np.empty(len(values), dtype=dtype)
    out[:] = values
    return np.resize(out, n)


DAYS = pd.date_range("2020-01-01", periods=3)
CATEGORIES = {
    "strings": lambda n: _spread(["a", "b", "ü/x"], n),
    "gaps": lambda n: _spread(["a", None, "b", np.nan], n),
    "str": lambda n: pd.Categorical(_spread(["b", "a"], n), categories=["b", "a", "unused"]),
    "ordered": lambda n: pd.Categorical(_spread(["b", "a"], n), ordered=True),
    "int": lambda n: pd.Categorical(_spread([3, 1], n)),
    "float": lambda n: pd.Categorical(_spread([0.5, 2.0, np.nan], n)),
    "bool": lambda n: pd.Categorical(_spread([True, False], n)),
    "bools": lambda n: _spread([True, False], n, bool),
    "ints": lambda n: _spread([3, 1], n, np.int64),
    "Int64": lambda n: pd.array(_spread([1, None, 2], n), dtype="Int64"),
    "boolean": lambda n: pd.array(_spread([True, None, False], n), dtype="boolean"),
    "string": lambda n: pd.array(_spread(["a", None, "b"], n), dtype="string"),
    "of Int64": lambda n: pd.Categorical(pd.array(_spread([1, None, 2], n), dtype="Int64")),
    "of string": lambda n: pd.Categorical(pd.array(_spread(["a", "b"], n), dtype="string")),
    "no gaps": lambda n: pd.array(_spread(["a", "b"], n), dtype="string"),
}
NUMBERS = {
    "floats": lambda n: np.linspace(-1, 1, n),
    "float32": lambda n: np.linspace(0, 1, n, dtype=np.float32),
    "with NaN": lambda n: _spread([0.5, 2.0, np.nan], n, float),
    "ints": lambda n: np.arange(n),
    "Int64": lambda n: pd.array(_spread([1, None, 2], n), dtype="Int64"),
    "Float64": lambda n: pd.array(_spread([1.5, None, 2], n), dtype="Float64"),
}
STRANGE = {
    "intervals": lambda n: pd.cut(np.arange(n), 3),
    "periods": lambda n: pd.Categorical(_spread(list(DAYS.to_period("D")), n)),
    "timestamps": lambda n: pd.Categorical(_spread(list(DAYS), n)),
    "datetimes": lambda n: pd.DatetimeIndex(_spread(list(DAYS), n)),
    "zones": lambda n: pd.DatetimeIndex(_spread(list(DAYS), n)).tz_localize("UTC"),
    "dates": lambda n: _spread([d.date() for d in DAYS], n),
    "durations": lambda n: pd.to_timedelta(np.arange(n), unit="s"),
    "mixed": lambda n: _spread(["a", 1, None], n),
    "mixed categories": lambda n: pd.Categorical(_spread(["a", 1, 2.5], n)),
    "bytes": lambda n: _spread([b"a", b"b"], n),
    "none": lambda n: _spread([None], n),
    "no categories": lambda n: pd.Categorical([None] * n),
    "NaN": lambda n: np.full(n, np.nan),
    "lists": lambda n: pd.Series([[i] for i in range(n)]).to_numpy(),
    "sparse": lambda n: pd.arrays.SparseArray(_spread([0, 1], n, np.int64)),
    "complex": lambda n: _spread([1j, 2], n, complex),
    "long": lambda n: np.linspace(0, 1, n, dtype=np.longdouble),
}
ALL = {**CATEGORIES, **NUMBERS, **STRANGE}

DENSE = {
    "C": lambda x: np.ascontiguousarray(x, np.float32),
    "F": lambda x: np.asfortranarray(x, np.float32),
    "float64": lambda x: x.astype(np.float64),
    "int": lambda x: x.astype(np.int64),
}
MATRICES = {
    "csr": lambda x: sparse.csr_matrix(x, dtype=np.float32),
    "csc": lambda x: sparse.csc_matrix(x, dtype=np.float32),
    "csr of ints": lambda x: sparse.csr_matrix(x),
}
ARRAYS = {
    "csr_array": lambda x: sparse.csr_array(x.astype(np.float32)),
    "csc_array": lambda x: sparse.csc_array(x.astype(np.float32)),
}
SET_UP = [*DENSE, *MATRICES, *ARRAYS]
CONTAINERS = {**DENSE, **MATRICES, **ARRAYS}

NAMES = ["a", "b/c", "", 5, ("t", 1), "_index", "ß ä", "names"]


def make(container: str, obs: dict, var: dict, index_name: object = None) -> AnnData:
    """Cells with these columns, as one reads them from wherever."""
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (N, G))
    x[:, 0] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = AnnData(CONTAINERS[container](x))
        adata.obs_names = [f"cell {i}" for i in range(N)]
        adata.var_names = [f"gene {i}" for i in range(G)]
        for table, columns, n in ((adata.obs, obs, N), (adata.var, var, G)):
            for name, kind in columns.items():
                values = pd.Series(ALL[kind](n), index=table.index)
                table.insert(table.shape[1], name, values)
    adata.var.index.name = adata.obs.index.name = index_name
    return adata


def unchanged(a: AnnData, b: AnnData) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert not a.uns and not a.obsm and not a.layers
    assert type(a.X) is type(b.X) and a.X.dtype == b.X.dtype
    assert np.array_equal(*(x.toarray() if sparse.issparse(x) else x for x in (a.X, b.X)))


def same(a: AnnData, b: AnnData) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert (a.X != b.X).nnz == 0
    assert np.array_equal(a.obsm["X_scgm"], b.obsm["X_scgm"])


def there_and_back(adata: AnnData, **keys) -> str | None:
    """All the way, if set-up lets it; what set-up says, if it refuses."""
    before = adata.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Category .* has fewer than 3|.*is in CSC")
        try:
            SCGM.setup_anndata(adata, **keys)
        except (KeyError, TypeError, ValueError) as e:
            unchanged(adata, before)
            return str(e)
        model = SCGM(adata, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning, of so few steps
        model.train(**TRAIN)
    named = {"conditions": adata.obs[model.condition_spec.names][:6]}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save(folder / "model")
        loaded = SCGM.load(folder / "model", adata=False)
        pd.testing.assert_frame_equal(loaded.var_, model.var_)
        assert loaded.history.keys() == model.history.keys()
        for key, table in model.history.items():
            pd.testing.assert_frame_equal(loaded.history[key], table)
        model.export(folder / "export")
        cells = model.generate(**named, seed=0, progress_bar=False)
        for other in (loaded, SCGM.from_export(folder / "export")):
            same(other.generate(**named, seed=0, progress_bar=False), cells)
        model.generate(**named, seed=0, out=folder / "chunks.h5ad", progress_bar=False)
        same(ad.read_h5ad(folder / "chunks.h5ad"), cells)
        cells.write_h5ad(folder / "cells.h5ad")  # makes categories of strings, in cells too
        same(ad.read_h5ad(folder / "cells.h5ad"), cells)
    return None


names = st.sampled_from(NAMES)
kinds = st.sampled_from(sorted(ALL))


quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@quick
@given(
    container=st.sampled_from(SET_UP),
    var=st.dictionaries(names, kinds, min_size=3, max_size=6),
    unread=st.dictionaries(names, kinds, max_size=3),
    label=st.sampled_from(sorted(CATEGORIES)),
    dose=st.sampled_from(sorted(NUMBERS)),
    index_name=names,
)
def test_columns_that_are_not_read(container, var, unread, label, dose, index_name):
    """They never keep a model from being trained, saved and written."""
    adata = make(container, {"label": label, "dose": dose, **unread}, var, index_name)
    keys = {"labels_key": "label", "continuous_condition_keys": ["dose"]}
    assert there_and_back(adata, **keys) is None


ROLES = {
    **dict.fromkeys(["labels_key", "batch_key", "size_factor_key"], False),
    **dict.fromkeys(["condition_keys", "categorical_covariate_keys"], True),
    **dict.fromkeys(["continuous_condition_keys", "continuous_covariate_keys"], True),
}
"""Argument to whether it takes a list."""


@quick
@given(
    kind=st.sampled_from([*CATEGORIES, *ALL]),
    name=st.sampled_from(["column", "ß ä", "index", *NAMES[:3]]),
    role=st.sampled_from(sorted(ROLES)),
    container=st.sampled_from(SET_UP),
)
def test_columns_that_are_read(kind, name, role, container):
    """They go all the way, or set-up names them."""
    adata = make(container, {name: kind}, {}, "index")
    said = there_and_back(adata, **{role: [name] if ROLES[role] else name})
    assert said is None or repr(name) in said


@pytest.mark.filterwarnings("ignore:Category .* has fewer than 3")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("role", ROLES)
def test_set_up_alone(role, kind):
    """All kinds in all roles, of which those above are a sample."""
    adata = make("csr", {"column": kind}, {})
    before = adata.copy()
    try:
        SCGM.setup_anndata(adata, **{role: ["column"] if ROLES[role] else "column"})
    except ValueError as e:
        unchanged(adata, before)
        assert str(e).startswith(f"{role}: adata.obs['column'] ")
    else:
        assert kind not in STRANGE or kind in ("none", "no categories", "NaN", "sparse", "long")


@pytest.mark.parametrize("container", SET_UP)
def test_containers(container):
    """With rows that are called like a column, of cells and of features."""
    adata = make(container, {"type": "strings", "plate": "bool"}, {"type": "gaps"}, "type")
    assert there_and_back(adata, labels_key="type", batch_key="plate") is None


def test_both_modalities(tmp_path):
    """Tables of features in a MuData, each with columns that files can't hold."""
    odd = {"bin": "intervals", "day": "dates", 5: "mixed", "a/b": "zones", "l": "lists"}
    rna, atac = make("csr", {}, odd, "bin"), make("csr", {}, odd, "day")
    atac.var_names = [f"peak {i}" for i in range(G)]
    rna.obs["type"] = CATEGORIES["strings"](N)
    with columns_stay():
        mdata = MuData({"rna": rna, "atac": atac})
    MultiSCGM.setup_mudata(mdata, labels_key="type")
    model = MultiSCGM(mdata, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(**TRAIN)
    model.save(tmp_path / "model")
    cells = model.generate(5, seed=0, progress_bar=False)
    again = MultiSCGM.load(tmp_path / "model", adata=False).generate(
        5, seed=0, out=tmp_path / "cells.h5mu", progress_bar=False
    )
    with columns_stay():
        read = mudata.read_h5mu(again)
    for key in ("rna", "atac"):
        assert (read[key].X != cells[key].X).nnz == 0
        assert list(read[key].var) == ["bin", "day", "5", "a_b"]
        pd.testing.assert_frame_equal(
            read[key].var.astype(object), cells[key].var.astype(object), check_names=False
        )
