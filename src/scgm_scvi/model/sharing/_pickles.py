"""Look into a saved model before it is unpickled: a pickle runs what it names."""

from __future__ import annotations

import os
import pickletools
from pathlib import Path

import torch

from scgm_scvi._errors import listed

__all__ = ["model_file", "require_harmless", "strange_names"]

# The names that saved models hold, as a pickle of protocol 2 (torch.save's) spells them. Single
# names, since every package also has functions that open files or run code. Each was looked at for
# what a call with arguments of a stranger's choice does.
_PANDAS = (
    "BooleanDtype Categorical CategoricalDtype DataFrame DatetimeIndex DatetimeTZDtype Float32Dtype "
    "Float64Dtype Index Int8Dtype Int16Dtype Int32Dtype Int64Dtype MultiIndex NA RangeIndex Series "
    "StringDtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype"
)
_NUMPY_ARRAYS = "_reconstruct scalar"
_HARMLESS = {
    "__builtin__": "bytearray bytes complex dict frozenset list set slice tuple xrange",
    "_codecs": "encode",
    "collections": "Counter OrderedDict defaultdict",
    "datetime": "date datetime timedelta timezone",
    "ml_collections.config_dict.config_dict": "ConfigDict FrozenConfigDict",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": _NUMPY_ARRAYS,
    "numpy.core.multiarray": _NUMPY_ARRAYS,  # numpy 1
    "pandas": _PANDAS,
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.missing": "NA",
    "pandas._libs.tslibs.nattype": "_nat_unpickle",
    "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
    "pandas.arrays": (
        "ArrowStringArray BooleanArray DatetimeArray FloatingArray IntegerArray StringArray "
        "TimedeltaArray"
    ),
    # where pandas 2 says that these are
    "pandas.core.arrays.boolean": "BooleanArray BooleanDtype",
    "pandas.core.arrays.categorical": "Categorical",
    "pandas.core.arrays.datetimes": "DatetimeArray",
    "pandas.core.arrays.floating": "Float32Dtype Float64Dtype FloatingArray",
    "pandas.core.arrays.integer": (
        "Int8Dtype Int16Dtype Int32Dtype Int64Dtype IntegerArray "
        "UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype"
    ),
    "pandas.core.arrays.string_": "StringArray StringArrayNumpySemantics StringDtype",
    "pandas.core.arrays.string_arrow": "ArrowStringArray ArrowStringArrayNumpySemantics",
    "pandas.core.arrays.timedeltas": "TimedeltaArray",
    "pandas.core.dtypes.dtypes": "CategoricalDtype DatetimeTZDtype",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.datetimes": "DatetimeIndex _new_DatetimeIndex",
    "pandas.core.indexes.multi": "MultiIndex",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pandas.core.series": "Series",
    "pyarrow.lib": "_restore_array chunked_array py_buffer type_for_alias",
    "scgm_scvi.model.sharing._tables_in_pickles": "restored",
    "scvi.utils._attrdict": "attrdict",
    "torch": (
        "BFloat16Storage BoolStorage ByteStorage CharStorage DoubleStorage FloatStorage "
        "HalfStorage IntStorage LongStorage ShortStorage Size device"
    ),
    "torch._utils": "_rebuild_parameter _rebuild_tensor_v2",
}
_NAMES = frozenset(
    f"{module} {name}" for module, names in _HARMLESS.items() for name in names.split()
)

# All that torch.save writes. Opcodes that import by a name found elsewhere (STACK_GLOBAL, EXT,
# INST, OBJ, PERSID) are not among them.
_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE NEWOBJ BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET NONE "
    "NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS".split()
)
_ZIP = b"PK\x03\x04"  # by this torch.load tells its own format from older ones
_REMEDY = (
    "Opening it could run code of whoever made it. Ask for the model as an export, which can't "
    "(SCGM.from_export); or, if you trust where the file comes from, pass trusted=True to SCGM.load."
)


def model_file(path: str | os.PathLike, prefix: str | None = None) -> Path:
    """The pickle of a saved model, given its folder, or the file itself.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    path = Path(path)
    file = path if path.is_file() else path / f"{prefix or ''}model.pt"
    if file.is_file():
        return file
    if not path.is_dir():
        raise FileNotFoundError(f"{str(path)!r} does not exist: there is no saved model.")
    if (path / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{str(path)!r} holds an export, not a saved model. Load it with SCGM.from_export."
        )
    found = listed(sorted(p.name for p in path.iterdir()))
    raise FileNotFoundError(
        f"{str(path)!r} holds no {file.name!r}, the file of a saved model; it holds: {found}."
    )


def require_harmless(path: str | os.PathLike, prefix: str | None = None) -> None:
    """Raise unless a saved model, unpickled, imports only what saved models are made of.

    Nothing is unpickled to find out: the names are read off the opcodes. This keeps out files that
    run code by what they name. It is no sandbox: numpy and pandas believe the arrays that such a
    file describes, so an export is what to take from a stranger.

    Parameters
    ----------
    path
        Folder that ``save`` wrote, or the ``model.pt`` in it.
    prefix
        Of the file's name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, in another format, or names anything else.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"weights": torch.zeros(3)}, f"{folder}/model.pt")
    ...     require_harmless(folder)

    References
    ----------
    https://docs.python.org/3/library/pickle.html#restricting-globals
    """
    file = model_file(path, prefix)
    foreign, hidden = strange_names(file)
    if foreign:
        raise ValueError(
            f"{str(file)!r} is a pickle that names what no saved model needs: "
            f"{listed(foreign)}. {_REMEDY}"
        )
    if hidden:
        raise ValueError(
            f"{str(file)!r} is a pickle that may hide what it would import, in steps that "
            f"torch.save leaves out by default: {listed(hidden)}. {_REMEDY}"
        )


def strange_names(file: Path) -> tuple[list[str], list[str]]:
    """What a file would import that no saved model needs, and steps that none has.

    Raises
    ------
    ValueError
        If the file is damaged or in another format.
    """
    data = _pickle_of(file)
    foreign, hidden = set(), set()
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name not in _OPCODES:
                hidden.add(opcode.name)
            elif opcode.name == "GLOBAL":
                # pickletools undoes backslashes, which unpickling does not: compare the bytes too
                name, start = str(argument), (position or 0) + 1
                raw = name.replace(" ", "\n").encode() + b"\n"
                if name not in _NAMES or not data.startswith(raw, start):
                    foreign.add(name.replace(" ", "."))
    except (ValueError, IndexError) as e:
        raise ValueError(f"{str(file)!r} is damaged ({e}). Get it again.") from e
    return sorted(foreign), sorted(hidden)


def _pickle_of(file: Path) -> bytes:
    """What ``torch.load`` would unpickle, found by the reader that it finds it with."""
    with file.open("rb") as opened:
        if opened.read(len(_ZIP)) != _ZIP:
            raise ValueError(
                f"{str(file)!r} is not of the format that torch.save writes, or damaged; what it "
                f"would import can't be told. {_REMEDY}"
            )
        opened.seek(0)
        try:
            reader = torch._C.PyTorchFileReader(opened)
            if "constants.pkl" in reader.get_all_records():
                raise ValueError(f"{str(file)!r} is a TorchScript program, no saved model.")
            return reader.get_record("data.pkl")
        except RuntimeError as e:  # torch's error; its text is about its own source
            raise ValueError(f"{str(file)!r} is damaged: cut short, perhaps. Get it again.") from e
