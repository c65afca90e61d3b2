"""Python values as JSON and tensors, and back, without a pickle."""

from __future__ import annotations

import base64
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi.utils import attrdict

__all__ = ["Encoder", "decode"]

# Values that JSON does not know are objects with this key, which names what they are.
_TAG = "$"
_NUMERIC = "biufcmM"  # kinds of numpy dtypes that are kept as tensors
_TEXT = "OSU"
_MAPPINGS = {"OrderedDict": OrderedDict, "defaultdict": defaultdict, "dict": dict}
_FACTORIES = {"None": None, "dict": dict, "int": int, "list": list, "set": set}
_SEQUENCES = {"frozenset": frozenset, "set": set, "tuple": tuple}
_MASKED = {
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
    *("Float32", "Float64", "boolean"),
}


class Encoder:
    """Turns values into what JSON knows; arrays of numbers go to ``tensors``.

    Examples
    --------
    >>> encoder = Encoder()
    >>> encoder.encode({"a": (1, None), "b": float("nan")}, "notes_")
    {'a': {'$': 'tuple', 'items': [1, None]}, 'b': {'$': 'float', 'value': 'nan'}}
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def encode(self, value: Any, where: str) -> Any:
        """``value`` as JSON; ``where`` names it in errors, and its tensors.

        Raises
        ------
        TypeError
            If it holds something that could not be restored as it was.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            if math.isfinite(value):
                return value
            return {_TAG: "float", "value": repr(value)}
        if kind is bytes:
            return {_TAG: "bytes", "base64": base64.b64encode(value).decode()}
        if kind is list:
            return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
            items = [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return {_TAG: kind.__name__, "items": items}
        if kind.__name__ in _MAPPINGS and kind is _MAPPINGS[kind.__name__]:
            return self._mapping(value, where)
        if kind is attrdict:
            return {_TAG: "attrdict", "value": self.encode(value.to_dict(), where)}
        if value is pd.NA or value is pd.NaT:
            return {_TAG: "NA" if value is pd.NA else "NaT"}
        if isinstance(value, np.generic):
            return {_TAG: "scalar", "array": self._array(np.asarray(value), where)}
        if kind is np.ndarray:
            return self._array(value, where)
        if kind is torch.Tensor:
            return {_TAG: "tensor", "tensor": self._keep(value.detach().cpu().clone(), where)}
        if kind is pd.DataFrame:
            return {
                _TAG: "DataFrame",
                "index": self._index(value.index, f"{where}.index"),
                "columns": self._index(value.columns, f"{where}.columns"),
                "data": [
                    self._column(value.iloc[:, i], f"{where}[{name!r}]")
                    for i, name in enumerate(value.columns)
                ],
            }
        if kind is pd.Series:
            index = self._index(value.index, f"{where}.index")
            name = self.encode(value.name, f"{where}.name")
            return {
                _TAG: "Series",
                "index": index,
                "name": name,
                "data": self._column(value, where),
            }
        if isinstance(value, pd.Index):
            return self._index(value, where)
        raise _unknown(value, where)

    def _mapping(self, value: Mapping, where: str) -> dict[str, Any]:
        items = [(k, self.encode(v, f"{where}[{k!r}]")) for k, v in value.items()]
        if type(value) is dict and all(type(k) is str for k in value) and _TAG not in value:
            return dict(items)
        pairs = [[self.encode(k, f"{where}, key {k!r}"), v] for k, v in items]
        found = {_TAG: type(value).__name__, "items": pairs}
        if type(value) is defaultdict:
            factory = getattr(value.default_factory, "__name__", "None")
            if _FACTORIES.get(factory) is not value.default_factory:
                raise _unknown(value, where)
            found["factory"] = factory
        return found

    def _array(self, value: np.ndarray, where: str) -> dict[str, Any]:
        dtype = value.dtype
        found = {_TAG: "array", "dtype": dtype.str, "shape": list(value.shape)}
        if dtype.kind in _TEXT:
            items = value.ravel().tolist()
            return {
                **found,
                "items": [self.encode(v, f"{where}[{i}]") for i, v in enumerate(items)],
            }
        if dtype.kind not in _NUMERIC or dtype.itemsize > (16 if dtype.kind == "c" else 8):
            raise _unknown(value, where)
        native = np.array(value, dtype.newbyteorder("="), order="C")
        if dtype.kind in "mMc":
            native = native.ravel().view(
                np.int64 if dtype.kind in "mM" else f"f{dtype.itemsize // 2}"
            )
        return {**found, "tensor": self._keep(torch.from_numpy(native), where)}

    def _keep(self, tensor: torch.Tensor, where: str) -> str:
        name = where
        while name in self.tensors:  # two keys may look the same
            name += "'"
        self.tensors[name] = tensor.contiguous()
        return name

    def _index(self, value: pd.Index, where: str) -> dict[str, Any]:
        name = self.encode(value.name, f"{where}.name")
        if type(value) is pd.RangeIndex:
            return {
                _TAG: "RangeIndex",
                "range": [value.start, value.stop, value.step],
                "name": name,
            }
        if isinstance(value, pd.MultiIndex):
            raise _unknown(value, where)
        return {_TAG: "Index", "data": self._column(value, where), "name": name}

    def _column(self, value: pd.Series | pd.Index, where: str) -> dict[str, Any]:
        dtype = value.dtype
        if isinstance(dtype, np.dtype):
            return self._array(value.to_numpy(), where)
        missing = value.isna()
        if isinstance(dtype, pd.CategoricalDtype):
            values = value.array
            return {
                _TAG: "Categorical",
                "codes": self._array(np.asarray(values.codes), where),
                "categories": self._index(values.categories, f"{where}.categories"),
                "ordered": bool(values.ordered),
            }
        if isinstance(dtype, pd.StringDtype):
            items = [None if m else str(v) for v, m in zip(value, missing, strict=True)]
            is_nan = getattr(dtype, "na_value", pd.NA) is not pd.NA  # since pandas 2.3
            return {_TAG: "strings", "storage": dtype.storage, "nan": is_nan, "items": items}
        if dtype.name in _MASKED:
            values = value.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
            return {
                _TAG: "masked",
                "dtype": dtype.name,
                "values": self._array(values, where),
                "missing": self._array(np.asarray(missing), f"{where}.isna()"),
            }
        raise _unknown(value, where)


def _unknown(value: object, where: str) -> TypeError:
    kind = type(value)
    dtype = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return TypeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}{dtype}, which an export can't hold. It "
        "holds builtins, arrays of numbers and strings, and pandas tables of those: replace it by "
        "one of them, or remove it from the model."
    )


def decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What :class:`Encoder` was given; nothing but the types that it knows is made.

    Raises
    ------
    KeyError, TypeError, ValueError
        If ``value`` is not what an encoder makes.

    Examples
    --------
    >>> encoder = Encoder()
    >>> decode(encoder.encode({1: (2, {3})}, "notes_"), encoder.tensors)
    {1: (2, {3})}
    """
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {k: decode(v, tensors) for k, v in value.items()}
    if tag == "float":
        return float(value["value"])
    if tag == "bytes":
        return base64.b64decode(value["base64"], validate=True)
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(v, tensors) for v in value["items"])
    if tag in _MAPPINGS:
        first = (_FACTORIES[value["factory"]],) if tag == "defaultdict" else ()
        items = {decode(k, tensors): decode(v, tensors) for k, v in value["items"]}
        return _MAPPINGS[tag](*first, items)
    if tag == "attrdict":
        return attrdict(decode(value["value"], tensors))
    if tag in ("NA", "NaT"):
        return getattr(pd, tag)
    if tag == "scalar":
        return _array(value["array"], tensors)[()]
    if tag == "array":
        return _array(value, tensors)
    if tag == "tensor":
        return tensors[value["tensor"]]
    return _pandas(tag, {k: decode(v, tensors) for k, v in value.items() if k != _TAG})


def _array(value: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
    dtype = np.dtype(value["dtype"])
    if "items" in value:
        if dtype.kind not in _TEXT:
            raise ValueError(f"an array of dtype {dtype} is not a list of items")
        flat = np.empty(len(value["items"]), dtype)
        for i, v in enumerate(value["items"]):  # whole lists would be taken for further axes
            flat[i] = decode(v, tensors)
    else:
        if dtype.kind not in _NUMERIC:
            raise ValueError(f"an array of dtype {dtype} is not a tensor")
        flat = tensors[value["tensor"]].numpy().ravel()
        if dtype.kind in "mMc":
            flat = flat.view(dtype.newbyteorder("="))
        flat = flat.astype(dtype)  # its own memory, writeable
    return flat.reshape(value["shape"])


def _pandas(tag: str, value: dict[str, Any]) -> Any:
    """A pandas object of decoded parts."""
    if tag == "Categorical":
        categories, ordered = value["categories"], value["ordered"]
        return pd.Categorical.from_codes(value["codes"], categories=categories, ordered=ordered)
    if tag == "strings":
        missing = {"na_value": np.nan} if value["nan"] else {}
        try:
            dtype = pd.StringDtype(value["storage"], **missing)
        except ImportError:  # without pyarrow
            dtype = pd.StringDtype("python", **missing)
        return pd.array(value["items"], dtype=dtype)
    if tag == "masked":
        if value["dtype"] not in _MASKED:
            raise ValueError(f"{value['dtype']!r} is not a masked dtype")
        values = pd.array(value["values"], dtype=value["dtype"])
        values[value["missing"]] = pd.NA
        return values
    if tag == "RangeIndex":
        return pd.RangeIndex(*value["range"], name=value["name"])
    if tag == "Index":
        return pd.Index(value["data"], dtype=value["data"].dtype, name=value["name"])
    if tag == "Series":
        data = value["data"]  # the dtype is named, as pandas may infer another
        return pd.Series(data, index=value["index"], dtype=data.dtype, name=value["name"])
    if tag == "DataFrame":
        index = value["index"]
        columns = [pd.Series(c, index=index, dtype=c.dtype) for c in value["data"]]
        frame = pd.DataFrame(dict(enumerate(columns)), index=index)
        frame.columns = value["columns"]
        return frame
    raise ValueError(f"{tag!r} is not a kind of value that exports hold")
