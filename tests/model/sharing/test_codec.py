"""What a model keeps comes back from JSON and tensors as it was."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scvi.utils import attrdict

from scgm_scvi.model.sharing._codec import Encoder, decode


def there_and_back(value):
    """``value`` through the text of a JSON file, and a safetensors file."""
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "a_"), allow_nan=False)
    tensors = safetensors.torch.load(safetensors.torch.save(encoder.tensors))
    return decode(json.loads(text), tensors)


def same(a, b) -> bool:
    """Equal in value and in type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        keys = [(type(k), repr(k)) for k in a], [(type(k), repr(k)) for k in b]
        return keys[0] == keys[1] and all(same(a[k], b[m]) for k, m in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype == object:
            return same(a.ravel().tolist(), b.ravel().tolist())
        return a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return same(np.asarray(a), np.asarray(b))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return a == b


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sets(st.integers())
    | st.frozensets(st.text()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text() | st.just("$") | st.integers() | st.tuples(st.text(), st.integers()), inner
        )
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_builtins(value):
    assert same(there_and_back(value), value)


ARRAYS = [
    *(np.arange(6).reshape(2, 3).astype(d) for d in "b1 i1 i2 i4 i8 u1 u2 u4 u8".split()),
    *(
        np.array([0, -0.0, np.nan, np.inf, 1 / 3], d)
        for d in ("f2", "f4", "f8", "c8", "c16", ">f4")
    ),
    np.array(["2020-01-01", "NaT"], "M8[ns]"),
    np.array([1, 2], "m8[s]"),
    np.arange(6, dtype=float).reshape(2, 3).T,
    np.arange(10)[::3],
    np.array(3.5),
    np.array(1 + 2j),
    np.zeros((0, 4), np.float32),
    np.array([], dtype=np.int64),
    np.array(["a", "longer", "é"]),
    np.array([b"a", b"\xff"]),
    np.array([["x", None], [1, np.float32(2)]], dtype=object),
    np.array([], dtype=object),
    np.array("one", dtype=object),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_arrays(array):
    before = array.copy()
    back = there_and_back(array)
    assert same(back, array)
    assert back.flags.writeable
    assert same(array, before)
    for scalar in array.ravel()[:2]:
        if isinstance(scalar, np.generic):
            assert same(there_and_back(scalar), scalar)


def test_an_array_of_lists():
    array = np.empty(2, dtype=object)
    array[:] = [[1, 2], (3, 4)]
    assert same(there_and_back(array), array)


FRAME = pd.DataFrame(
    {
        "text": ["a", "b", None],
        "number": [1.5, np.nan, -np.inf],
        "count": [1, 2, 3],
        "small": np.array([1, 2, 3], np.int8),
        "flag": [True, False, True],
        "category": pd.Categorical(["x", None, "y"], categories=["y", "x", "z"]),
        "ordered": pd.Categorical([1, 2, 1], ordered=True),
        "missing": pd.array([1, None, 3], dtype="Int64"),
        "real": pd.array([1, None, 3], dtype="Float32"),
        "maybe": pd.array([True, None, False], dtype="boolean"),
        "string": pd.array(["a", None, "c"], dtype="string"),
        "date": pd.to_datetime(["2020-01-01", None, "2021-02-03"]),
        "mixed": np.array([1, "a", None], dtype=object),
    },
    index=pd.Index(["g1", "g2", "g3"], name="gene"),
)
TABLES = [
    FRAME,
    FRAME.iloc[:0],
    FRAME[[]],
    pd.DataFrame(),
    pd.DataFrame({"elbo": [1.0, 2.0]}, index=pd.RangeIndex(0, 4, 2, name="epoch")),
    pd.DataFrame([[1, "a"]], columns=["same", "same"]),
    pd.DataFrame({0: [1], (1, "a"): [2.0]}),
    pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex(["2020-01-01"])),
    pd.DataFrame({"a": [1]}, index=pd.CategoricalIndex(["x"])),
    pd.DataFrame({"a": np.array(["x"], dtype=object)}, index=np.array(["y"], dtype=object)),
    *(FRAME[c] for c in FRAME),
    pd.Series([1.0], name=None),
]


@pytest.mark.parametrize("table", TABLES, ids=range(len(TABLES)))
def test_tables(table):
    back = there_and_back({"t": table})["t"]
    check = pd.testing.assert_frame_equal
    if isinstance(table, pd.Series):
        check = pd.testing.assert_series_equal
    check(back, table, check_index_type="exact", check_freq=False, check_exact=True)
    assert type(back.index) is type(table.index)


def test_an_index():
    for index in (pd.Index(["a", "b"], name="n"), pd.RangeIndex(5), pd.Index([1.5])):
        pd.testing.assert_index_equal(there_and_back(index), index, exact=True)


def test_other_kinds():
    value = attrdict({"a": {"b": (1, 2)}, "c": None})
    back = there_and_back(value)
    assert type(back) is attrdict
    assert back.a.b == (1, 2)
    value = OrderedDict([("b", 1), (2, "a")])
    assert same(there_and_back(value), value)
    value = defaultdict(dict, a=defaultdict(None))
    assert same(there_and_back(value), value)
    assert there_and_back(value).default_factory is dict
    assert there_and_back(pd.NA) is pd.NA
    assert there_and_back(pd.NaT) is pd.NaT
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
    assert torch.equal(there_and_back([tensor])[0], tensor)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (print, r"a_ is a builtins\.builtin_function_or_method"),
        ({"x": [1, object()]}, r"a_\['x'\]\[1\] is a builtins\.object"),
        ({object(): 1}, r"a_, key <object"),
        (defaultdict(lambda: 1), "a_ is a collections.defaultdict"),
        (defaultdict(type("list", (), {})), "a_ is a collections.defaultdict"),
        (np.zeros(2, "i4,f8"), r"a_ is a numpy\.ndarray of dtype \[\('f0'"),
        (np.longdouble(1), "a_ is a numpy.ndarray of dtype"),
        (np.ma.array([1]), "MaskedArray"),
        (torch.nn.Parameter(torch.zeros(1)), "Parameter"),
        (pd.DataFrame({"t": pd.date_range("2020", periods=2, tz="UTC")}), r"a_\['t'\] is a"),
        (pd.MultiIndex.from_tuples([(1, 2)]), "a_ is a pandas.*MultiIndex"),
        (Path("x"), "PosixPath|WindowsPath"),
        (True.__class__, "a_ is a builtins.type"),
    ],
)
def test_what_can_t_be_held(value, match):
    with pytest.raises(TypeError, match=match):
        Encoder().encode(value, "a_")


@pytest.mark.parametrize(
    "value",
    [
        {"$": "array", "dtype": "O", "shape": [1], "tensor": "t"},  # pointers out of numbers
        {"$": "array", "dtype": "V8", "shape": [1], "tensor": "t"},
        {"$": "array", "dtype": "i8", "shape": [2], "tensor": "t"},
        {"$": "array", "dtype": "i8", "shape": [1], "items": [1]},
        {"$": "array", "dtype": "f8", "shape": [1], "tensor": "none"},
        {"$": "masked", "dtype": "category", "values": {}, "missing": {}},
        {"$": "eval", "value": "1"},
        {"$": ["list"]},
        {"$": "DataFrame"},
        {"$": "tuple"},
        {"$": "bytes", "base64": "?"},
    ],
)
def test_what_no_encoder_makes(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(value, {"t": torch.zeros(1, dtype=torch.int64)})
